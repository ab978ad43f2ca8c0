"""Faults planted inside single operators of the device: the check of the model names module and operator of each."""

import importlib
import json
from functools import partial

import pytest
import torch

import run_npu
from tests.support.model_checks import check_model, first_named, small_check
from tests.support.npu_cases import DTYPES, MEMORY_BYTES, SET, SIMULATOR
from videobench.device.devices import Device, open_device
from videobench.locate import check as locate_check
from videobench.locate.check import is_offloaded
from videobench.locate.findings import lines
from videobench.locate.operators import check_operators
from videobench.model.cost import DTYPE_BYTES

slow = partial(pytest.param, marks=pytest.mark.slow)
SELF_ATTENTION = "model.language_model.layers.*.self_attn"
VISION_ATTENTION = "model.vision_tower.encoder.layers.*.self_attn"
# Fault: where it shows first, in which operator, in which call, with so many frames.
FAULTS = {
    "gelu": ("model.multi_modal_projector.act", "gelu", "vision", 8),
    "rope": (SELF_ATTENTION, "cat", "prefix", 8),
    "causal": (SELF_ATTENTION, "scaled_dot_product_attention", "prefix", 8),
    "long-mask": (SELF_ATTENTION, "scaled_dot_product_attention", "decoding step", 56),
    "polarity": (SELF_ATTENTION, "scaled_dot_product_attention", "suffix", 8),
    "uniform": (VISION_ATTENTION, "scaled_dot_product_attention", "vision", 8),
    "softmax": (VISION_ATTENTION, "scaled_dot_product_attention", "vision", 8),
    "row": (f"{SELF_ATTENTION}.q_proj", "linear", "prefix", 8),
    "layer-norm": ("model.vision_tower.pre_layrnorm", "layer_norm", "vision", 8),
    "convolution": ("model.vision_tower.embeddings.patch_embedding", "conv2d", "vision", 8),
    "not-repeatable": ("model.language_model.layers.*.mlp.act_fn", "silu", "prefix", 8),
    "rows-2": (SELF_ATTENTION, "scaled_dot_product_attention", "suffix", 8),
    "length-32": (SELF_ATTENTION, "scaled_dot_product_attention", "suffix", 8),
}
# Fault: in which forward pass of a batch, with so many rows.
IN_BATCHES = {"rows-3": ("suffix", 6), "rows-16": ("suffix", 17), "videos": ("prefix", 6)}
OUTSIDE = {
    "pixels": ("the normalised pixels", {"vision", "prefix"}),  # transformers 4.56 hands them to the whole model
    "positions": ("the positions", {"prefix", "suffix"}),  # transformers 4.56 counts those of the prefix so, too
    "log-softmax": ("the options' log-probabilities", {"suffix"}),
    "argmax": ("the chosen tokens", {"decoding step"}),
}


@pytest.fixture
def wrong():
    module = importlib.import_module("torch_npu._wrong")
    yield module
    module.mend()


def without_vision_model(name):
    """transformers 4.56 has another level there."""
    return name.replace("vision_model.", "")


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sound_device_agrees(tiny_model_path, dtype):
    findings = check_model(tiny_model_path, open_device("npu"), dtype)
    assert findings.found == ()
    assert findings.calls > 90


@pytest.mark.parametrize(
    ("way", "dtype"),
    [
        ("sum-order", "float32"),
        ("unfused", "bfloat16"),
        *(slow("sum-order", dtype) for dtype in DTYPES[1:]),
        *(slow("unfused", dtype) for dtype in DTYPES[:2]),
    ],
)
def test_another_way_to_the_same_is_no_fault(wrong, tiny_model_path, way, dtype):
    wrong.plant(way)
    assert check_model(tiny_model_path, open_device("npu"), dtype).found == ()


QUICK_FAULTS = ("gelu", "rope", "long-mask", "row")


@pytest.mark.parametrize("fault", [each if each in QUICK_FAULTS else slow(each) for each in FAULTS])
def test_a_fault_is_named_in_float32(wrong, tiny_model_path, fault):
    module, operator, call, num_frames = FAULTS[fault]
    wrong.plant(fault)
    findings = check_model(tiny_model_path, open_device("npu"), "float32", num_frames)
    first = findings.found[0]
    found = without_vision_model(first.family), first.operator.name, first.kind
    assert found == (module, operator, call), lines(findings)
    assert not first.deviation.overflow


@pytest.mark.parametrize("fault", ["rows-3", "videos", slow("rows-16")])
def test_a_fault_that_only_batches_have_is_named(wrong, capsys, fault):
    kind, rows = IN_BATCHES[fault]
    check = small_check(open_device("npu"), rows=rows)
    wrong.plant(fault)
    report = check.in_dtype(check.load("float32"), "float32")
    assert not report["findings"]
    first = first_named(report)
    assert (first["module"], first["kind"]) == (SELF_ATTENTION.replace("*", "0"), kind)
    assert first["operator"].startswith("scaled_dot_product_attention(")
    said = capsys.readouterr().out
    assert f"float32: {report['batches'][0]['tried']}: row" in said
    assert " from a plain generate (up to " in said
    size = report["batches"][0]["tried"].partition(",")[0]
    assert f"    in: {kind} of the batch of {size}, its row" in said


def test_a_late_fault_is_named_with_as_many_decoding_steps(wrong, tiny_model_path):
    wrong.plant("late")
    assert check_model(tiny_model_path, open_device("npu"), "float32").found == ()
    first = check_model(tiny_model_path, open_device("npu"), "float32", steps=4).found[0]
    assert (first.family, first.kind) == (SELF_ATTENTION, "decoding step")
    assert first.call == 5  # after prefix, suffix and three steps


def test_a_fault_of_one_card_is_named_on_that_card(wrong, tiny_model_path):
    SIMULATOR.init(2, MEMORY_BYTES, False)
    wrong.plant("card-1")
    assert check_model(tiny_model_path, open_device("npu"), "float32").found == ()
    torch.npu.set_device(1)
    second = Device("npu", torch.device("npu", 1), "Simulated910B")
    assert check_model(tiny_model_path, second, "float32").found[0].module == "model.multi_modal_projector.act"


@pytest.mark.parametrize(
    ("fault", "dtype"),
    [
        (None, "float32"),
        ("rope", "float32"),
        *(slow(None, dtype) for dtype in DTYPES[1:]),
        *(slow(fault, "float32") for fault in ("gelu", "argmax", "videos")),
    ],
)
def test_a_model_that_does_not_fit_is_checked_with_equal_findings(wrong, monkeypatch, fault, dtype):
    monkeypatch.setattr(locate_check, "OFFLOAD_ROOM", 5e5 * DTYPE_BYTES[dtype] / MEMORY_BYTES)  # half of the weights
    check = small_check(open_device("npu"), dtype=dtype)
    if fault:
        wrong.plant(fault)
    engines = [check.load(dtype)]
    monkeypatch.setattr(locate_check, "ROOM", MEMORY_BYTES)
    engines.append(check.load(dtype))
    assert [is_offloaded(each.model) for each in engines] == [False, True]
    reports = [check.in_dtype(each, dtype) for each in engines]
    names = ("module", "handed_to", "kind", "where", "operator")
    first, second = ([[each[name] for name in names] for each in report["findings"]] for report in reports)
    assert first == second
    assert [each["module_calls"] for each in reports] == [reports[0]["module_calls"]] * 2
    named = [each and each["module"] for each in map(first_named, reports)]
    assert named[0] == named[1]
    assert bool(named[0]) == bool(fault)


@pytest.mark.parametrize("dtype", [DTYPES[0], *(slow(each) for each in DTYPES[1:])])
@pytest.mark.parametrize("fault", OUTSIDE)
def test_a_fault_outside_of_the_modules_is_named(wrong, tiny_model_path, fault, dtype):
    name, calls = OUTSIDE[fault]
    wrong.plant(fault)
    findings = check_model(tiny_model_path, open_device("npu"), dtype)
    first = findings.found[0]  # positions of transformers 4.56 choose among the ids, too: other tokens follow
    assert (first.module, first.kind in calls) == (name, True), lines(findings)
    assert lines(findings)[0].startswith(f"{dtype}: 0 of {findings.calls} module calls, and {name}")
    assert not any("operator: " in line for line in lines(findings))


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("gelu", ["gelu (erf)"]),
        slow("causal", ["attention, causal"]),
        slow("convolution", ["patch convolution"]),
        slow("layer-norm", ["LayerNorm"]),
        ("long-mask", ["attention, one query and 1300 keys, padding"]),
    ],
)
def test_an_operator_is_named_without_a_checkpoint(wrong, fault, named):
    wrong.plant(fault)
    found, largest = check_operators(open_device("npu").torch_device, torch.float32)
    assert [line.partition(", float32: ")[0] for line in found] == named
    assert all("; look at: " in line for line in found)
    assert largest < 1


@pytest.fixture
def script(tmp_path, capsys, tiny_model_path, qa_root, video_root):
    """Runs --check_model, which must end with 1; returns the lines that it prints and its report."""

    def run():
        flags = ["--model_path", tiny_model_path, "--Eval_QA_root", qa_root, "--Eval_Video_root", video_root]
        flags += ["--dataset_name", SET, "--check_model", "--output_json", tmp_path / "check.json"]
        assert run_npu.main([str(each) for each in flags]) == 1
        return capsys.readouterr().out.splitlines(), json.loads((tmp_path / "check.json").read_text())

    return run


def test_a_fault_ends_the_script_with_1_and_is_in_its_json(wrong, script):
    wrong.plant("uniform")
    said, report = script()
    assert said[-1].startswith("something deviates, in ")
    assert (report["agrees"], report["device_name"]) == (False, "Simulated910B")
    assert [each["dtype"] for each in report["passes"]] == ["float32", "float16"]
    for each in report["passes"]:
        assert without_vision_model(each["first"]["module"]) == VISION_ATTENTION.replace("*", "0")
        assert each["first"]["operator"].startswith("scaled_dot_product_attention(")
        assert f"    look at: {each['first']['look_at']}" in said
        assert [family["modules"] for family in each["families"]] == [2]


def test_all_planted_faults_are_in_the_table(wrong):
    assert {*FAULTS, *OUTSIDE, *IN_BATCHES, "late", "card-1", "float16"} == {*wrong.WRONG}


def test_overflow_of_float16_is_named_in_float16_alone(wrong, tiny_model_path):
    wrong.plant("float16")
    assert check_model(tiny_model_path, open_device("npu"), "float32").found == ()
    findings = check_model(tiny_model_path, open_device("npu"), "float16")
    first = findings.found[0]
    assert first.deviation.overflow
    assert first.operator.name == "linear"
    assert any("look at: overflow: float16 ends at 65504" in line for line in lines(findings))


def test_nan_ends_with_the_module_and_what_follows_from_it_is_no_finding(wrong, script):
    wrong.plant("float16")
    said, report = script()
    assert "the same questions twice, without --deterministic: equal log-probabilities and tokens" in said
    modules = {each["module"] for each in report["passes"][1]["findings"]}
    assert any(name.endswith(".mlp.down_proj") for name in modules)
    assert all(name.startswith("model.language_model.layers.") for name in modules)
