"""A run that goes on says what becomes of what is stored: other releases, other prompts, whole videos, what is left."""

import json
import re

import pytest

import run_gpu
from tests.support.runs import SET, results
from videobench.errors import InputError

FIRST = 8  # questions: all 6 on the first video, 2 of the 5 on the second


@pytest.fixture
def answer(flags, capsys):
    """(status, stdout, stderr) of run_gpu.py."""

    def run(*more):
        capsys.readouterr()
        status = run_gpu.main([*flags, *map(str, more)])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def journal(small):
    return small / f"out/journal/{SET}.rank0.jsonl"


def change(journal, numbers, **fields):
    """Other values in the rows of these lines of a journal; a dict changes the entries of the row's own."""
    first, *lines = journal.read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    for number in numbers:
        row = entries[number]["row"]
        for name, value in fields.items():
            row[name] = row[name] | value if isinstance(value, dict) else value
    journal.write_text("\n".join([first, *map(json.dumps, entries)]) + "\n")
    return [entries[number]["key"] for number in numbers]


def tokens_to_compute(out):
    return int(re.search(r"^(\d+) tokens to compute; ", out, re.MULTILINE)[1])


def test_stored_replies_of_other_releases_are_kept_and_said_in_one_line(answer, journal, small):
    answer("--limit", FIRST)
    now = next(iter(results(small).values()))["run"]
    assert {"torch", "transformers", "av"} <= now.keys()
    _, _, said = answer("--limit", FIRST)
    assert "releases" not in said
    change(journal, range(3), run={"torch": "2.4.0"})
    change(journal, range(3, 5), run={"transformers": "4.50.0", "av": "16.0.0"})
    _, _, said = answer("--limit", FIRST)
    assert (
        f"stored replies of other releases are kept: 3 of torch 2.4.0 (now {now['torch']}); 2 of transformers 4.50.0 "
        f"(now {now['transformers']}), av 16.0.0 (now {now['av']}); --overwrite answers all with one\n"
    ) in said
    assert f"{FIRST} kept, 0 to answer\n" in said


def test_a_reply_to_another_prompt_is_asked_again(answer, journal, small):
    answer("--limit", FIRST)
    before = results(small)
    [key] = change(journal, [1], prompt_sha256="0" * 64, output_sequence=["of another template"])
    status, _, said = answer("--limit", FIRST)
    assert status == 0
    assert f"{SET}: 1 questions, first {key}: its prompt has other token ids now (tokenizer, template or" in said
    assert results(small) == before


def test_a_dry_run_says_what_is_left(answer, small):
    _, whole, _ = answer("--limit", 11, "--dry_run")
    assert "answered already" not in whole
    answer("--limit", 6)
    before = sorted((path, path.stat().st_mtime_ns) for path in small.rglob("*"))
    status, out, _ = answer("--limit", 11, "--dry_run")
    assert status == 0
    assert f"{small}/out: 6 answered already, 5 to answer\n" in out
    assert "time: below a minute on one core" in out
    assert tokens_to_compute(out) < tokens_to_compute(whole)
    _, out, _ = answer("--limit", 6, "--dry_run")
    assert f"{small}/out: 6 answered already, 0 to answer\n" in out
    assert "time: " not in out
    with pytest.raises(InputError, match="was begun with num_frames 8, now it is 4; use the former"):
        answer("--num_frames", 4, "--dry_run")
    _, out, _ = answer("--limit", 6, "--dry_run", "--overwrite")
    assert "answered already" not in out
    assert sorted((path, path.stat().st_mtime_ns) for path in small.rglob("*")) == before
