"""Tests that run in a process of their own, on the simulated NPU: tests/test_npu.py starts pytest on this file.

transformers decides once in a process whether it runs on an NPU, so these cannot share one with the other tests.
"""

import importlib
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import run_npu
from videobench import device_check
from videobench.checkpoint import load_checkpoint
from videobench.dataset import load_questions, qa_file
from videobench.devices import device_facts, open_device
from videobench.engine import VideoQuestions, load_engine
from videobench.errors import InputError
from videobench.estimate import count_weights
from videobench.prompts import build_question_text

SET = "MSVD"
DTYPES = ["float32", "float16", "bfloat16"]
LIMIT = 8
ATTENTION = "aten::scaled_dot_product_attention"
SIMULATOR = torch.ops.sim_npu
MEMORY_BYTES = 64 << 30
# What one batch may copy, of any size. Videos: pixels, ids, means and deviations, and what `generate` makes of its
# settings. Questions: ids, mask, rows to select, and the same settings; back come letters' log-probabilities, finite or
# not, and the generated ids. In a batch of 16 questions on 4 videos these are under 2 copies for a question to the
# card and one for five questions from it.
TO_DEVICE_FOR_VIDEOS, TO_DEVICE_FOR_QUESTIONS, TO_HOST_FOR_QUESTIONS = 16, 12, 3
BYTES_TO_HOST_OF_A_QUESTION = 6 * 4 + 2 * (8 + 1)  # six letters; two generated tokens and their marks


@pytest.fixture(autouse=True)
def as_started(monkeypatch):
    """The card's memory, and no NaN, whatever the test before has set."""
    monkeypatch.setenv("INF_NAN_MODE_ENABLE", "0")  # as the launcher exports it
    yield
    SIMULATOR.init(1, MEMORY_BYTES, False)
    SIMULATOR.poison("", 0)


@pytest.fixture
def run(tmp_path, tiny_model_path, qa_root, video_root):
    """(exit status, rows) of run_npu.py on the first questions of a set."""

    def start(*flags, qa=qa_root, name="out"):
        argv = ["--model_path", tiny_model_path, "--Eval_QA_root", qa, "--Eval_Video_root", video_root]
        argv += ["--dataset_name", SET, "--chat_conversation_output_folder", tmp_path / name, "--num_workers", 0]
        status = run_npu.main([str(each) for each in [*argv, "--limit", LIMIT, *flags]])
        return status, json.loads((tmp_path / name / f"{SET}_eval.json").read_text())

    return start


def same_answers(rows, others, tolerance):
    assert list(rows) == list(others)
    for key, row in rows.items():
        for field in ("output_sequence", "num_output_tokens", "pixels_sha256", "prompt_sha256"):
            assert row[field] == others[key][field], (key, field)
        assert row["letter_logprobs"] == pytest.approx(others[key]["letter_logprobs"], rel=0, abs=tolerance), key


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_cpus_answers_and_log_probabilities_to_the_last_bit(run, dtype):
    """In equal batches the double must give the CPU's own numbers: it runs the same kernels on the same shapes."""
    status, rows = run("--dtype", dtype, "--batch_size", 1)
    assert status == 0
    same_answers(rows, json.loads(Path(os.environ["CPU_RESULTS"], dtype).read_text()), tolerance=0)


def test_batches_of_an_npu_give_the_cpus_answers(run):
    status, rows = run("--dtype", "float32")
    assert status == 0
    same_answers(rows, json.loads(Path(os.environ["CPU_RESULTS"], "float32").read_text()), tolerance=1e-4)
    settings = next(iter(rows.values()))["run"]
    assert (settings["device"], settings["device_name"], settings["batch_size"]) == ("npu", "Simulated910B", 16)
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


@pytest.fixture
def faults():
    return importlib.import_module("torch_npu._faults")


@pytest.fixture(scope="module")
def checkpoint(tiny_model_path):
    return load_checkpoint(tiny_model_path)


@pytest.fixture(scope="module")
def engine(checkpoint):
    made = load_engine(checkpoint, open_device("npu"), "float16", max_new_tokens=8, suffix_multiple=32)
    assert {each.device.type for each in (*made._model.parameters(), *made._model.buffers())} == {"npu"}
    return made


def make_videos(checkpoint, num_videos, num_questions):
    """Videos of noise."""
    options = dict(zip("ABCD", ["red", "blue", "green", "white"], strict=True))
    texts = [build_question_text("Which color" + " is it" * number, options) for number in range(num_questions)]
    prompts = checkpoint.prompt_builder(8).build(texts)
    size = (num_videos, 8, 3, checkpoint.pixel_spec.crop_height, checkpoint.pixel_spec.crop_width)
    pixels = torch.randint(0, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return [VideoQuestions(each, prompts, [tuple(options)] * num_questions) for each in pixels]


@pytest.mark.parametrize(
    ("num_videos", "num_questions", "batch_size"),
    [
        pytest.param(1, 1, 16, id="one-question"),
        pytest.param(1, 4, 1, id="one-at-a-time"),
        pytest.param(4, 4, 16, id="16-questions-on-4-videos"),
    ],
)
def test_only_these_copies_and_nothing_computed_on_the_cpu(engine, checkpoint, num_videos, num_questions, batch_size):
    videos = make_videos(checkpoint, num_videos, num_questions)
    engine.answer(videos, batch_size)  # what is made once for each process is made
    before = torch.npu.report()
    with CpuOperators() as on_cpu:
        answers = engine.answer(videos, batch_size)
    after = torch.npu.report()

    questions = num_videos * num_questions
    batches = -(-questions // batch_size)
    assert all(len(answer.token_ids) <= 2 for video in answers for answer in video)  # the bounds are for such answers
    to_device, to_host = (
        {key: after[way][key] - before[way][key] for key in ("count", "bytes")}
        for way in ("host_to_device", "device_to_host")
    )
    assert 0 < to_device["count"] <= TO_DEVICE_FOR_VIDEOS + batches * TO_DEVICE_FOR_QUESTIONS
    assert 0 < to_host["count"] <= batches * TO_HOST_FOR_QUESTIONS
    assert to_host["bytes"] <= questions * BYTES_TO_HOST_OF_A_QUESTION
    pixel_bytes = sum(video.pixels.nbytes for video in videos)  # as uint8: normalised on the card
    ids = sum(len(prompt.prefix_ids) + len(prompt.suffix_ids) + 64 for video in videos for prompt in video.prompts)
    assert pixel_bytes < to_device["bytes"] < pixel_bytes + 8 * 3 * ids + 4096 * batches
    assert on_cpu.seen <= {torch.ops.aten.stack, torch.ops.aten._to_copy}  # of the pixels, and the copies themselves
    assert sum(after["calls"].values()) - sum(before["calls"].values()) > 200


# --- Memory ---


def test_peak_memory_is_told(run, capsys):
    SIMULATOR.reset_peak(0)
    run("--dtype", "float32")
    peak = torch.npu.max_memory_allocated(0)
    weights = 4 * sum(count_weights(sorted(Path(os.environ["TINY_MODEL"]).glob("*.safetensors"))))
    assert peak > weights
    assert f"npu:0: {peak / 1e6:.2f} MB of memory at the most" in capsys.readouterr().err


def peak_of(run, *flags, name, **options):
    SIMULATOR.reset_peak(0)
    status, rows = run("--dtype", "float32", *flags, name=name, **options)
    assert status == 0
    return torch.npu.max_memory_allocated(0), rows


@pytest.mark.parametrize("plain_error", [False, True], ids=["OutOfMemoryError", "RuntimeError"])
def test_out_of_memory_halves_videos_then_questions(run, capsys, plain_error):
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
    assert re.search(r" videos? at once$", warnings[0])
    assert {row["run"]["batch_size"] for row in fitted.values()} <= {16, 8, 4, 2, 1}


def test_a_question_that_does_not_fit_alone_fails_alone(run, capsys, tmp_path, qa_root):
    """The second question is many times as long as the others."""
    shutil.copytree(qa_root / "Eval_QA", tmp_path / "qa/Eval_QA")
    path = qa_file(tmp_path / "qa", SET)
    content = json.loads(path.read_text())
    long_key = list(content)[1]
    content[long_key]["question"] += " what color is it" * 200
    path.write_text(json.dumps(content))
    options = {"qa": tmp_path / "qa"}
    small, rows = peak_of(run, "--batch_size", 1, name="short")
    large, _ = peak_of(run, "--batch_size", 1, name="long", **options)
    assert small < large

    capsys.readouterr()
    SIMULATOR.init(1, (small + large) // 2, False)
    status, fitted = run("--dtype", "float32", name="fitted", **options)
    assert status == 1
    assert [key for key, row in fitted.items() if "error" in row] == [long_key]
    assert "has not the memory for this question alone; use fewer --num_frames" in fitted[long_key]["error"]
    others = {key: row for key, row in fitted.items() if key != long_key}
    same_answers(others, {key: rows[key] for key in others}, tolerance=1e-4)
    captured = capsys.readouterr()
    assert f"answered {LIMIT - 1}, failed 1, in " in captured.out
    assert f"failed: {SET}/{long_key}: npu:0 (Simulated910B) has not the memory" in captured.err


def test_weights_that_only_just_fit_leave_no_traceback(run, tiny_model_path):
    weights = 4 * sum(count_weights(sorted(tiny_model_path.glob("*.safetensors"))))
    held = torch.npu.memory_allocated(0)  # by the engine of the tests above
    SIMULATOR.init(1, held + weights // 2, False)
    with pytest.raises(InputError, match="out of memory while the weights were read; free some"):
        run("--dtype", "float32")


# --- NaN ---


def calls_of_attention():
    return torch.npu.report()["calls"].get(ATTENTION, 0)


@pytest.mark.parametrize("where", ["first", "last"])
def test_a_nan_in_one_layer_is_found_and_named(run, capsys, qa_root, video_root, where):
    """One value of one attention's result: of the first video's first frame, of the last token of the last answer."""
    before = calls_of_attention()
    _, clean = run("--dtype", "float16", "--batch_size", 1, name="clean")
    calls = calls_of_attention() - before
    capsys.readouterr()
    SIMULATOR.poison(ATTENTION, calls_of_attention() + (1 if where == "first" else calls))
    status, rows = run("--dtype", "float16", "--batch_size", 1, name="poisoned")
    assert status == 1
    questions = load_questions(qa_file(qa_root, SET), SET, video_root.joinpath)[:LIMIT]
    order = sorted(questions, key=lambda each: [every.video for every in questions].index(each.video))
    hit = [each for each in order if each.video == order[0].video] if where == "first" else order[-1:]
    assert {key for key, row in rows.items() if row.get("nonfinite")} == {each.key for each in hit}
    for key, row in rows.items():
        if "nonfinite" in row:
            assert "--dtype bfloat16" in row["error"]
            assert "letter_logprobs" not in row
        else:
            assert row["letter_logprobs"] == clean[key]["letter_logprobs"]
    captured = capsys.readouterr()
    first = min(hit, key=questions.index)
    assert f"answered {LIMIT - len(hit)}, failed {len(hit)} ({len(hit)} with NaN or infinite logits), " in captured.out
    [named] = [line for line in captured.err.splitlines() if line.startswith("nonfinite: ")]
    assert f"{len(hit)} replies, first {SET}/{first.id}: " in named
    assert "--dtype bfloat16" in named
    assert "INF_NAN_MODE_ENABLE" in named


# --- Broken states and old cards: what the environment of tests/sim_npu says of a process, said while it runs ---


def test_a_card_that_does_not_exist(monkeypatch):
    monkeypatch.setattr(torch.npu, "_IN_MACHINE", 2)
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "0,1")
    with pytest.raises(
        InputError, match=r"npu:2 does not exist: 2 visible \(ASCEND_RT_VISIBLE_DEVICES='0,1'\); start one"
    ):
        open_device("npu", 2)


@pytest.mark.parametrize(("listed", "in_machine"), [("", 1), ("0,1", 0), ("1,0", 2)])
def test_no_card_is_visible(monkeypatch, listed, in_machine):
    monkeypatch.setattr(torch.npu, "_IN_MACHINE", in_machine)
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", listed)
    with pytest.raises(InputError, match=rf"no card is visible .*='{listed}'.*; check npu-smi info"):
        open_device("npu")


def test_a_card_that_another_process_fills(monkeypatch, run):
    monkeypatch.setattr(torch.npu, "_USED", MEMORY_BYTES)
    with pytest.raises(
        InputError, match="npu:0: no memory is free; another process holds it: find it with npu-smi info"
    ):
        open_device("npu")
    monkeypatch.setattr(torch.npu, "_USED", MEMORY_BYTES - torch.npu.memory_allocated() - (1 << 20))
    with pytest.raises(
        InputError, match=r"1\.05 MB of 68\.72 GB of its memory are free, the weights .*; another process"
    ):
        run("--dtype", "float32")


def test_a_card_that_is_too_small_for_the_weights(monkeypatch, run):
    monkeypatch.setattr(torch.npu, "mem_get_info", lambda index: (1 << 20, 1 << 21))
    with pytest.raises(InputError, match=r"the weights in float32 take .*; use a 16-bit --dtype or a larger card"):
        run("--dtype", "float32", "--dry_run")


def test_a_card_that_fails_to_start(monkeypatch):
    def fail(index):
        raise RuntimeError("NPU function error: aclrtSetDevice, error code is 507033\n[ERROR] more lines")

    monkeypatch.setattr(torch.npu, "set_device", fail)
    with pytest.raises(InputError, match=r"npu:0 does not start: NPU function error.*507033; check npu-smi info"):
        open_device("npu")


def test_the_launchers_inf_nan_mode_does_not_keep_a_card_from_starting(monkeypatch, capsys):
    with pytest.raises(RuntimeError, match="INF_NAN_MODE_ENABLE shouldn't be set to 0"):
        torch.npu.set_device(0)
    assert device_facts(open_device("npu"))["inf_nan_mode"] is True
    assert "warning" not in capsys.readouterr().err
    monkeypatch.setenv("INF_NAN_MODE_ENABLE", "0")
    monkeypatch.setenv("INF_NAN_MODE_FORCE_DISABLE", "1")  # whoever wants saturation has to say so
    assert device_facts(open_device("npu"))["inf_nan_mode"] is False
    assert "overflows of float16 cannot be found" in capsys.readouterr().err


def test_a_first_generation_card(monkeypatch, capsys):
    monkeypatch.setattr(torch.npu, "_FIRST_GENERATION", True)
    device = open_device("npu")
    assert "overflows of float16 cannot be found" in capsys.readouterr().err
    assert device_facts(device)["inf_nan_mode"] is False
    assert device_check._check_product(device, "bfloat16") is None
    assert device_check._check_product(device, "float16") < 1e-3


# --- --check_device, one of its processes ---


def test_a_matrix_product_without_canns_operators(faults):
    with faults.WithoutKernels(), pytest.raises(InputError) as raised:
        device_check._check_product(open_device("npu"), "float16")
    assert "npu:0: no matrix product in float16: " in str(raised.value)
    assert "install CANN's package of operators" in str(raised.value)


def test_a_matrix_product_with_shortened_numbers(monkeypatch):
    """As a card that takes HF32 for float32: ten bits of the mantissa are left."""
    matmul = torch.Tensor.__matmul__

    def shortened(left, right):
        if left.is_npu and left.dtype == torch.float32:
            left, right = left.half().float(), right.half().float()
        return matmul(left, right)

    monkeypatch.setattr(torch.Tensor, "__matmul__", shortened)
    with pytest.raises(InputError, match=r"npu:0: the matrix product in float32 is off by .*; install releases"):
        device_check._check_product(open_device("npu"), "float32")
    assert device_check._check_product(open_device("npu"), "float16") < 1e-3


def test_cards_that_do_not_reach_each_other(monkeypatch, tmp_path, faults):
    monkeypatch.setattr(faults, "FAULT", "link")
    with pytest.raises(InputError) as raised:
        device_check.main(["npu", "0", "0", "1", str(tmp_path / "store")])
    assert "npu:0: a collective of 1 (hccl) failed: HCCL function error: HcclAllReduce" in str(raised.value)
    assert "the links between the cards, or run on one: export ASCEND_RT_VISIBLE_DEVICES=0" in str(raised.value)
