"""benchmarks/inference.py on an accelerator."""

from functools import partial

import pytest

from benchmarks import clip_questions, inference
from benchmarks.arithmetic import matrix_rate


@pytest.mark.slow
def test_the_benchmark_on_an_accelerator(monkeypatch, capsys):
    """As on a GPU: the original's way in float32 and in bfloat16, decoded and in memory."""
    flags = ["--shape=small", "--clip_size", "96", "64", "--num_questions=6", "--questions_per_video=3", "--repeats=1"]
    monkeypatch.setattr(clip_questions, "CLIP_SECONDS", (1, 2))
    monkeypatch.setattr(inference, "matrix_rate", partial(matrix_rate, seconds=0.0))
    monkeypatch.setattr("sys.argv", ["inference.py", "--device=npu", *flags, "--num_workers=0"])
    assert inference.main() == 0
    first, rate, _, *table = capsys.readouterr().out.splitlines()
    assert first.startswith("Simulated910B, ")
    assert rate.startswith("bfloat16, a large matrix product: ")
    head, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table]
    assert head[2:4] == ["original, float32, s", "original, bfloat16, s"]
    assert [row[:2] for row in rows] == [["3", "decoded"], ["3", "in memory"]]
    assert all(len(row) == len(head) and " of 2, log-probabilities to " in row[-1] for row in rows)
