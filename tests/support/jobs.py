"""Jobs of several processes for the tests, started by tests/support/torchrun_host.py."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.support.paths import ROOT

TIMEOUT_S = 300.0


class Job:
    """One torchrun with its ranks."""

    def __init__(self, process, folder):
        self.process = process
        self.folder = folder

    @property
    def err(self):
        path = self.folder / "err"
        return path.read_text() if path.exists() else ""

    def ranks(self):
        """Process ids."""
        children = Path(f"/proc/{self.process}/task/{self.process}/children")
        try:
            return [int(each) for each in children.read_text().split()]
        except OSError:
            return []

    def is_running(self):
        try:
            return Path(f"/proc/{self.process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    def wait(self):
        """The status that the launchers would end with."""
        until = time.monotonic() + TIMEOUT_S
        while self.is_running():
            assert time.monotonic() < until, self.err
            time.sleep(0.02)
        status = self.folder / "status"
        return int(status.read_text().split()[1]) if status.exists() else None

    def go(self):
        """No more waiting at `hold`."""
        (self.folder / "go").touch()

    def kill(self, number=signal.SIGKILL):
        """All of its processes."""
        for process in [self.process, *self.ranks()]:
            kill(process, number)


class Host:
    """tests/support/torchrun_host.py, and the jobs that it starts."""

    def __init__(self, folder):
        self._folder = folder
        self._count = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.torchrun_host"],
            cwd=ROOT,
            env=os.environ | {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, argv, processes, more=(), beside=None, **told):
        """`beside` is the job under the other agent, where there are two; `told`: see torchrun_host.py."""
        self._count += 1
        folder = self._folder / str(self._count)
        (folder / "forked").mkdir(parents=True)
        flags = ["--nproc_per_node", str(processes), "--max_restarts", "3"]
        # As torchrun's --standalone does: the port is the one that was free when it was taken.
        flags += more or ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0", "--rdzv_id", folder.name]
        order = {"torchrun_flags": flags, "argv": argv, "err": f"{folder}/err", "status": f"{folder}/status"}
        order |= {"forked": f"{(beside.folder if beside else folder) / 'forked'}", "go": f"{folder}/go"}
        order |= {"out": argv[argv.index("--chat_conversation_output_folder") + 1]}
        usual = {"poison": [], "immune": None, "hold": 10**9, "silence": 60.0, "die_at_end": False}
        self._process.stdin.write(json.dumps(order | usual | told) + "\n")
        self._process.stdin.flush()
        return Job(int(self._process.stdout.readline()), folder)

    def finish(self, argv, processes, **more):
        job = self.start(argv, processes, **more)
        assert job.wait() == 0, job.err
        return job

    def close(self):
        self._process.stdin.close()
        self._process.wait()


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
