"""benchmarks/inference.py and on_card.py run, and the former finds both ways equal. What they measure is not tested."""

import re
import sys

import pytest

from benchmarks import inference, on_card
from tests.support.random_checkpoint import SHAPES


@pytest.mark.slow
def test_the_original_and_this_suite_answer_alike(capsys, monkeypatch, tmp_path):
    flags = ["--shape=small", "--clip_size", "96", "64", "--num_questions=6", "--plain_questions=4", "--num_workers=0"]
    flags += ["--questions", "3"]
    monkeypatch.setattr("sys.argv", ["inference.py", *flags, f"--folder={tmp_path / '片段 clips'}"])
    monkeypatch.setattr(inference, "CLIP_SECONDS", (1, 2))
    assert inference.main() == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[0].strip() for row in rows[1:]] == ["3"]
    assert all(re.fullmatch(r"4 of 4, log-probabilities to \de-0[5-9]", row[-1].strip()) for row in rows[1:])


def test_the_table_of_the_device_alone(capsys, monkeypatch):
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
    assert on_card.floor_operations(SHAPES["7b"], 8, 10, 1157, [130] * 30) == pytest.approx(plain, rel=0.05)
