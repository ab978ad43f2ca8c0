"""What deviates, module by module: found, ordered, and put into words."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from videobench.locate.deviation import Deviation, in_tolerances
from videobench.locate.operators import OUTSIDE, Operator, look_at

SHOWN = 10  # modules after the first, in the text; the JSON has all

NO_OPERATOR = "none deviates when taken one by one: nondeterministic, or the device has a fused one of its own here"


@dataclass(frozen=True)
class Finding:
    """One tensor for which a module's code deviates from the CPU."""

    order: tuple[int, int, int]  # batch, forward pass, event: the order of computing
    kind: str  # the forward pass, of recording.KINDS: "decoding step"
    batch: str  # "video 1"
    module: str  # "model.language_model.layers.0.self_attn"
    call: int  # how often that module was called before, in this batch
    handed_to: str | None  # the inner module that received it; None: it is the module's result
    shape: tuple[int, ...]
    dtype: str
    deviation: Deviation
    operator: Operator | None = None

    @property
    def family(self) -> str:
        """The module's name without the layer's number."""
        return re.sub(r"\.\d+(?=\.|$)", ".*", self.module)

    @property
    def module_call(self) -> tuple[int, str, int]:
        return self.order[0], self.module, self.call

    @property
    def look_at(self) -> str:
        overflows = self.deviation.overflow and self.dtype == "float16"
        return look_at(self.module, self.kind, self.operator.call if self.operator else None, overflows)


@dataclass(frozen=True)
class Family:
    """All deviations in modules of one kind."""

    worst: Finding
    modules: int
    calls: int


@dataclass(frozen=True)
class Findings:
    """What one pass of the check found."""

    dtype: str
    calls: int  # of modules
    largest: float  # largest error of what agrees, over the tolerance
    found: Sequence[Finding]  # in the order of computing

    def families(self) -> list[Family]:
        """Group the findings by kind of module, the worst first."""
        found: dict[str, list[Finding]] = {}
        for each in self.found:
            found.setdefault(each.family, []).append(each)
        families = [
            Family(_worst(each), len({one.module for one in each}), len({one.module_call for one in each}))
            for each in found.values()
        ]
        return sorted(families, key=lambda each: -each.worst.deviation.times)


def _worst(found: Sequence[Finding]) -> Finding:
    """The first finding whose operator is known; otherwise the largest."""
    looked = [each for each in found if each.operator]
    largest = max(found, key=lambda each: each.deviation.times)
    return replace(looked[0], deviation=largest.deviation) if looked else largest


def lines(findings: Findings) -> list[str]:
    """Format the findings for the terminal."""
    if not findings.found:
        return [
            f"{findings.dtype}: all {findings.calls:,} module calls agree with the CPU's float32 "
            f"(largest {in_tolerances(findings.largest)})"
        ]
    first = findings.found[0]
    text = [
        f"{findings.dtype}: {_count(findings)} deviate from the CPU's float32",
        f"  first, in the order of computing: {first.module or 'the whole model'}",
        f"    {_what(first)}: {first.deviation.text}",
        *([f"    {first.deviation.where}"] if first.deviation.where else []),
        f"    in: {first.kind} of {first.batch}",
    ]
    if first.operator:
        text.append(f"    operator: {first.operator.call}")
        text.append(f"              {first.operator.deviation.text}")
        if first.operator.deviation.where:
            text.append(f"              {first.operator.deviation.where}")
    elif first.module not in OUTSIDE:
        text.append(f"    operator: {NO_OPERATOR}")
    text.append(f"    look at: {first.look_at}")
    others = [each for each in findings.families() if each.worst.family != first.family]
    same = next(each for each in findings.families() if each.worst.family == first.family)
    if same.modules > 1:
        text.append(f"  the same in {same.modules} modules {first.family}, {same.calls} calls")
    if others:
        text.append("  others, worst first (computed from the card's inputs, so none follows from another):")
    text += [f"    {_family_line(each)}" for each in others[:SHOWN]]
    if len(others) > SHOWN:
        text.append(f"    and {len(others) - SHOWN} more: --output_json FILE has all")
    return text


def _count(findings: Findings) -> str:
    """ "12 of 487 module calls", "0 of 487 module calls, and the positions"."""
    calls = {each.module_call for each in findings.found if each.module not in OUTSIDE}
    outside = dict.fromkeys(each.module for each in findings.found if each.module in OUTSIDE)
    return ", and ".join([f"{len(calls)} of {findings.calls:,} module calls", *outside])


def _what(finding: Finding) -> str:
    what = f"what it hands to {finding.handed_to.rpartition('.')[2]}, " if finding.handed_to else "its result, "
    return f"{'' if finding.module in OUTSIDE else what}{finding.dtype} {finding.shape}"


def _family_line(family: Family) -> str:
    operator = f", {family.worst.operator.name}" if family.worst.operator else ""
    times = family.worst.deviation.times
    far = "infinite or NaN, or another value" if math.isinf(times) else f"{in_tolerances(times)}"
    if family.worst.module in OUTSIDE:
        return f"{family.worst.module}: {far}"
    name = family.worst.family if family.modules > 1 else family.worst.module
    return f"{name or 'the whole model'}: {far}{operator} ({family.modules} modules, {family.calls} calls)"


def as_json(findings: Findings) -> dict[str, Any]:
    first = findings.found[0] if findings.found else None
    return {
        "dtype": findings.dtype,
        "module_calls": findings.calls,
        "largest_that_agrees": findings.largest,
        "first": first and _finding_json(first),
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
        "handed_to": finding.handed_to,
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


def first_of_families(found: Sequence[Finding], most: int) -> list[int]:
    """Indices of the first findings of up to `most` families, in the order of computing."""
    seen: dict[str, int] = {}
    for index, each in enumerate(found):
        seen.setdefault(each.family, index)
    return list(seen.values())[:most]
