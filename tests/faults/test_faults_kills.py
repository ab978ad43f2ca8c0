"""Runs that end in the middle, by signals or by a journal that lost its end. Nothing answered is lost, nothing but one
batch is computed twice, and the final result is, byte by byte, that of an undisturbed run. What was in flight at a kill
fails in the next start, and is answered by the one after it. Kills at random moments: tests/attack.py."""

import json
import shutil
import signal

import pytest

from tests.support.fault_tools import Bench
from tests.support.noted_run import NotedRuns


@pytest.fixture
def runs(tmp_path):
    return NotedRuns(tmp_path / "batches")


@pytest.fixture
def bench(tmp_path, capsys):
    return Bench(tmp_path, capsys)


def undisturbed(bench, runs, argv):
    """(bytes of the result, questions of the largest batch)"""
    runs.computed()
    assert runs.finish(argv) == 0
    result = bench.result.read_bytes()
    assert runs.computed() == len(json.loads(result))
    videos = [row["vid_path"] for row in json.loads(result).values()]
    shutil.rmtree(bench.folder / "out")
    return result, max(videos.count(video) for video in videos)


def go_on(bench, runs, argv, expected, batch, may_fail=True):
    """Starts until all is answered: twice if a batch was in flight at the death. How many questions failed once."""
    kept = whole_lines(bench)
    status, failed = runs.finish(argv), []
    if may_fail and status == 1:
        failed = [row["error"] for row in json.loads(bench.result.read_bytes()).values() if "error" in row]
        assert failed
        assert all("a process died while it worked on this video" in reason for reason in failed)
        status = runs.finish(argv)
    assert status == 0
    assert bench.result.read_bytes() == expected
    assert whole_lines(bench)[: len(kept)] == kept
    assert len(whole_lines(bench)) == 1 + len(json.loads(expected)) + len(failed)
    assert runs.computed() <= len(json.loads(expected)) + batch
    shutil.rmtree(bench.folder / "out")
    return len(failed)


def whole_lines(bench):
    return bench.journal.read_bytes().split(b"\n")[:-1] if bench.journal.exists() else []


def test_a_kill_costs_the_batch_in_flight_which_fails_once(bench, runs):
    """All batches before it are in the journal: each is there before the next is computed."""
    argv = bench.run_flags("--limit", 24)
    expected, batch = undisturbed(bench, runs, argv)
    assert runs.finish(argv, stop=(3, signal.SIGKILL)) == -signal.SIGKILL
    *before, last = runs.computed_batches()
    assert len(before) == 2
    assert len(whole_lines(bench)) == 1 + sum(before)
    assert go_on(bench, runs, argv, expected, batch) == last


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_stopped_goes_on_where_it_was(bench, runs, number):
    argv = bench.run_flags("--limit", 24)
    expected, batch = undisturbed(bench, runs, argv)
    status = runs.finish(argv, stop=(3, number))
    assert whole_lines(bench)
    go_on(bench, runs, argv, expected, batch, may_fail=False)
    assert status == 128 + number


def untimed(journal):
    return [{name: value for name, value in json.loads(line).items() if name != "at"} for line in journal.splitlines()]


def test_a_journal_that_lost_its_end_goes_on_to_the_same_result(bench):
    """As after a power failure: some questions of a video are answered, and the others are answered as they would have
    been with them."""
    flags = ("--limit", 16)
    assert bench.answer(*flags).status == 0
    expected, journal = bench.result.read_bytes(), bench.journal.read_bytes()
    ends = [at for at, byte in enumerate(journal) if byte == ord("\n")]
    for end in ends[1:-1:3]:
        bench.journal.write_bytes(journal[: end + 1 + 50])  # with half of the next line
        bench.result.unlink()
        assert bench.answer(*flags).status == 0
        assert bench.result.read_bytes() == expected
        assert untimed(bench.journal.read_bytes()) == untimed(journal)
