"""Starts run_gpu.py many times without importing torch as often: python -m tests.support.fork_host

Each line but an empty one on stdin is JSON {"argv": [...], "log": path, "stop": [batch, signal] or null}. A child of
this process, which has imported everything and computed nothing, runs the script as its own; back come two lines, its
process id and, when it has ended, its status (negative: the signal that ended it); an empty line lets it go. Every
batch that is given to the engine adds a line with its size to the log; at the batch `stop` the child gets the signal.
"""

import json
import os
import signal
import sys
from typing import NoReturn

import torch

import run_gpu
import videobench.run.runner  # noqa: F401
from videobench.cli import run_script
from videobench.model import engine


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            run(**order)
        print(child, flush=True)
        ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        print(ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status, flush=True)
        sys.stdin.readline()  # whoever wants to send it a signal has done so: its number may be given to another
        os.waitpid(child, 0)


def run(argv: list[str], log: str, stop: list[int] | None) -> NoReturn:
    torch.set_num_threads(1)
    # As in a terminal, where the tests themselves were started by nohup or in the background: those ignore two of them.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    note_batches(log, stop)
    status = 70  # of a traceback
    try:
        status = run_script(lambda: run_gpu.main(argv))
    finally:
        os._exit(status)


def note_batches(log: str, stop: list[int] | None) -> None:
    answer, calls = engine.Engine.answer, []

    def noted(self, videos, batch_size):
        with open(log, "a") as file:
            print(sum(len(video.prompts) for video in videos), file=file)
        calls.append(len(videos))
        if stop and len(calls) == stop[0]:
            os.kill(os.getpid(), stop[1])
        return answer(self, videos, batch_size)

    engine.Engine.answer = noted


if __name__ == "__main__":
    main()
