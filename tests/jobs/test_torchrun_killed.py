"""A torchrun that is killed takes its processes with it, and a port that cannot be used is named before it starts."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.paths import ROOT

LAUNCHER = "run_pa_videobench_gpu.sh"
# Python imports this module at its start: a process that has taken videos writes down who it is, and waits.
SITE = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
if "TORCHELASTIC_RUN_ID" in os.environ:
    from videobench.jobs.crashes import Attempts
    def held(self, videos):
        open(os.environ["THERE"], "a").write(f"{{os.getpid()}}\\n")
        while True:
            time.sleep(0.05)
    Attempts.take = held
"""


def is_running(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(is_true, seconds):
    until = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.slow
def test_a_torchrun_that_is_killed_takes_its_processes_with_it(tmp_path, tiny_model_path, qa_root, video_root):
    (tmp_path / "sitecustomize.py").write_text(SITE)
    (tmp_path / "temporary").mkdir()
    there, err = tmp_path / "there", tmp_path / "err"
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "THERE": str(there)}
    environment |= {"CUDA_VISIBLE_DEVICES": "0,1", "PYTHONPATH": str(tmp_path), "TMPDIR": f"{tmp_path}/temporary"}
    environment.pop("MASTER_PORT", None)
    command = ["bash", ROOT / LAUNCHER, "MSVD", qa_root, video_root, tiny_model_path, tmp_path / "out"]
    with err.open("w") as file:
        launcher = subprocess.Popen(
            [*command, "--device", "cpu", "--num_workers", "0"], env=environment, stdout=file, stderr=file
        )
    wait_until(lambda: there.exists() and len(set(there.read_text().split())) == 2, 120)
    processes = [int(each) for each in set(there.read_text().split())]
    torchrun = int(Path(f"/proc/{processes[0]}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(torchrun, signal.SIGKILL)
    assert launcher.wait(10) == 70
    wait_until(lambda: not any(map(is_running, processes)), 10)
    assert "error: torchrun was killed (status 137): why stands above" in err.read_text()
    assert f"{LAUNCHER} MSVD" in err.read_text().partition("; to go on: CUDA_VISIBLE_DEVICES=0,1 bash ")[2]
    assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.parametrize("port", ["abc", "999999"])
def test_a_port_that_is_none_is_refused(run_command, port):
    done = run_command("bash", LAUNCHER, "MSVD", "qa", "videos", "model", "out", MASTER_PORT=port)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: MASTER_PORT is '{port}', not a port's number; unset it, or choose one\n"


def test_a_port_in_use_is_refused(run_command):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        done = run_command("bash", LAUNCHER, "MSVD", "qa", "videos", "model", "out", MASTER_PORT=port)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: MASTER_PORT {port} is in use by another process; unset it, or choose another\n"
