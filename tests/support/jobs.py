"""Jobs of several processes for the tests: a fork (tests/support/forks.py) becomes torchrun's own agent; its ranks,
which run run_gpu.py, are forks of it.

Beside torchrun's flags and those of run_gpu.py an order says:

- A rank that takes one of the videos `poison` in hand kills itself; with `die_at_end` the last rank of the first start
  does so when all is done.
- When `hold` replies are in the journals of the folder `out`, the ranks wait, each with a batch in hand, until there is
  a file `go`.
- A process is lost after `silence` seconds without a beat.
"""

import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from tests.support.forks import call_script, fork, set_default_signals

TIMEOUT_S = 300.0
MOST_PROCESSES = 64


class Job:
    """One torchrun with its ranks."""

    def __init__(self, process, folder):
        self.process = process
        self.folder = folder

    @property
    def err(self):
        return (self.folder / "err").read_text()

    def ranks(self):
        """Process ids."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        try:
            return [int(each) for each in children.read_text().split()]
        except OSError:
            return []

    def is_running(self):
        return self.process.is_alive()

    def wait(self):
        """The status that the launchers would end with."""
        self.process.join(TIMEOUT_S)
        assert not self.is_running(), self.err
        status = (self.folder / "status").read_text().strip()
        return None if status == "none" else int(status)

    def go(self):
        """No more waiting at `hold`."""
        (self.folder / "go").touch()

    def kill(self):
        """All of its processes."""
        for process in [self.process.pid, *self.ranks()]:
            kill(process, signal.SIGKILL)


class Jobs:
    """Starts them, each with a folder of its own."""

    def __init__(self, folder):
        self._folder = folder
        self._started = []

    def start(self, argv, processes, more=(), beside=None, **order):
        """`beside` is the job under the other agent if there are two; `order`: see above."""
        folder = self._folder / str(len(self._started))
        (folder / "forked").mkdir(parents=True)
        (folder / "status").write_text("none\n")
        flags = ["--nproc_per_node", str(processes), "--max_restarts", "3"]
        # As torchrun's --standalone does: the port is the one that was free when it was taken.
        flags += more or ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0", "--rdzv_id", folder.name]
        usual = {"poison": [], "hold": 10**9, "silence": 60.0, "die_at_end": False}
        usual |= {"go": folder / "go", "out": argv[argv.index("--chat_conversation_output_folder") + 1]}
        arguments = (flags, argv, (beside.folder if beside else folder) / "forked", usual | order)
        environment = {"VIDEOBENCH_STATUS_FILE": f"{folder}/status", "TMPDIR": str(folder)}
        job = Job(fork(become_torchrun, *arguments, err=folder / "err", **environment), folder)
        self._started.append(job)
        return job

    def finish(self, argv, processes, **order):
        job = self.start(argv, processes, **order)
        assert job.wait() == 0, job.err
        return job

    def close(self):
        """Ends what a test that failed has left."""
        for job in self._started:
            if job.is_running():
                job.kill()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def kill(process, number):
    try:
        os.kill(process, number)
    except ProcessLookupError:
        return False
    return True


def state_of(process):
    """The kernel's letter, such as S if it sleeps; Z if it has ended, whether its parent knows it or not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


# --- In the fork ---


class WorkersMayEnd:
    """In place of multiprocessing's Event, whose `set` hangs if a waiting process is killed at that moment. The real
    torchrun starts its processes as commands and has no such event."""

    def __init__(self) -> None:
        self._receiver, self._sender = os.pipe()

    def wait(self) -> None:
        os.read(self._receiver, 1)

    def set(self) -> None:
        os.write(self._sender, b"." * MOST_PROCESSES)


def become_torchrun(torchrun_flags: list[str], argv: list[str], forked: Path, order: dict[str, Any]) -> NoReturn:
    import torch.distributed.run as torchrun
    from torch.distributed.elastic.multiprocessing.api import MultiprocessContext
    from torch.distributed.launcher.api import elastic_launch

    initialise = MultiprocessContext.__init__

    def initialised(self, *arguments, **more):
        initialise(self, *arguments, **more)
        self._worker_finished_event = WorkersMayEnd()

    MultiprocessContext.__init__ = initialised

    config, _, _ = torchrun.config_from_args(torchrun.parse_args([*torchrun_flags, "run_gpu.py"]))
    config.start_method = "fork"
    ended = 1
    try:
        elastic_launch(config, be_rank)(argv, forked, order)
        ended = 0
    except BaseException as error:
        print(f"torchrun: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(ended)


def be_rank(argv: list[str], forked: Path, order: dict[str, Any]) -> None:
    from videobench.jobs import job as heartbeats
    from videobench.run.journals import InFlight

    set_default_signals()
    wait_for_forks(forked)
    take = InFlight.take

    def taken(self, videos):
        videos = list(videos)
        take(self, videos)
        if {*order["poison"]} & {video.name for video in videos}:
            os.kill(os.getpid(), signal.SIGKILL)
        while count_replies(Path(order["out"])) >= order["hold"] and not Path(order["go"]).exists():
            time.sleep(0.005)

    InFlight.take = taken
    heartbeats.SILENCE_S, heartbeats.BEAT_S = order["silence"], order["silence"] / 20
    status = call_script("run_gpu", argv)
    is_last = int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1
    if order["die_at_end"] and is_last and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
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
