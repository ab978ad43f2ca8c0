"""Answers equal to the CPU's, the card's settings, and what is copied between host and card or computed on the CPU."""

import json
import os
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.support.npu_cases import DTYPES, same_answers
from videobench.data.dataset import build_question_text
from videobench.device.devices import open_device
from videobench.errors import InputError
from videobench.model.checkpoint import load_checkpoint
from videobench.model.engine import load_engine
from videobench.model.prompts import VideoQuestions

# What one batch may copy, of any size. Videos: pixels, ids, means and deviations, and what `generate` makes of its
# settings. Questions: ids, mask, rows to select, and the same settings; back come letters' log-probabilities, finite or
# not, and the generated ids; all but the first three once more for the second stage, in which most replies end. In a
# batch of 16 questions on 4 videos these are about 2 copies for a question to the card and one for three from it.
TO_DEVICE_FOR_VIDEOS, TO_DEVICE_FOR_QUESTIONS, TO_HOST_FOR_QUESTIONS = 16, 24, 5
BYTES_TO_HOST_OF_A_QUESTION = 6 * 4 + 2 * (8 + 1)  # six letters; two generated tokens and their marks


@pytest.mark.parametrize("dtype", DTYPES)
def test_answers_and_log_probabilities_are_the_cpus_to_the_last_bit(run, dtype):
    """In equal batches the simulated NPU runs the CPU's kernels on the same shapes."""
    status, rows = run("--dtype", dtype, "--batch_size", 1)
    assert status == 0
    same_answers(rows, json.loads(Path(os.environ["CPU_RESULTS"], dtype).read_text()), tolerance=0)


def test_batches_of_an_npu_give_the_cpus_answers(run):
    status, rows = run("--dtype", "float32")
    assert status == 0
    same_answers(rows, json.loads(Path(os.environ["CPU_RESULTS"], "float32").read_text()), tolerance=1e-4)
    settings = next(iter(rows.values()))["run"]
    assert (settings["device"], settings["device_name"], settings["batch_size"]) == ("npu", "Simulated910B", 32)
    assert (settings["torch_npu"], settings["cann"], settings["inf_nan_mode"]) == ("2.13.0", "unknown", True)
    assert settings["deterministic"] is False


def test_the_card_is_set_up_as_promised(run, monkeypatch):
    run("--dtype", "float16")
    report = torch.npu.report()
    assert report["settings"] == {
        "jit_compile": False,
        "config.allow_internal_format": False,
        "matmul.allow_hf32": False,
        "conv.allow_hf32": False,
    }
    assert not report["deterministic"]
    for name in ("HCCL_DETERMINISTIC", "LCCL_DETERMINISTIC", "CLOSE_MATMUL_K_SHIFT", "ATB_MATMUL_SHUFFLE_K_ENABLE"):
        monkeypatch.delenv(name, raising=False)
    status, rows = run("--dtype", "float16", "--deterministic", name="deterministic")
    report = torch.npu.report()
    torch.use_deterministic_algorithms(False)
    assert status == 0
    assert report["deterministic"]
    names = {"HCCL_DETERMINISTIC": "true", "LCCL_DETERMINISTIC": "1"}
    names |= {"CLOSE_MATMUL_K_SHIFT": "1", "ATB_MATMUL_SHUFFLE_K_ENABLE": "0"}
    assert {name: report["environment"].get(name) for name in names} == names
    assert all(row["run"]["deterministic"] for row in rows.values())
    with pytest.raises(InputError, match="deterministic True, now it is False"):
        run("--dtype", "float16", name="deterministic")


# --- Nothing is computed on the CPU ---


class CpuOperators(TorchDispatchMode):
    """Every operator with a CPU tensor of more than one value among its arguments and results."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = [each for each in tree_leaves((args, kwargs, result)) if isinstance(each, torch.Tensor)]
        if any(each.device.type == "cpu" and each.numel() > 1 for each in tensors):
            self.seen.add(function.overloadpacket)
        return result


@pytest.fixture(scope="module")
def checkpoint(tiny_model_path):
    return load_checkpoint(tiny_model_path)


@pytest.fixture(scope="module")
def engine(checkpoint):
    made = load_engine(checkpoint, open_device("npu"), "float16", max_new_tokens=8, length_multiple=32)
    assert {each.device.type for each in (*made.model.parameters(), *made.model.buffers())} == {"npu"}
    return made


def make_videos(checkpoint, num_videos, num_questions):
    """Videos of noise."""
    options = dict(zip("ABCD", ["red", "blue", "green", "white"], strict=True))
    texts = [build_question_text("Which color" + " is it" * number, options) for number in range(num_questions)]
    prompts = checkpoint.prompt_builder(8).build(texts)
    size = (num_videos, 8, 3, checkpoint.pixel_spec.crop_height, checkpoint.pixel_spec.crop_width)
    pixels = torch.randint(0, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return [VideoQuestions(each, prompts, [tuple(options)] * num_questions) for each in pixels]


def test_a_batch_copies_little_and_computes_nothing_on_the_cpu(engine, checkpoint):
    """16 questions on 4 videos."""
    videos, questions = make_videos(checkpoint, 4, 4), 16
    engine.answer(videos, questions)  # what is made once for each process is made
    before = torch.npu.report()
    with CpuOperators() as on_cpu:
        answers = engine.answer(videos, questions)
    after = torch.npu.report()
    assert all(len(answer.token_ids) <= 2 for video in answers for answer in video)  # the bounds are for such answers
    to_device, to_host = (
        {key: after[way][key] - before[way][key] for key in ("count", "bytes")}
        for way in ("host_to_device", "device_to_host")
    )
    assert 0 < to_device["count"] <= TO_DEVICE_FOR_VIDEOS + TO_DEVICE_FOR_QUESTIONS
    assert 0 < to_host["count"] <= TO_HOST_FOR_QUESTIONS
    assert to_host["bytes"] <= questions * BYTES_TO_HOST_OF_A_QUESTION
    pixel_bytes = sum(video.pixels.nbytes for video in videos)  # as uint8: normalised on the card
    ids = sum(len(prompt.prefix_ids) + len(prompt.suffix_ids) + 64 for video in videos for prompt in video.prompts)
    assert pixel_bytes < to_device["bytes"] < pixel_bytes + 8 * 3 * ids + 4096
    assert on_cpu.seen <= {torch.ops.aten.stack, torch.ops.aten._to_copy}  # of the pixels, and the copies themselves
    assert sum(after["calls"].values()) - sum(before["calls"].values()) > 200
