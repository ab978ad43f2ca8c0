"""Processes of one job: each piece of work once, one word for all, and none left waiting for one that failed."""

import json
import subprocess
import sys

import pytest

from videobench.errors import InputError
from videobench.jobs.job import Job

WORKER = """
import json, os, sys, time
from videobench.jobs import heartbeats
from videobench.jobs import job
from videobench.errors import OtherProcessFailed, ProcessLost
from videobench.jobs.job import Job, stop_others

mode = sys.argv[1]
heartbeats.SILENCE_S, heartbeats.BEAT_S = 1.0, 0.1
job._connect()
job.CONNECT /= 300  # 2 s from here on
if os.environ["RANK"] == "1" and mode == "before-its-hello":
    stop_others()
    sys.exit(0)
if os.environ["RANK"] == "1" and mode == "never-comes":
    time.sleep(4)  # it serves no store, and is as good as gone
    sys.exit(0)
try:
    own = Job.from_environment()
    sent = own.broadcast("numbers", [5, 7] if own.is_first else None)
    if mode == "silent" and own.replica == 1:
        own.close()
        time.sleep(4)
        sys.exit(0)
    own.store.add("here", 1)  # both begin together
    own._poll(lambda: own.store.add("here", 0) == 2 or mode == "silent", range(2))
    claimed = []
    for number in own.claim(40):
        claimed.append(number)
        if mode == "while-claiming" and own.replica == 1:
            stop_others()
            own.close()
            sys.exit(0)
        time.sleep(0.1 if own.replica else 0.02)  # process 1 has a slow card
    if mode == "while-waiting" and own.replica == 1:
        time.sleep(0.5)
        stop_others()
        own.close()
        sys.exit(0)
    own.wait_for_all()
    print(json.dumps([own.replica, sent, claimed]))
    own.close()
except (OtherProcessFailed, ProcessLost) as error:
    own.close() if "own" in globals() else None
    print(json.dumps([type(error).__name__, len(globals().get("claimed", ()))]))
"""


def run_two(mode, port):
    variables = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, mode],
            env={"PATH": "", "PYTHONPATH": ":".join(sys.path), **variables, "RANK": str(each), "LOCAL_RANK": str(each)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for each in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    return [json.loads(output) if output else None for output in outputs]


@pytest.fixture
def free_port():
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_work_is_claimed_once_and_the_slow_process_gets_less(free_port):
    [first, second] = run_two("work", free_port)
    assert first[1] == second[1] == [5, 7]
    assert sorted(first[2] + second[2]) == list(range(40))
    assert len(first[2]) > len(second[2]) > 0


@pytest.mark.parametrize(
    ("mode", "error", "least", "most"),
    [
        pytest.param("before-its-hello", "OtherProcessFailed", 0, 0, id="before-its-hello"),
        pytest.param("while-claiming", "OtherProcessFailed", 0, 38, id="while-the-other-claims"),
        pytest.param("while-waiting", "OtherProcessFailed", 1, 40, id="while-the-other-waits"),
        pytest.param("never-comes", "ProcessLost", 0, 0, id="never-comes"),
        pytest.param("silent", "ProcessLost", 40, 40, id="falls-silent"),
    ],
)
def test_nobody_waits_for_a_process_that_failed_or_is_gone(free_port, mode, error, least, most):
    """`least` and `most` are what the other one has claimed when it hears of it."""
    [first, second] = run_two(mode, free_port)
    assert second is None
    assert first[0] == error
    assert least <= first[1] <= most


def test_without_torchrun_there_is_one_process(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    job = Job.from_environment()
    assert (job.replica, job.num_replicas, job.is_first) == (0, 1, True)
    assert job.broadcast("plan", "plan") == "plan"
    assert (job.count(2), job.count(3)) == (2, 5)
    assert list(job.claim(3)) == [0, 1, 2]
    job.wait_for_all()


@pytest.mark.parametrize("name", ["WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_RANK"])
def test_an_environment_that_is_no_number_is_refused(monkeypatch, name):
    monkeypatch.setenv(name, "two")
    with pytest.raises(InputError, match=f"{name}.* is not a number .*'two'"):
        Job.from_environment()


def test_half_an_environment_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(InputError, match="use torchrun"):
        Job.from_environment()
