"""What departs, module by module: found, ordered, and put into words."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from videobench.locate.deviation import Deviation
from videobench.locate.operators import OUTSIDE, Operator, look_at

SHOWN = 10  # modules beside the first, in the text; all of them are in the JSON

NO_OPERATOR = "none departs when taken one by one: it does not repeat itself, or the device has one of its own here"


@dataclass(frozen=True)
class Departure:
    """One thing that a module's code computed otherwise than the CPU."""

    call: str  # of recording.KINDS, where the module is: "decoding step"
    video: int  # the how-manieth of the check
    module: str  # "model.language_model.layers.0.self_attn"
    ordinal: int  # the how-manieth call of that module, from 0, over the whole check
    handed_to: str | None  # the module within it that was given it; None: it is the module's result
    shape: tuple[int, ...]
    dtype: str
    deviation: Deviation
    operator: Operator | None = None

    @property
    def family(self) -> str:
        """The modules of all layers under one name."""
        return re.sub(r"\.\d+(?=\.|$)", ".*", self.module)

    @property
    def look_at(self) -> str:
        overflows = self.deviation.overflow and self.dtype == "float16"
        return look_at(self.module, self.call, self.operator.call if self.operator else None, overflows)


@dataclass(frozen=True)
class Family:
    """All that departs in the modules of one kind."""

    worst: Departure
    modules: int
    calls: int


@dataclass(frozen=True)
class Findings:
    """Of one pass of the check."""

    dtype: str
    calls: int  # of modules
    largest: float  # times what the dtype explains, of what agrees
    departures: Sequence[Departure]  # in the order of computing

    def families(self) -> list[Family]:
        """Worst first."""
        found: dict[str, list[Departure]] = {}
        for each in self.departures:
            found.setdefault(each.family, []).append(each)
        families = [
            Family(_worst(each), len({one.module for one in each}), len({(one.module, one.ordinal) for one in each}))
            for each in found.values()
        ]
        return sorted(families, key=lambda each: -each.worst.deviation.times)


def _worst(departures: Sequence[Departure]) -> Departure:
    """The first of those with an operator, since that was looked into; otherwise the largest."""
    looked = [each for each in departures if each.operator]
    largest = max(departures, key=lambda each: each.deviation.times)
    return replace(looked[0], deviation=largest.deviation) if looked else largest


def lines(findings: Findings) -> list[str]:
    """For people."""
    if not findings.departures:
        return [
            f"{findings.dtype}: all {findings.calls:,} module calls agree with the CPU's float32 "
            f"(largest {findings.largest:.1f} times what {findings.dtype} explains)"
        ]
    first = findings.departures[0]
    text = [
        f"{findings.dtype}: {_count(findings)} depart from the CPU's float32",
        f"  first, in the order of computing: {first.module or 'the whole model'}",
        f"    {_how_far(first)}",
        f"    in: {first.call} of video {first.video + 1}",
    ]
    if first.operator:
        text.append(f"    operator: {first.operator.call}")
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
        text.append("  others, worst first (each by itself: none follows from another):")
    text += [f"    {_family_line(each)}" for each in others[:SHOWN]]
    if len(others) > SHOWN:
        text.append(f"    and {len(others) - SHOWN} more: --output_json FILE has all")
    return text


def _count(findings: Findings) -> str:
    """ "12 of 487 module calls", "0 of 487 module calls, and the positions"."""
    calls = {(each.module, each.ordinal) for each in findings.departures if each.module not in OUTSIDE}
    outside = dict.fromkeys(each.module for each in findings.departures if each.module in OUTSIDE)
    return ", and ".join([f"{len(calls)} of {findings.calls:,} module calls", *outside])


def _how_far(departure: Departure) -> str:
    found = departure.deviation
    if found.overflow:
        how = "infinite or NaN where the CPU has a number"
    elif math.isinf(found.times):
        how = "another value"
    else:
        how = f"{found.times:,.0f} times what {departure.dtype} explains (relative error {found.relative:.1e})"
    what = f"what it hands to {departure.handed_to.rpartition('.')[2]}, " if departure.handed_to else "its result, "
    where = f", {found.where}" if found.where else ""
    return f"{'' if departure.module in OUTSIDE else what}{departure.dtype} {departure.shape}: {how}{where}"


def _family_line(family: Family) -> str:
    operator = f", {family.worst.operator.name}" if family.worst.operator else ""
    times = family.worst.deviation.times
    far = "infinite or NaN, or another value" if math.isinf(times) else f"{times:,.0f} times"
    if family.worst.module in OUTSIDE:
        return f"{family.worst.module}: {far}"
    name = family.worst.family if family.modules > 1 else family.worst.module
    return f"{name or 'the whole model'}: {far}{operator} ({family.modules} modules, {family.calls} calls)"


def as_json(findings: Findings) -> dict[str, Any]:
    first = findings.departures[0] if findings.departures else None
    return {
        "dtype": findings.dtype,
        "module_calls": findings.calls,
        "largest_that_agrees": findings.largest,
        "first": first and _departure_json(first),
        "families": [
            {"modules": each.modules, "calls": each.calls, "worst": _departure_json(each.worst)}
            for each in findings.families()
        ],
        "departures": [_departure_json(each) for each in findings.departures],
    }


def _departure_json(departure: Departure) -> dict[str, Any]:
    times = departure.deviation.times
    return {
        "module": departure.module,
        "handed_to": departure.handed_to,
        "call": departure.call,
        "video": departure.video,
        "shape": list(departure.shape),
        "dtype": departure.dtype,
        "times_explained": None if math.isinf(times) else times,
        "relative_error": departure.deviation.relative,
        "where": departure.deviation.where,
        "overflow": departure.deviation.overflow,
        "operator": departure.operator and departure.operator.call,
        "look_at": departure.look_at,
    }


def first_of_families(departures: Iterable[Departure], most: int) -> list[int]:
    """Indices of the first departures of up to `most` families, in the order of computing."""
    seen: dict[str, int] = {}
    for index, each in enumerate(departures):
        seen.setdefault(each.family, index)
    return list(seen.values())[:most]
