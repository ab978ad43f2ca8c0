"""On a device that runs out of memory or computes NaN: what is answered, what fails, what is said."""

import os
import re
from pathlib import Path

import pytest
import torch

from tests.support.npu_cases import ATTENTION, LIMIT, SET, SIMULATOR, same_answers
from videobench.data.dataset import load_questions, qa_file
from videobench.errors import InputError
from videobench.model.checkpoint import load_checkpoint


def test_peak_memory_is_reported(run, capsys):
    SIMULATOR.reset_peak(0)
    run("--dtype", "float32", "--verbose")
    peak = torch.npu.max_memory_allocated(0)
    weights = 4 * load_checkpoint(Path(os.environ["TINY_MODEL"])).weights.total
    assert peak > weights
    assert f"npu:0: peak memory: {peak / 1e6:.2f} MB for tensors on the device" in capsys.readouterr().err


def peak_of(run, *flags, name, **options):
    SIMULATOR.reset_peak(0)
    status, rows = run("--dtype", "float32", *flags, name=name, **options)
    assert status == 0
    return torch.npu.max_memory_allocated(0), rows


@pytest.mark.parametrize("plain_error", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_out_of_memory_halves_the_batches_and_changes_no_answer(run, capsys, plain_error):
    small, rows = peak_of(run, "--batch_size", 1, name="small")
    large, _ = peak_of(run, name="large")
    assert small < large
    capsys.readouterr()
    SIMULATOR.init(1, small + (large - small) // 8, plain_error)
    status, fitted = run("--dtype", "float32", name="fitted")
    assert status == 0
    same_answers(fitted, rows, tolerance=1e-4)
    warnings = [line for line in capsys.readouterr().err.splitlines() if "out of memory" in line]
    assert warnings[0].startswith("warning: npu:0 is out of memory; from here on at most ")
    assert re.search(r" questions? at once$", warnings[0])
    assert max(row["run"]["batch_size"] for row in fitted.values()) < LIMIT


def test_weights_that_only_just_fit_leave_no_traceback(run, tiny_model_path):
    weights = 4 * load_checkpoint(tiny_model_path).weights.total
    held = torch.npu.memory_allocated(0)  # by the engine of the tests above
    SIMULATOR.init(1, held + weights // 2, False)
    with pytest.raises(InputError, match="out of memory while reading the weights; free some"):
        run("--dtype", "float32")


def calls_of_attention():
    return torch.npu.report()["calls"].get(ATTENTION, 0)


@pytest.mark.parametrize("where", [pytest.param("first", marks=pytest.mark.slow), "last"])
def test_a_nan_in_one_layer_is_found_and_named(run, capsys, qa_root, video_root, where):
    """One value of one attention's result: of the first video's first frame, of the last token of the last answer."""
    flags = ("--dtype", "float16", "--batch_size", 1, "--max_new_tokens", 4)  # from NaN no reply ends by itself
    before = calls_of_attention()
    _, clean = run(*flags, name="clean")
    calls = calls_of_attention() - before
    capsys.readouterr()
    SIMULATOR.poison(ATTENTION, calls_of_attention() + (1 if where == "first" else calls))
    status, rows = run(*flags, name="poisoned")
    assert status == 1
    questions = load_questions(qa_file(qa_root, SET), SET, video_root.joinpath)[:LIMIT]
    videos = [each.video for each in questions]
    last = list(dict.fromkeys(videos))[-1]
    hit = [each for each in questions if "nonfinite" in rows[each.key]]
    # All questions of the first video, or the longest one of the last.
    expected = {"first": videos[:1] * videos.count(videos[0]), "last": [last]}[where]
    assert [each.video for each in hit] == expected
    for row in (rows.pop(each.key) for each in hit):
        assert row["error"] == "the logits hold NaN or infinity"
        assert "letter_logprobs" not in row
    assert all(row["letter_logprobs"] == clean[key]["letter_logprobs"] for key, row in rows.items())
    captured = capsys.readouterr()
    first = min(hit, key=questions.index)
    assert f"answered {LIMIT - len(hit)}, failed {len(hit)} ({len(hit)} with NaN or infinite logits), " in captured.out
    [named] = [line for line in captured.err.splitlines() if line.startswith("nonfinite: ")]
    assert f"{len(hit)} replies, first {SET}/{first.id}: " in named
    assert "--dtype bfloat16" in named
    assert "INF_NAN_MODE_ENABLE" in named
