"""Findings in words, as JSON, and as a table whose figures are worked out by hand."""

import csv

import pytest
import torch

from videobench.locate.deviation import Deviation, deviation
from videobench.locate.findings import COLUMNS, Finding, Findings, as_csv, as_json, lines, table_row
from videobench.locate.operators import Operator
from videobench.locate.replay import Compared


def finding(layer, shape, deviation, operator=None):
    name = f"model.layers.{layer}.mlp"
    return Finding((0, 1, layer), "prefix", "video 1", name, 0, None, shape, "float32", deviation, operator)


def test_the_worst_of_a_kind_is_one_finding_not_parts_of_two():
    silu = Operator("silu", "silu(float32 (9,))", Deviation(8.0, 0.3, (2,), 0.1, 0.5))
    first, worst = finding(0, (9,), Deviation(8.0, 0.3, (2,), 0.1, 0.5), silu), finding(1, (4,), Deviation(30.0))
    findings = Findings("float32", 50, 0.1, [first, worst])
    [family] = as_json(findings)["families"]
    assert (family["modules"], family["calls"]) == (2, 2)
    named = {name: family["worst"][name] for name in ("module", "shape", "times_tolerance", "operator")}
    assert named == {"module": "model.layers.1.mlp", "shape": [4], "times_tolerance": 30.0, "operator": None}
    assert lines(findings) == [
        "float32: 2 of 50 module calls deviate from the CPU's float32",
        "  first, in the order of computing: model.layers.0.mlp",
        "    in: prefix of video 1",
        "    result, float32 (9,): greatest absolute difference: 0.3 at index (2,) (up to 0.1 allowed); "
        "50 % of the elements mismatched; 8 times the tolerance",
        "    operator: silu(float32 (9,))",
        "      greatest absolute difference: 0.3 at index (2,) (up to 0.1 allowed); "
        "50 % of the elements mismatched; 8 times the tolerance",
        "    look at: silu: the device's kernel for this operator, and whether the releases of torch_npu and CANN fit "
        "each other",
        "  2 modules of this kind deviate: model.layers.*.mlp, 2 calls",
    ]


def table_of(module, module_class, found, expected, calls):
    rows = []
    for number in range(calls):
        compared = Compared(number, module, number, None, found, expected, torch.float16)
        judged = deviation(found, expected, torch.float16)
        rows.append([*table_row(compared, module_class), "error" if judged.deviates else "pass", judged.times])
    return [*csv.reader(as_csv(rows).splitlines())]


def test_figures_of_a_module_call():
    found, expected = torch.tensor([[3.0, 4.004, 0.5]]), torch.tensor([[3.0, 4.0, 0.0]])
    columns, _, row = table_of("lm_head", "Linear", found, expected, calls=2)
    assert columns == list(COLUMNS)
    values = dict(zip(columns, row, strict=True))
    assert values["NPU Name"] == values["Bench Name"] == "Module.lm_head.Linear.forward.1.output.0"
    assert (values["NPU Dtype"], values["Bench Dtype"], values["NPU Tensor Shape"]) == ("float16", "float32", "[1, 3]")
    assert float(values["Cosine"]) == pytest.approx((9 + 4.004 * 4) / (5 * (9 + 4.004**2 + 0.25) ** 0.5), rel=1e-5)
    assert float(values["EucDist"]) == pytest.approx((0.004**2 + 0.25) ** 0.5, rel=1e-5)
    assert float(values["MaxAbsErr"]) == 0.5
    assert float(values["MaxRelativeErr"]) == pytest.approx(0.001, rel=1e-3)  # an element that is 0 has none
    assert float(values["One Thousandth Err Ratio"]) == 0.5
    assert float(values["Five Thousandths Err Ratio"]) == 1
    assert [float(values[f"Bench {each}"]) for each in ("max", "min", "l2norm")] == [4, 0, 5]
    assert float(values["NPU mean"]) == pytest.approx(7.504 / 3, rel=1e-5)
    assert values["Result"] == "error"
    assert float(values["Error Over Tolerance"]) == pytest.approx(0.5 / 5 / 2**-8, rel=1e-3)


def test_another_shape_has_no_figures():
    columns, row = table_of("norm", "LlamaRMSNorm", torch.zeros(2), torch.zeros(3), calls=1)
    values = dict(zip(columns, row, strict=True))
    assert (values["Cosine"], values["Result"], values["Error Over Tolerance"]) == ("nan", "error", "inf")
