"""The figures of a row, by hand."""

import csv

import pytest
import torch

from videobench.locate.deviation import deviation
from videobench.locate.replay import Compared
from videobench.locate.table import COLUMNS, Table


def test_figures_of_a_module_call():
    found, expected = torch.tensor([[3.0, 4.004, 0.5]]), torch.tensor([[3.0, 4.0, 0.0]])
    table = Table()
    for number in range(2):
        compared = Compared(number, "lm_head", number, None, found, expected, torch.float16)
        table.add(table.row(compared, "Linear"), deviation(found, expected, torch.float16))
    columns, _, row = csv.reader(table.text.splitlines())
    assert columns == list(COLUMNS)
    values = dict(zip(columns, row, strict=True))
    assert values["NPU Name"] == values["Bench Name"] == "Module.lm_head.Linear.forward.1.output.0"
    assert (values["NPU Dtype"], values["Bench Dtype"], values["NPU Tensor Shape"]) == ("float16", "float32", "[1, 3]")
    assert float(values["Cosine"]) == pytest.approx((9 + 4.004 * 4) / (5 * (9 + 4.004**2 + 0.25) ** 0.5), rel=1e-5)
    assert float(values["EucDist"]) == pytest.approx((0.004**2 + 0.25) ** 0.5, rel=1e-5)
    assert float(values["MaxAbsErr"]) == 0.5
    assert float(values["MaxRelativeErr"]) == pytest.approx(0.001, rel=1e-3)  # of 0 there is none
    assert float(values["One Thousandth Err Ratio"]) == 0.5
    assert float(values["Five Thousandths Err Ratio"]) == 1
    assert [float(values[f"Bench {each}"]) for each in ("max", "min", "l2norm")] == [4, 0, 5]
    assert float(values["NPU mean"]) == pytest.approx(7.504 / 3, rel=1e-5)
    assert values["Result"] == "error"
    assert float(values["Error Over Tolerance"]) == pytest.approx(0.5 / 5 / 2**-8, rel=1e-3)


def test_another_shape_has_no_figures():
    found, expected = torch.zeros(2), torch.zeros(3)
    table = Table()
    compared = Compared(0, "norm", 0, None, found, expected, torch.float32)
    table.add(table.row(compared, "LlamaRMSNorm"), deviation(found, expected, torch.float32))
    row = dict(zip(*csv.reader(table.text.splitlines()), strict=True))
    assert (row["Cosine"], row["Result"], row["Error Over Tolerance"]) == ("nan", "error", "inf")
