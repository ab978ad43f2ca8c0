"""benchmarks/inference.py runs in every mode, and finds both ways equal. What it measures is not tested."""

import re
import sys

import pytest
import torch

from benchmarks import clip_questions, inference, on_card
from benchmarks.arithmetic import floor_operations
from benchmarks.plain_answers import NotingEngine, PlainAnswer
from tests.support.random_checkpoint import SHAPES, make_model, write_checkpoint
from videobench.model.checkpoint import load_checkpoint
from videobench.model.prompts import VideoQuestions


def test_table(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(inference, "matrix_rate", lambda *_: 1e9)
    flags = ["--shape=small", "--clip_size", "96", "64", "--num_questions=6", "--repeats=1", "--num_workers=0"]
    monkeypatch.setattr("sys.argv", ["inference.py", *flags, f"--folder={tmp_path / '片段 clips'}"])
    monkeypatch.setattr(clip_questions, "CLIP_SECONDS", (1, 2))
    assert inference.main() == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [[cell.strip() for cell in row[:2]] for row in rows[1:]] == [
        [questions, frames] for questions in ("3", "1", "29") for frames in ("decoded", "in memory")
    ]
    assert all(re.fullmatch(r"6 of 6, log-probabilities to \de-0[5-9]", row[-1].strip()) for row in rows[1:])
    assert all(len(row) == len(rows[0]) for row in rows)
    assert re.fullmatch(r" \d+\.\d ", rows[1][2])


def test_table_of_the_device_alone(capsys, monkeypatch):
    flags = ["--device=cpu", "--shape=small", "--dtype=float32", "--questions", "1", "3", "--rows", "4", "--repeats=1"]
    monkeypatch.setattr(sys, "argv", ["on_card.py", *flags, "--profile"])
    assert on_card.main() == 0
    output = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in output.splitlines() if line.startswith("| ")]
    assert rows[0] == [*on_card.COLUMNS]
    assert [row[:3] for row in rows[1:]] == [["1", "4", "4"], ["3", "3", "1"]]
    assert all(int(row[3]) >= sum(map(int, row[5:8])) * 0.9 for row in rows[1:])  # the parts lie within the whole
    assert "aten::mm" in output or "aten::addmm" in output


@pytest.fixture(scope="module")
def noted(tmp_path_factory):
    """An engine of random weights that has answered one question on two videos, and what was asked."""
    checkpoint = load_checkpoint(write_checkpoint(SHAPES["small"], tmp_path_factory.mktemp("model")))
    prompts = checkpoint.prompt_builder(2).build(["Which ball moves first?", "Which ball moves second?"])
    engine = NotingEngine(make_model(checkpoint.path, torch.device("cpu"), torch.float32), checkpoint, 2)
    size = (2, 3, SHAPES["small"].image_size, SHAPES["small"].image_size)
    noise = torch.randint(256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for pixels, prompt in zip((noise, torch.zeros_like(noise)), prompts, strict=True):
        engine.answer([VideoQuestions(pixels, [prompt], ["AB"])], 1)
    return engine, [(None, prompt) for prompt in prompts]


def as_plain(engine, answer, **changes):
    """An answer as the plain way would have given it."""
    logprobs = torch.full((SHAPES["small"].vocabulary,), -torch.inf)
    for letter, logprob in answer.letter_logprobs.items():
        logprobs[engine._letter_ids[letter][0]] = logprob + changes.get("more", 0.0)
    return PlainAnswer(changes.get("token_ids", answer.token_ids), logprobs)


@pytest.mark.parametrize(
    ("changes", "equal", "words"),
    [
        pytest.param({}, True, "2 of 2, log-probabilities to 0e+00", id="equal"),
        pytest.param({"token_ids": (1, 2)}, False, "1 of 2, log-probabilities to 0e+00", id="other-tokens"),
        pytest.param({"more": 0.25}, False, "2 of 2, log-probabilities to 2e-01", id="other-probabilities"),
    ],
)
def test_answers_that_differ_are_told(noted, changes, equal, words):
    engine, asked = noted
    first, second = (engine.noted[prompt.suffix_ids] for _, prompt in asked)
    assert engine.compare(asked, [as_plain(engine, first, **changes), as_plain(engine, second)]) == (equal, words)


def test_a_random_model_says_what_it_sees(noted):
    first, second = noted[0].noted.values()
    assert first.token_ids != second.token_ids


def test_shapes_of_the_7b_checkpoint(tmp_path):
    """6.76e9 weights in the text model and 0.30e9 in the vision tower; the file's content is a hole."""
    checkpoint = load_checkpoint(write_checkpoint(SHAPES["7b"], tmp_path / "7b"))
    assert checkpoint.weights.in_vision == pytest.approx(0.304e9, rel=0.01)
    assert checkpoint.weights.in_rest == pytest.approx(6.76e9, rel=0.01)
    assert checkpoint.tokens_per_frame == 144
    assert (tmp_path / "7b" / "model.safetensors").stat().st_blocks * 512 < 1e6


def test_floor_is_about_two_operations_for_each_weight_and_token():
    tokens = 10 * 1157 + 30 * 131
    plain = 2 * (6.48e9 * tokens + 0.29e9 * 10 * 8 * 577)  # without embeddings and the last vision layer
    assert floor_operations(SHAPES["7b"], 8, 10, 1157, [130] * 30) == pytest.approx(plain, rel=0.05)
