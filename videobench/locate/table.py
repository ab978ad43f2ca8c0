"""Write one row for each module call, with the columns of msprobe's comparison, which existing tools read."""

import csv
import io
from collections import Counter
from typing import Any

import torch

from videobench.locate.deviation import Deviation
from videobench.locate.recording import dtype_name
from videobench.locate.replay import Compared

COLUMNS = (
    "NPU Name", "Bench Name", "NPU Dtype", "Bench Dtype", "NPU Tensor Shape", "Bench Tensor Shape",
    "Cosine", "EucDist", "MaxAbsErr", "MaxRelativeErr", "One Thousandth Err Ratio", "Five Thousandths Err Ratio",
    "NPU max", "NPU min", "NPU mean", "NPU l2norm", "Bench max", "Bench min", "Bench mean", "Bench l2norm", "Result",
    "Error Over Tolerance",  # ours
)  # fmt: skip


class Table:
    def __init__(self) -> None:
        self._rows: list[list[Any]] = []
        self._calls: Counter[tuple[str, torch.dtype]] = Counter()

    def row(self, compared: Compared, module_class: str) -> list[Any]:
        """Fill the columns for a module's first result that do not depend on the deviation."""
        key = compared.module, compared.dtype
        name = ".".join(filter(None, ("Module", compared.module, module_class, f"forward.{self._calls[key]}.output.0")))
        self._calls[key] += 1
        dtypes = dtype_name(compared.dtype), dtype_name(compared.expected.dtype)
        shapes = [str(list(each.shape)) for each in (compared.found, compared.expected)]
        return [name, name, *dtypes, *shapes, *_numbers(compared.found.double(), compared.expected.double())]

    def add(self, row: list[Any], deviation: Deviation) -> None:
        self._rows.append([*row, "error" if deviation.deviates else "pass", deviation.times])

    @property
    def text(self) -> str:
        """The table as CSV."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([f"{each:.6g}" if isinstance(each, float) else each for each in row] for row in self._rows)
        return file.getvalue()


def _numbers(found: torch.Tensor, expected: torch.Tensor) -> list[float]:
    """Compute the error columns of two tensors of one shape; elements that are 0 on the CPU have no relative error."""
    if found.shape != expected.shape or not found.numel():
        return [float("nan")] * 14
    error = (found - expected).abs()
    relative = (error / expected.abs())[expected != 0]
    cosine = torch.nn.functional.cosine_similarity(found.flatten(), expected.flatten(), dim=0)
    shares = [(relative < most).double().mean() for most in (0.001, 0.005)]
    largest = relative.max() if relative.numel() else torch.zeros(())
    both = [[each.max(), each.min(), each.mean(), each.norm()] for each in (found, expected)]
    return [float(each) for each in (cosine, error.norm(), error.max(), largest, *shares, *both[0], *both[1])]
