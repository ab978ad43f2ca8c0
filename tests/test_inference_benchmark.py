"""benchmarks/inference.py runs in every mode, and finds both ways equal. What it measures is not tested."""

import json
import re
import sys

import numpy as np
import pytest
import torch

from benchmarks import clip_questions, inference
from benchmarks.onednn import use_onednn
from benchmarks.random_checkpoint import SHAPES, floor_operations, write_checkpoint
from benchmarks.vllm_answers import answer_by_vllm
from videobench.checkpoint import load_checkpoint


def test_table(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(inference, "matrix_rate", lambda *_: 1e9)
    flags = ["--shape=small", "--clip_size", "96", "64", "--num_questions=6", "--repeats=1", "--num_workers=0"]
    monkeypatch.setattr("sys.argv", ["inference.py", *flags, f"--folder={tmp_path / '片段 clips'}"])
    monkeypatch.setattr(clip_questions, "CLIP_SECONDS", (1, 2))
    assert inference.main() == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [[cell.strip() for cell in row[:2]] for row in rows[1:]] == [
        ["3", "decoded"], ["3", "in memory"], ["1", "decoded"], ["29", "decoded"],
    ]  # fmt: skip
    assert [row[-1].strip() for row in rows[1:]] == ["6 of 6"] * 4
    assert all(len(row) == len(rows[0]) for row in rows)
    assert re.fullmatch(r" \d+\.\d ", rows[1][2])


VLLM = """
import json, os
class SamplingParams:
    def __init__(self, **params): self.params = params
class Text:
    def __init__(self, text): self.text = text
class Output:
    def __init__(self, text): self.outputs = [Text(text)]
class LLM:
    def __init__(self, model, **options):
        self.calls = {"model": model, "options": options, "asked": []}
    def generate(self, requests, params):
        videos = [each["multi_modal_data"]["video"] for each in requests]
        self.calls["asked"].append([
            [each["prompt_token_ids"], list(video.shape), int(video.max())]
            for each, video in zip(requests, videos)
        ])
        json.dump(self.calls, open(os.environ["CALLS"], "w"))
        return [Output(f" reply {video.max()}") for video in videos]
"""


def test_vllm_gets_each_video_once_a_question_and_no_wanted_one_before_the_clock_runs(tmp_path, monkeypatch):
    (tmp_path / "vllm.py").write_text(VLLM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    frames = {"a": np.full((2, 3, 4, 3), 7, np.uint8), "b": np.full((2, 3, 4, 3), 9, np.uint8)}
    prompts = [("a", [1, 5, 5, 5, 2]), ("a", [1, 5, 5, 5, 3]), ("b", [1, 5, 5, 5, 4])]
    settings = {"dtype": "float32", "max_model_len": 64, "max_tokens": 2, "options": {"max_num_seqs": 2}}
    _, texts = answer_by_vllm(sys.executable, tmp_path, prompts, frames, 5, checkpoint="weights", **settings)
    assert texts == ["reply 7", "reply 7", "reply 9"]
    calls = json.loads((tmp_path / "calls").read_text())
    assert calls["model"] == "weights"
    assert calls["options"]["max_num_seqs"] == 2
    warming, asked = calls["asked"]
    assert warming == [[[1, 5, 2], [2, 3, 4, 3], 0], [[1, 5, 3], [2, 3, 4, 3], 0]]
    assert asked == [[[1, 5, 2], [2, 3, 4, 3], 7], [[1, 5, 3], [2, 3, 4, 3], 7], [[1, 5, 4], [2, 3, 4, 3], 9]]


def test_linear_layers_on_onednn_compute_the_same():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.Sequential(torch.nn.Linear(5, 3, bias=False)))
    states = torch.randn(2, 4, 7)
    with torch.no_grad():
        expected = model(states)
        use_onednn(model)
        assert not any(type(module) is torch.nn.Linear for module in model.modules())
        torch.testing.assert_close(model(states), expected)


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
