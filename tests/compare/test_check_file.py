"""--check_file: what a file is, and what it lacks for which part of a comparison."""

import re

import pytest

from tests.support.fault_tools import Bench, assert_refused
from tests.support.paths import ASSETS

ENGINES = ASSETS / "engines"


@pytest.fixture
def bench(tmp_path, capsys):
    return Bench(tmp_path, capsys)


def counts(outcome):
    """Part -> (whether it is marked, how many replies have what it takes)."""
    rows = re.findall(r"^([ !]) (.{30}) .{28} (\d+) of \d+$", outcome.out, re.MULTILINE)
    return {part.strip(): (mark == "!", int(count)) for mark, part, count in rows}


@pytest.mark.parametrize(
    ("path", "kind", "failed", "logprobs", "question"),
    [
        ("vllm-0.32.0.jsonl", "OpenAI batch output", 0, (False, 12), (True, 0)),
        ("aisbench-3.1/videobench.jsonl", "AISBench predictions", 1, (True, 0), (False, 11)),
    ],
)
def test_what_other_engines_files_have(bench, path, kind, failed, logprobs, question):
    outcome = bench.start("precision_test", "--check_file", ENGINES / path)
    assert outcome.status == 0
    assert f"{path}: {kind}, 12 replies, {failed} of them failed" in outcome.out
    found = counts(outcome)
    assert found["accuracy"] == (False, 12 - failed)
    assert (found["smoothed accuracy, divergence"], found["same question?"]) == (logprobs, question)


def test_a_run_lacks_nothing(bench):
    bench.shorten(2).answer()
    outcome = bench.start("precision_test", "--check_file", bench.result)
    assert counts(outcome)
    assert set(counts(outcome).values()) == {(False, 2)}


def test_a_file_that_is_none_is_refused(bench):
    path = bench.folder / "x.json"
    path.write_text('{"MSVD/1": "A"}')
    found = "row 'MSVD/1' is no object; name a result file of this suite"
    assert_refused(bench.start("precision_test", "--check_file", path), path, found)
