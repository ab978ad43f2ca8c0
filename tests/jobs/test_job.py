"""Processes of one job: each piece of work once, one word for all, and no rank left waiting for one that failed."""

import json
import subprocess
import sys

import pytest

from videobench.errors import InputError
from videobench.jobs.job import Ranks

WORKER = """
import json, os, sys, time
from videobench.jobs import heartbeats
from videobench.jobs import job as ranks
from videobench.errors import OtherRankFailed, ProcessLost
from videobench.jobs.job import Ranks, stop_others

mode = sys.argv[1]
heartbeats.SILENCE_S, heartbeats.BEAT_S = 1.0, 0.1
ranks._connect()
ranks.CONNECT /= 300  # 2 s from here on
if os.environ["RANK"] == "1" and mode == "before-its-hello":
    stop_others()
    sys.exit(0)
if os.environ["RANK"] == "1" and mode == "never-comes":
    time.sleep(4)  # it serves no store, and is as good as gone
    sys.exit(0)
try:
    own = Ranks.from_environment()
    shared = own.share([5, 7] if own.is_first else None)
    if mode == "silent" and own.rank == 1:
        own.close()
        time.sleep(4)
        sys.exit(0)
    own.store.add("here", 1)  # both begin together
    own._poll(lambda: own.store.add("here", 0) == 2 or mode == "silent", range(2))
    drawn = []
    for number in own.draw(40):
        drawn.append(number)
        if mode == "while-drawing" and own.rank == 1:
            stop_others()
            own.close()
            sys.exit(0)
        time.sleep(0.1 if own.rank else 0.02)  # rank 1 is a slow card
    if mode == "while-waiting" and own.rank == 1:
        time.sleep(0.5)
        stop_others()
        own.close()
        sys.exit(0)
    own.wait_for_all()
    print(json.dumps([own.rank, shared, drawn]))
    own.close()
except (OtherRankFailed, ProcessLost) as error:
    own.close() if "own" in globals() else None
    print(json.dumps([type(error).__name__, len(globals().get("drawn", ()))]))
"""


def run_ranks(mode, port):
    variables = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, mode],
            env={"PATH": "", "PYTHONPATH": ":".join(sys.path), **variables, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
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


def test_work_is_drawn_once_and_the_slow_rank_gets_less(free_port):
    [first, second] = run_ranks("work", free_port)
    assert first[1] == second[1] == [5, 7]
    assert sorted(first[2] + second[2]) == list(range(40))
    assert len(first[2]) > len(second[2]) > 0


@pytest.mark.parametrize(
    ("mode", "error", "least", "most"),
    [
        pytest.param("before-its-hello", "OtherRankFailed", 0, 0, id="before-its-hello"),
        pytest.param("while-drawing", "OtherRankFailed", 0, 38, id="while-the-other-draws"),
        pytest.param("while-waiting", "OtherRankFailed", 1, 40, id="while-the-other-waits"),
        pytest.param("never-comes", "ProcessLost", 0, 0, id="never-comes"),
        pytest.param("silent", "ProcessLost", 40, 40, id="falls-silent"),
    ],
)
def test_nobody_waits_for_a_rank_that_failed_or_is_gone(free_port, mode, error, least, most):
    """`least` and `most` are what the other one has drawn when it hears of it."""
    [first, second] = run_ranks(mode, free_port)
    assert second is None
    assert first[0] == error
    assert least <= first[1] <= most


def test_without_torchrun_there_is_one_rank(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    ranks = Ranks.from_environment()
    assert (ranks.rank, ranks.world_size, ranks.is_first) == (0, 1, True)
    assert ranks.share("plan") == "plan"
    assert ranks.share_status(1) == 1
    assert (ranks.count(2), ranks.count(3)) == (2, 5)
    assert list(ranks.draw(3)) == [0, 1, 2]
    ranks.wait_for_all()


@pytest.mark.parametrize("name", ["WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_RANK"])
def test_an_environment_that_is_no_number_is_refused(monkeypatch, name):
    monkeypatch.setenv(name, "two")
    with pytest.raises(InputError, match=f"{name}.* is no number .*'two'"):
        Ranks.from_environment()


def test_half_an_environment_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(InputError, match="use torchrun"):
        Ranks.from_environment()
