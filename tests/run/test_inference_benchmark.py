"""benchmarks/inference.py runs in every mode, and finds both ways equal. What it measures is not tested."""

import re
import sys

import pytest

from benchmarks import clip_questions, inference, on_card
from benchmarks.arithmetic import floor_operations
from tests.support.random_checkpoint import SHAPES


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


def test_floor_is_about_two_operations_for_each_weight_and_token():
    tokens = 10 * 1157 + 30 * 131
    plain = 2 * (6.48e9 * tokens + 0.29e9 * 10 * 8 * 577)  # without embeddings and the last vision layer
    assert floor_operations(SHAPES["7b"], 8, 10, 1157, [130] * 30) == pytest.approx(plain, rel=0.05)
