"""How far a device's numbers are from the CPU's, in multiples of what rounding in the device's dtype explains."""

import math
from dataclasses import dataclass

import torch

from videobench.tolerances import TOLERANCES

EXPLAINED = {getattr(torch, dtype): each.module for dtype, each in TOLERANCES.items()}
EXPLAINED[torch.float64] = EXPLAINED[torch.float32]
# The tolerance is so many times what rounding explains. Sound devices stayed below 0.07 of it in float32, 0.6 in 16
# bits (benchmarks/README.md).
LIMIT = 8.0
# A single row or column may deviate so many times as much as the whole.
ROW_ALLOWANCE = 3.0
LEAST_SUMMED = 16  # the norm of a shorter row or column says too little
SINGLE_ALLOWANCE = 10.0  # for a single number if columns are shorter, as one letter's logit in a decoding step
FEW = 0.1  # of all numbers: up to this share the place of the deviation is named
SMALL = 0.3  # of the median row's norm: smaller rows are measured against this, as they may be mere remainders
TINY = 1e-30
LARGE = 1e15  # squares of larger numbers may overflow in float32


@dataclass(frozen=True)
class Deviation:
    """How far one tensor is from the expected one."""

    times: float  # the error over the tolerance; infinite if the two cannot be compared as numbers
    greatest: float = math.inf  # absolute difference; infinite if the two cannot be compared as numbers
    index: tuple[int, ...] = ()  # of the greatest difference, or of the first element that differs
    allowed: float = 0.0  # absolute difference that is allowed at this index
    beyond: float = 0.0  # share of the elements that differ by more than is allowed
    where: str = ""  # "positions 512 to 1154 of 1155"; "" if it is everywhere
    overflow: bool = False  # infinite or NaN although the CPU has a number

    @property
    def deviates(self) -> bool:
        return self.times > 1

    @property
    def text(self) -> str:
        """Describe the deviation in the words of torch.testing."""
        share = f"{100 * self.beyond:.3g} % of the elements"
        if self.overflow:
            parts = [f"{share} are infinite or NaN but numbers on the CPU, first at index {self.index}"]
        elif not math.isinf(self.times):
            allowed = f"(up to {self.allowed:.2g} allowed)"
            greatest = f"greatest absolute difference: {self.greatest:.2g} at index {self.index} {allowed}"
            parts = [greatest, f"{share} mismatched", in_tolerances(self.times)]
        else:
            parts = [f"{share} differ, first at index {self.index}"] if self.beyond else []
        return "; ".join([*parts, *([self.where] if self.where else [])])


def in_tolerances(times: float) -> str:
    """ "73 times the tolerance"."""
    return f"{f'{times:,.0f}' if times >= 10 else f'{times:.2g}'} times the tolerance"


def deviation(
    found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype, noise: torch.Tensor | None = None
) -> Deviation:
    """Compare the device's `found` with the CPU's `expected`, both on the host; the device computed in `dtype`.

    `noise` is how much `expected` changes if its inputs are rounded; that much is allowed, too."""
    if found.shape != expected.shape:
        return Deviation(math.inf, where=f"the shape is {tuple(found.shape)}, on the CPU {tuple(expected.shape)}")
    if found.numel() == 0:
        return Deviation(0.0)
    if not found.is_floating_point() or not expected.is_floating_point():
        return _unequal(found != expected)
    known = expected.isfinite()
    lost = known & ~found.isfinite()
    if bool(lost.any()):
        return _unequal(lost, overflow=True)
    if not bool(known.all()):
        found, expected = (torch.where(known, each, 0.0) for each in (found, expected))
    return _numbers(found, expected, EXPLAINED[dtype] * LIMIT, noise)


def _unequal(wrong: torch.Tensor, overflow: bool = False) -> Deviation:
    """Judge what rounding cannot explain."""
    if not bool(wrong.any()):
        return Deviation(0.0)
    first = tuple(wrong.nonzero()[0].tolist())
    share = float(wrong.double().mean())
    return Deviation(math.inf, index=first, beyond=share, where=_where(wrong), overflow=overflow)


def _numbers(found: torch.Tensor, expected: torch.Tensor, unit: float, noise: torch.Tensor | None) -> Deviation:
    if max(float(found.abs().max()), float(expected.abs().max())) > LARGE:
        found, expected = found.double(), expected.double()
    error, size = (_matrix(each).square() for each in (found - expected, expected))
    spread = torch.zeros_like(size) if noise is None else _matrix(LIMIT * noise.to(size.dtype)).square()
    times = float((error.sum() / (unit**2 * size.sum()).maximum(spread.sum()).clamp_min(TINY)).sqrt())
    wrong, sharpest = torch.ones_like(error, dtype=torch.bool), 0.0
    for dim in (0, 1):  # columns, rows
        if error.shape[dim] < LEAST_SUMMED or error.shape[1 - dim] == 1:
            continue
        sizes = size.sum(dim)
        allowed = (unit**2 * sizes.maximum(SMALL**2 * sizes.median())).maximum(spread.sum(dim))
        lines = (error.sum(dim) / allowed.clamp_min(TINY)).sqrt() / ROW_ALLOWANCE
        if (largest := float(lines.max())) > max(sharpest, 1):
            wrong, sharpest = (lines > 1).unsqueeze(dim).expand_as(error), largest
        times = max(times, largest)
    if error.shape[0] < LEAST_SUMMED:
        rows = size.mean(1, keepdim=True)
        allowed = unit**2 * size.maximum(rows).maximum(SMALL**2 * rows.median())
        allowed = allowed.maximum(spread).maximum(spread.mean(1, keepdim=True))
        singles = (error / allowed.clamp_min(TINY)).sqrt() / SINGLE_ALLOWANCE
        if (largest := float(singles.max())) > sharpest and 0 < (singles > 1).float().mean() < FEW:
            wrong = singles > 1
        times = max(times, largest)
    if times <= 1:
        return Deviation(times)
    allowed = (unit**2 * size.maximum(SMALL**2 * size.mean())).maximum(spread)  # of each element
    at = int(error.argmax())
    greatest, allowed_there = (float(each.flatten()[at].sqrt()) for each in (error, allowed))
    index = tuple(map(int, torch.unravel_index(torch.tensor(at), expected.shape))) if expected.dim() else ()
    beyond = float((error > allowed).double().mean())
    return Deviation(times, greatest, index, allowed_there, beyond, _where(wrong.reshape(expected.shape)))


def _matrix(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1, tensor.shape[-1]) if tensor.dim() else tensor.reshape(1, 1)


def _where(wrong: torch.Tensor) -> str:
    """Name the rows of the batch (or frames), positions (the last dimension but one) and channels (the last)."""
    if wrong.dim() < 2 or not bool(wrong.any()):
        return ""
    texts = []
    for name, dim in (("row", 0), ("position", -2), ("channel", -1))[wrong.dim() < 3 :]:
        found = wrong.movedim(dim, 0).flatten(1).any(1).nonzero()[:, 0].tolist()
        first, last, total = found[0], found[-1], wrong.shape[dim]
        if len(found) == total:
            continue
        if first == last:
            texts.append(f"{name} {first} of {total}")
        elif len(found) == last - first + 1:
            texts.append(f"{name}s {first} to {last} of {total}")
        else:
            texts.append(f"{name} {first} and {len(found) - 1} more of {total}")
    return ", ".join(texts)
