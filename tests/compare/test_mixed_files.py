"""A result file made of two runs never passes, however many rows are foreign.

Rows of the other side, of another model, of other prompts or of other videos are mixed into one side of a sound pair of
runs, from a little above 2 % of the rows to all of them."""

import hashlib

import numpy as np
import pytest

from tests.support.runs import write_runs
from tests.support.simulated_runs import simulate_rows
from videobench.compare.comparison import compare_runs
from videobench.compare.settings import ComparisonSettings

QUESTIONS = 600
RUNS = {side: {"device": side, "checkpoint_sha256": "c" * 64, "weights_sha256": "e" * 64} for side in ("npu", "cuda")}
KINDS = ("none", "other side", "other model", "other prompts", "other videos", "other dtype")


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


def foreign(kind, row, other):
    if kind == "other side":
        return other
    if kind == "other model":
        return row | {"run": row["run"] | {"weights_sha256": "f" * 64}}
    if kind == "other dtype":
        return row | {"run": row["run"] | {"dtype": "bfloat16"}}
    if kind == "other prompts":
        return row | {"prompt_sha256": sha256("another template" + row["prompt_sha256"])}
    if kind == "other videos":
        return row | {name: sha256("replaced" + row[name]) for name in ("video_sha256", "pixels_sha256")}
    return row


def mixed_rows(kind, side, share, rng):
    """Two runs and the answers; `share` of the rows of `side` (0 or 1) are foreign."""
    rows = simulate_rows(QUESTIONS, rng)
    mixed = set(rng.choice(QUESTIONS, max(1, round(share * QUESTIONS)), replace=False).tolist())
    for index, (name, (*pair, right)) in enumerate(rows.items()):
        pair = [
            row
            | {"run": row["run"] | RUNS[device], "video_sha256": sha256(row["vid_path"])}
            | {name: sha256(row[name]) for name in ("prompt_sha256", "pixels_sha256")}
            for row, device in zip(pair, RUNS, strict=True)
        ]
        if index in mixed:
            pair[side] = foreign(kind, pair[side], pair[1 - side])
        rows[name] = (*pair, right)
    return rows


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", KINDS)
def test_foreign_rows_never_pass(tmp_path, kind, seed):
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    share = (0.021, 0.05, 0.5, 1.0)[seed]
    comparison = compare_runs(ComparisonSettings(*write_runs(tmp_path, mixed_rows(kind, seed % 2, share, rng))))
    verdict = comparison.verdict
    if kind == "none":
        assert (verdict.name, verdict.evidence.obstacles) == ("PASS", [])
    elif kind == "other dtype" and share == 1:  # a whole run in bfloat16 is a run like any other
        assert verdict.evidence.obstacles == []
    else:
        assert verdict.name != "PASS", verdict
        assert verdict.evidence.obstacles, "named as what it is, not as a loss"
        assert verdict.reasons[0].startswith("not comparable: ")
