"""Jobs of several processes for the tests: torchrun's own agent and its ranks (tests/support/torchrun_fork.py)."""

import os
import signal
import socket
from pathlib import Path

from tests.support.forks import fork
from tests.support.torchrun_fork import become_torchrun

TIMEOUT_S = 300.0


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
        """`beside` is the job under the other agent if there are two; `order`: see torchrun_fork.py."""
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
