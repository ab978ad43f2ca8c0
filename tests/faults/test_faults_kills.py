"""Runs that end in the middle, by signals or by a journal that lost its end. Nothing answered is lost or computed
twice, and the final result is, byte by byte, that of an undisturbed run. Kills at random moments: tests/attack.py."""

import json
import shutil
import signal

import pytest

from tests.support.fault_tools import Bench
from tests.support.noted_run import run_noted


@pytest.fixture
def bench(tmp_path, capsys):
    return Bench(tmp_path, capsys)


def whole_lines(bench):
    return bench.journal.read_bytes().split(b"\n")[:-1]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_stopped_goes_on_where_it_was(bench, tmp_path, number):
    """Each batch is in the journal before the next one is computed. What a kill interrupts fails in the next start."""
    argv, log = bench.run_flags("--limit", 24), tmp_path / "batches"
    status, undisturbed = run_noted(argv, log)
    assert (status, sum(undisturbed)) == (0, 24)
    expected = bench.result.read_bytes()
    shutil.rmtree(bench.folder / "out")

    is_kill = number == signal.SIGKILL
    status, [*before, in_flight] = run_noted(argv, log, stop=(3, number))
    assert status == (-number if is_kill else 128 + number)
    kept = whole_lines(bench)
    assert len(before) == 2
    assert len(kept) == 1 + sum(before)
    after = []
    if is_kill:
        status, after = run_noted(argv, log)
        assert status == 1
        reasons = [row["error"] for row in json.loads(bench.result.read_bytes()).values() if "error" in row]
        assert len(reasons) == in_flight
        assert all("a process died while it worked on this video" in reason for reason in reasons)
    status, last = run_noted(argv, log)
    assert status == 0
    assert bench.result.read_bytes() == expected
    assert sum(after + last) == 24 - sum(before)
    assert whole_lines(bench)[: len(kept)] == kept
    assert len(whole_lines(bench)) == 1 + 24 + (in_flight if is_kill else 0)


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
