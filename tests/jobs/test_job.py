"""Processes of one job: each piece of work is done once, and nobody waits for a process that has failed."""

import socket
from types import SimpleNamespace

import pytest

from tests.support.forks import CONTEXT, fork
from tests.support.job_process import claim_numbers
from tests.support.jobs import free_port
from videobench.errors import InputError
from videobench.jobs.job import Job, limit_held

TIMEOUT_S = 120


@pytest.fixture
def run_two(tmp_path):
    """What each of two processes sends, None if it sends nothing; the second is killed when the first has ended."""

    def run(mode):
        job = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        processes, results = [], []
        for each in "01":
            receive, send = CONTEXT.Pipe(duplex=False)
            number = {"RANK": each, "LOCAL_RANK": each}
            processes.append(fork(claim_numbers, mode, send, err=tmp_path / f"err{each}", **job, **number))
            results.append(receive)
        first, second = processes
        first.join(TIMEOUT_S)
        assert first.exitcode == 0, (tmp_path / "err0").read_text()
        if mode in ("never-comes", "silent"):
            second.kill()
        second.join(TIMEOUT_S)
        return [receive.recv() if receive.poll() else None for receive in results]

    return run


def test_work_is_drawn_once_and_the_slow_rank_gets_less(run_two):
    [first, second] = run_two("work")
    assert first[0] == second[0] == [5, 7]
    assert sorted(first[1] + second[1]) == list(range(40))
    assert len(first[1]) > len(second[1]) > 0


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
def test_nobody_waits_for_a_rank_that_failed_or_is_gone(run_two, mode, error, least, most):
    """`least` and `most` are what the other one has drawn when it hears of it."""
    [first, second] = run_two(mode)
    assert second is None
    assert first[0] == error
    assert least <= first[1] <= most


def test_without_torchrun_there_is_one_process(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    job = Job.from_environment()
    assert (job.replica, job.num_replicas, job.is_first) == (0, 1, True)
    assert job.broadcast("plan", "plan") == "plan"
    assert (job.count("done", 2), job.count("failed", 1), job.count("done", 3)) == (2, 1, 5)
    assert list(job.claim(3)) == [0, 1, 2]
    job.wait_for_all()


@pytest.mark.parametrize("port", ["99999999", None], ids=["no-port", "in-use"])
def test_an_environment_that_makes_no_job_is_refused(monkeypatch, port):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(InputError, match="use torchrun"):
        Job.from_environment()
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port or str(server.getsockname()[1])}
        for name, value in (place | {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(
            InputError, match=r"MASTER_PORT .*: the job has no store there .*; use torchrun, or another"
        ):
            Job.from_environment()


@pytest.mark.parametrize(
    ("replicas", "claimed", "held"),
    [
        pytest.param(1, 0, 120, id="alone"),
        pytest.param(2, 0, 10, id="at-the-beginning"),
        pytest.param(2, 60, 5, id="half-way"),
        pytest.param(2, 118, 1, id="near-the-end"),
        pytest.param(2, 120, 1, id="at-the-end"),
    ],
)
def test_a_replica_holds_less_the_less_is_left(replicas, claimed, held):
    """A sixth of its even part of 120 videos, so that all replicas end together."""
    job = SimpleNamespace(num_replicas=replicas, num_claimed=claimed)
    assert limit_held(job, [1.0] * 120)() == held
