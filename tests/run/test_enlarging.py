"""A sample that is enlarged after it was answered: only what is new is asked."""

import json

import pytest

import extract_dataset
import run_gpu
from tests.support.runs import run_argv, sample_argv

SETS = "MSVD,NBA"


@pytest.fixture
def answer(tmp_path, tiny_model_path, capsys):
    """run_gpu.py on the sample; (result rows, what it said)."""

    def run(out="out"):
        assert run_gpu.main(run_argv(tiny_model_path, tmp_path, tmp_path, tmp_path / out)) == 0
        return json.loads((tmp_path / out / "sampling_data_eval.json").read_text()), "".join(capsys.readouterr())

    return run


@pytest.fixture
def draw(tmp_path, qa_root, video_root):
    """extract_dataset.py: so many questions, with one seed, into the same folders."""

    def sample(nums):
        argv = sample_argv(qa_root, video_root, tmp_path, "--datasets", SETS, "--nums", nums)
        assert extract_dataset.main(argv) == 0

    return sample


@pytest.fixture
def stored(tmp_path):
    """The keys of the replies in the journal, in the order in which they were given."""

    def read():
        lines = (tmp_path / "out/journal/sampling_data.rank0.jsonl").read_text().splitlines()[1:]
        return [json.loads(line)["key"] for line in lines]

    return read


def without_run(rows):
    return {key: {name: value for name, value in row.items() if name != "run"} for key, row in rows.items()}


def test_only_what_is_new_is_asked(draw, answer, stored):
    draw(30)
    small, _ = answer()
    draw(60)
    large, said = answer()
    assert list(large)[:30] == list(small)
    assert sorted(stored()[:30]) == sorted(small)
    assert sorted(stored()[30:]) == sorted(set(large) - set(small))
    assert {key: large[key] for key in small} == small
    assert len({row["run"]["qa_sha256"] for row in large.values()}) == 2  # each row says which file it was read from
    assert "changed" not in said
    at_once, _ = answer("at once")
    assert list(at_once) == list(large)
    assert [row["output_sequence"] for row in at_once.values()] == [row["output_sequence"] for row in large.values()]


def test_a_smaller_sample_takes_its_part_of_the_replies(draw, answer, stored):
    draw(12)
    large, _ = answer()
    draw(5)
    small, said = answer()
    assert (
        "5 answered, 0 failed; 7 replies to questions that are not asked any more stay in its journal alone\n" in said
    )
    assert without_run(small) == without_run(dict(list(large.items())[:5]))
    assert len(stored()) == 12
    draw(12)
    again, said = answer()
    assert without_run(again) == without_run(large)
    assert len(stored()) == 12
    assert "any more" not in said
