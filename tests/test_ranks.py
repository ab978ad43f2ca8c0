"""Processes of one job: each piece of work once, one word for all, and no rank left waiting for one that failed."""

import json
import subprocess
import sys

import pytest

from videobench.errors import InputError
from videobench.ranks import Ranks

WORKER = """
import json, sys, time
from videobench.errors import OtherRankFailed
from videobench.ranks import Ranks, stop_others

ranks = Ranks.from_environment()
mode = sys.argv[1]
try:
    shared = ranks.share([5, 7] if ranks.is_first else None)
    if mode == "fail" and ranks.rank == 1:
        stop_others()
        sys.exit(0)
    ranks.store.add("here", 1)  # both begin together
    ranks._poll(lambda: ranks.store.add("here", 0) == 2)
    drawn = []
    for number in ranks.draw(40):
        drawn.append(number)
        time.sleep(0.1 if ranks.rank else 0.02)  # rank 1 is a slow card
    ranks.wait_for_all()
    while mode == "fail":  # rank 0 has nothing left to draw: it must still hear of the other's end
        ranks.draw(10**9).__next__()
    print(json.dumps([ranks.rank, shared, drawn]))
except OtherRankFailed:
    print(json.dumps("stopped"))
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


def test_a_rank_that_failed_stops_the_others(free_port):
    assert run_ranks("fail", free_port) == ["stopped", None]


def test_without_torchrun_there_is_one_rank(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    ranks = Ranks.from_environment()
    assert (ranks.rank, ranks.world_size, ranks.is_first) == (0, 1, True)
    assert ranks.share("plan") == "plan"
    assert ranks.share_status(1) == 1
    assert (ranks.count(2), ranks.count(3)) == (2, 5)
    assert list(ranks.draw(3)) == [0, 1, 2]
    ranks.wait_for_all()


def test_half_an_environment_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(InputError, match="use torchrun"):
        Ranks.from_environment()
