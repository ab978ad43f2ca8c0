"""What deviates: ordered, put into words, as JSON and as a table."""

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from videobench.locate.deviation import Deviation, in_tolerances
from videobench.locate.operators import OUTSIDE, Operator, look_at
from videobench.locate.recording import dtype_name
from videobench.locate.replay import Compared

SHOWN = 10  # kinds of modules after the first, in the text; the JSON has all
NO_OPERATOR = "no single one deviates when repeated: nondeterministic, or a kernel that only the device has"
WHOLE = "the whole model"


@dataclass(frozen=True)
class Finding:
    """One tensor that deviates from the CPU's, and the module whose code computed it."""

    order: tuple[int, int, int]  # batch, forward pass, event: the order of computing
    kind: str  # the forward pass, of recording.KINDS: "decoding step"
    batch: str  # "video 1"
    module: str  # "model.language_model.layers.0.self_attn", or one of operators.OUTSIDE
    call: int  # how often that module was called before, in this batch
    passed_to: str | None  # the inner module that received the tensor; None: it is the module's result
    shape: tuple[int, ...]
    dtype: str
    deviation: Deviation
    operator: Operator | None = None

    @property
    def family(self) -> str:
        """The module's name without the layer's number."""
        return re.sub(r"\.\d+(?=\.|$)", ".*", self.module)

    @property
    def look_at(self) -> str:
        overflows = self.deviation.overflow and self.dtype == "float16"
        return look_at(self.module, self.kind, self.operator.call if self.operator else None, overflows)


@dataclass(frozen=True)
class Family:
    """All findings in modules of one kind, such as the attention of all layers."""

    found: Sequence[Finding]

    @property
    def worst(self) -> Finding:
        return max(self.found, key=lambda each: each.deviation.times)

    @property
    def modules(self) -> int:
        return len({each.module for each in self.found})

    @property
    def calls(self) -> int:
        return len(_calls(self.found))

    @property
    def line(self) -> str:
        times = self.worst.deviation.times
        far = "infinite or NaN, or another value" if math.isinf(times) else in_tolerances(times)
        if self.worst.module in OUTSIDE:
            return f"{self.worst.module}: {far}"
        name = self.worst.family if self.modules > 1 else self.worst.module or WHOLE
        operator = next((f", {each.operator.name}" for each in self.found if each.operator), "")
        return f"{name}: {far}{operator} ({self.modules} modules, {self.calls} calls)"


@dataclass(frozen=True)
class Findings:
    """What one pass of the check found."""

    dtype: str
    calls: int  # of modules
    largest: float  # largest error of what agrees, over the tolerance
    found: Sequence[Finding]  # in the order of computing
    rows: Sequence[Sequence[Any]] = field(default=(), repr=False)  # of the table, if one is wanted

    def families(self) -> list[Family]:
        """Group the findings by kind of module, the worst first."""
        found: dict[str, list[Finding]] = {}
        for each in self.found:
            found.setdefault(each.family, []).append(each)
        return sorted(map(Family, found.values()), key=lambda each: -each.worst.deviation.times)


def _calls(found: Sequence[Finding]) -> set[tuple[int, str, int]]:
    return {(each.order[0], each.module, each.call) for each in found}


def lines(findings: Findings) -> list[str]:
    """Format the findings for the terminal."""
    if not findings.found:
        return [
            f"{findings.dtype}: all {findings.calls:,} module calls agree with the CPU's float32 "
            f"(largest error: {in_tolerances(findings.largest)})"
        ]
    first = findings.found[0]
    what = f"{first.dtype} {first.shape}: {first.deviation.text}"
    if first.module not in OUTSIDE:
        what = (f"what it passes to {first.passed_to.rpartition('.')[2]}, " if first.passed_to else "result, ") + what
    text = [
        f"{findings.dtype}: {_count(findings)} deviate from the CPU's float32",
        f"  first, in the order of computing: {first.module or WHOLE}",
        f"    in: {first.kind} of {first.batch}",
        f"    {what}",
    ]
    if first.operator:
        text += [f"    operator: {first.operator.call}", f"      {first.operator.deviation.text}"]
    elif first.module not in OUTSIDE:
        text.append(f"    operator: {NO_OPERATOR}")
    text.append(f"    look at: {first.look_at}")
    families = findings.families()
    others = [each for each in families if first not in each.found]
    [same] = [each for each in families if first in each.found]
    if same.modules > 1:
        text.append(f"  {same.modules} modules of this kind deviate: {first.family}, {same.calls} calls")
    if others:
        text.append("  others, worst first (each computed from the device's own inputs, so none follows from another):")
    text += [f"    {each.line}" for each in others[:SHOWN]]
    if len(others) > SHOWN:
        text.append(f"    and {len(others) - SHOWN} more: --output_json FILE has all")
    return text


def _count(findings: Findings) -> str:
    """ "12 of 487 module calls", "0 of 487 module calls, and the positions"."""
    in_modules = [each for each in findings.found if each.module not in OUTSIDE]
    outside = dict.fromkeys(each.module for each in findings.found if each.module in OUTSIDE)
    return ", and ".join([f"{len(_calls(in_modules))} of {findings.calls:,} module calls", *outside])


def as_json(findings: Findings) -> dict[str, Any]:
    return {
        "dtype": findings.dtype,
        "module_calls": findings.calls,
        "largest_that_agrees": findings.largest,
        "first": _finding_json(findings.found[0]) if findings.found else None,
        "families": [
            {"modules": each.modules, "calls": each.calls, "worst": _finding_json(each.worst)}
            for each in findings.families()
        ],
        "findings": [_finding_json(each) for each in findings.found],
    }


def _finding_json(finding: Finding) -> dict[str, Any]:
    numbers = {
        "times_tolerance": finding.deviation.times,
        "greatest_absolute_difference": finding.deviation.greatest,
        "share_beyond_tolerance": finding.deviation.beyond,
    }
    return {
        "module": finding.module,
        "handed_to": finding.passed_to,
        "kind": finding.kind,
        "batch": finding.batch,
        "shape": list(finding.shape),
        "dtype": finding.dtype,
        **{name: value if math.isfinite(value) else None for name, value in numbers.items()},
        "index": list(finding.deviation.index),
        "where": finding.deviation.where,
        "overflow": finding.deviation.overflow,
        "operator": finding.operator and finding.operator.call,
        "look_at": finding.look_at,
    }


# --- The table of --output_csv, with the columns of msprobe's comparison, which existing tools read ---

COLUMNS = (
    "NPU Name", "Bench Name", "NPU Dtype", "Bench Dtype", "NPU Tensor Shape", "Bench Tensor Shape",
    "Cosine", "EucDist", "MaxAbsErr", "MaxRelativeErr", "One Thousandth Err Ratio", "Five Thousandths Err Ratio",
    "NPU max", "NPU min", "NPU mean", "NPU l2norm", "Bench max", "Bench min", "Bench mean", "Bench l2norm", "Result",
    "Error Over Tolerance",  # ours
)  # fmt: skip


def table_row(compared: Compared, module_class: str) -> list[Any]:
    """The columns of a module's first result from "NPU Dtype" to "Bench l2norm", after the module's name."""
    name = ".".join(filter(None, ("Module", compared.module, module_class)))
    dtypes = dtype_name(compared.dtype), dtype_name(compared.expected.dtype)
    shapes = [str(list(each.shape)) for each in (compared.found, compared.expected)]
    return [name, *dtypes, *shapes, *_errors(compared.found.double(), compared.expected.double())]


def as_csv(rows: Sequence[Sequence[Any]]) -> str:
    """Write rows: a `table_row`, the result and the error over the tolerance. Calls of a module are counted."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    calls: Counter[tuple[str, str]] = Counter()
    for module, dtype, *others in rows:
        name = f"{module}.forward.{calls[module, dtype]}.output.0"
        calls[module, dtype] += 1
        writer.writerow([name, name, dtype, *(f"{each:.6g}" if isinstance(each, float) else each for each in others)])
    return file.getvalue()


def _errors(found: torch.Tensor, expected: torch.Tensor) -> list[float]:
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
