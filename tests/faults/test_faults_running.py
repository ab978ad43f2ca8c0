"""What happens while a run goes on: files that vanish, devices that fail. What was answered stays answered,
and the status tells what happened."""

import json
import os
import shutil
from dataclasses import replace

import pytest

from tests.support.fault_tools import Bench, assert_refused
from videobench.files import write_json
from videobench.model.engine import Engine
from videobench.run.journals import Journals
from videobench.run.loop import MOST_FAILURES_IN_A_ROW


@pytest.fixture
def bench(tmp_path, capsys):
    return Bench(tmp_path / "data", capsys).shorten(24)


@pytest.fixture
def after_batch(monkeypatch):
    """Calls something once, when the first two batches are stored."""

    def arrange(action):
        append, calls = Journals.append, []

        def then(self, rows, stamps):
            append(self, rows, stamps)
            calls.append(rows)
            if len(calls) == 3:  # the first call stores what cannot be asked
                action()

        monkeypatch.setattr(Journals, "append", then)

    return arrange


MISALIGNED = RuntimeError("CUDA error: misaligned address\nCUDA kernel errors might be\x1b[2J")


@pytest.fixture
def failing_device(monkeypatch):
    """The engine raises once it has answered so many batches."""

    def arrange(good, error=MISALIGNED):
        answer, calls = Engine.answer, []

        def then(self, videos, batch_size):
            calls.append(videos)
            if len(calls) > good:
                raise error
            return answer(self, videos, batch_size)

        monkeypatch.setattr(Engine, "answer", then)

    return arrange


@pytest.mark.parametrize(
    "action",
    [
        pytest.param(lambda bench: bench.journal.unlink(), id="journal-deleted"),
        pytest.param(lambda bench: shutil.rmtree(bench.folder / "out"), id="output-folder-deleted"),
        pytest.param(lambda bench: bench.qa.unlink(), id="questions-deleted"),
        pytest.param(lambda bench: shutil.rmtree(bench.model), id="checkpoint-deleted"),
        pytest.param(lambda bench: os.truncate(bench.qa, 100), id="questions-cut-short"),
    ],
)
def test_a_run_does_not_need_files_that_vanish_meanwhile(bench, after_batch, action, tmp_path):
    bench.model = shutil.copytree(bench.model, tmp_path / bench.model.name)
    assert bench.answer().status == 0
    expected = bench.result.read_bytes()
    shutil.rmtree(bench.folder / "out")
    after_batch(lambda: action(bench))
    outcome = bench.answer()
    assert outcome.status == 0
    assert bench.result.read_bytes() == expected
    assert bench.journal.read_bytes().count(b"\n") == 1 + len(json.loads(expected))


def test_an_unforeseen_error_keeps_its_traceback(bench, failing_device):
    failing_device(0, TypeError("nobody foresaw this"))
    outcome = bench.answer("--limit", 1)
    assert outcome.status == 70
    assert "TypeError: nobody foresaw this" in outcome.err


def test_a_result_whose_journal_was_deleted_is_not_written_over(bench):
    assert bench.answer().status == 0
    result = bench.result.read_bytes()
    shutil.rmtree(bench.journal.parent)
    assert_refused(bench.answer("--limit", 1), bench.result, "its journal is gone")
    assert bench.result.read_bytes() == result
    assert bench.answer("--limit", 1, "--overwrite").status == 0


def test_a_damaged_first_line_of_a_journal_is_refused_with_its_fix(bench):
    assert bench.answer("--limit", 1).status == 0
    bench.journal.write_bytes(b"\0" + bench.journal.read_bytes())
    found = f"line 1 .* remove this file and {bench.result.name}: its questions are then"
    before = bench.contents()
    assert_refused(bench.answer("--limit", 1), bench.journal, found)
    assert bench.contents() == before
    for path in (bench.journal, bench.result):
        path.unlink()
    assert bench.answer("--limit", 1).status == 0


def test_a_journal_that_is_replaced_ends_the_run(bench, after_batch):
    after_batch(lambda: write_json(bench.journal, {}))
    assert_refused(bench.answer(), bench.journal, "was replaced while this run wrote to it")


def test_a_device_that_answers_nothing_any_more_ends_the_run(bench, failing_device, monkeypatch):
    failing_device(1)
    outcome = bench.answer()
    assert outcome.status == 2
    found = f"{MOST_FAILURES_IN_A_ROW} questions in a row failed, .*what was answered is kept"
    assert_refused(replace(outcome, err=outcome.err.splitlines(keepends=True)[-1]), "", found)
    [failed, *_] = [line for line in outcome.err.splitlines() if "failed: " in line]
    assert "\x1b" not in failed
    kept = bench.journal.read_bytes()
    monkeypatch.undo()
    assert bench.answer().status == 1  # what was in flight may have been the cause: it fails once
    assert bench.answer().status == 0
    assert bench.journal.read_bytes().startswith(kept)
