"""Starts jobs under torchrun's agent without importing torch for each process: python -m tests.support.torchrun_host

Each line on stdin is JSON: the arguments of `become_torchrun`. A child of this process, which has imported everything
and computed nothing, becomes torchrun with these flags, and its ranks, which run run_gpu.py, are forks of it; back
comes its process id. What they write goes to the file `err`. What else can be told:

- A rank that takes one of the videos `poison` in hand kills itself, but for rank `immune`; with `die_at_end` the last
  rank of the first start does so when all is done.
- When `hold` replies are in the journals of the folder `out`, the ranks wait, each with a batch in hand, until there is
  a file `go`.
- A process is lost after `silence` seconds without a beat.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed.run as torchrun
from torch.distributed.launcher.api import elastic_launch

import run_gpu
import videobench.model.engine
import videobench.run.runner  # noqa: F401
from videobench.cli import run_script
from videobench.jobs import crashes as attempts
from videobench.jobs import heartbeats

SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            become_torchrun(**order)
        print(child, flush=True)


def become_torchrun(
    torchrun_flags: list[str],
    argv: list[str],
    err: str,
    status: str,
    forked: str,
    **more: Any,
) -> NoReturn:
    os.setsid()
    for number in (*SIGNALS, signal.SIGCHLD):  # as in a terminal, whatever the tests were started by
        signal.signal(number, signal.SIG_DFL)
    file = os.open(err, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor, to in ((0, nowhere), (1, file), (2, file)):
        os.dup2(to, descriptor)
    os.environ["VIDEOBENCH_STATUS_FILE"] = status
    config, _, _ = torchrun.config_from_args(torchrun.parse_args([*torchrun_flags, "run_gpu.py"]))
    config.start_method = "fork"
    ended = 1
    try:
        elastic_launch(config, be_rank)(argv, Path(forked), more)
        ended = 0
    except BaseException as error:
        print(f"torchrun: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(ended)


def be_rank(argv: list[str], forked: Path, more: dict[str, Any]) -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    wait_for_forks(forked)
    torch.set_num_threads(1)
    take = attempts.Attempts.take

    def taken(self, videos):
        videos = list(videos)
        take(self, videos)
        if {*more["poison"]} & {video.name for video in videos} and os.environ["RANK"] != str(more["immune"]):
            os.kill(os.getpid(), signal.SIGKILL)
        while count_replies(Path(more["out"])) >= more["hold"] and not Path(more["go"]).exists():
            time.sleep(0.005)

    attempts.Attempts.take = taken
    heartbeats.SILENCE_S, heartbeats.BEAT_S = more["silence"], more["silence"] / 20
    status = run_script(lambda: run_gpu.main(argv))
    is_last = int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1
    if more["die_at_end"] and is_last and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        print("died at its end", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stderr.flush()
    if status:
        os._exit(status)


def count_replies(out: Path) -> int:
    return sum(path.read_bytes().count(b"\n") - 1 for path in out.glob("journal/*.rank*.jsonl"))


def wait_for_forks(forked: Path) -> None:
    """Returns when all ranks of the job have been forked.

    Whoever connects to the agent's store makes a thread of the agent look up a name. A rank that is forked meanwhile
    gets a copy of the C library's lock, held for ever, and hangs as soon as it connects itself."""
    (forked / str(os.getpid())).touch()
    while sum(Path("/proc", each).exists() for each in os.listdir(forked)) < int(os.environ["WORLD_SIZE"]):
        time.sleep(0.005)


if __name__ == "__main__":
    main()
