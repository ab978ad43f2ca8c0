"""benchmarks/inference.py runs in every mode, and finds both ways equal. What it measures is not tested."""

import re

import pytest

from benchmarks import inference
from benchmarks.random_checkpoint import SHAPES, floor_operations, write_checkpoint
from videobench.checkpoint import load_checkpoint


def test_table(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(inference, "matrix_rate", lambda *_: 1e9)
    flags = ["--shape=small", "--clip_size", "96", "64", "--num_questions=6", "--repeats=1", "--num_workers=0"]
    monkeypatch.setattr("sys.argv", ["inference.py", *flags, f"--folder={tmp_path / '片段 clips'}"])
    monkeypatch.setattr(inference, "CLIP_SECONDS", (1, 2))
    assert inference.main() == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [[cell.strip() for cell in row[:2]] for row in rows[1:]] == [
        ["3", "decoded"], ["3", "in memory"], ["1", "decoded"], ["29", "decoded"],
    ]  # fmt: skip
    assert [row[-1].strip() for row in rows[1:]] == ["6 of 6"] * 4
    assert all(len(row) == len(rows[0]) for row in rows)
    assert re.fullmatch(r" \d+\.\d ", rows[1][2])


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
