"""How far a device's numbers are from the CPU's, in units of what the device's dtype explains."""

import math
from dataclasses import dataclass

import torch

from videobench.tolerances import TOLERANCES

EXPLAINED = {getattr(torch, dtype): each.module for dtype, each in TOLERANCES.items()}
EXPLAINED[torch.float64] = EXPLAINED[torch.float32]
LIMIT = 8.0  # times what is explained: what is further off departs
# A single row or column of a result may lie so far above the whole.
ROW_ALLOWANCE = 3.0
LEAST_SUMMED = 16  # a row or column of fewer numbers says too little about a norm
SINGLE_ALLOWANCE = 10.0  # of a single number, where columns are shorter: as one letter's logit in a decoding step
FEW = 0.1  # of all numbers: so many say where it departs
SMALL = 0.3  # of the middle row's norm: smaller rows are what others left over, and are measured against that
TINY = 1e-30


@dataclass(frozen=True)
class Deviation:
    """Of one tensor."""

    times: float  # the error over what the dtype explains; infinite where the two cannot be compared as numbers
    relative: float = 0.0  # error of the whole, norm-wise
    where: str = ""  # "from position 512 on"; "" where it is everywhere
    overflow: bool = False  # infinite or NaN where the CPU has a number

    @property
    def departs(self) -> bool:
        return self.times > LIMIT


def deviation(
    found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype, noise: torch.Tensor | None = None
) -> Deviation:
    """Of the device's `found` from the CPU's `expected`, both on the host; the device computed in `dtype`.

    `noise` is how much `expected` changes where its inputs are rounded: what it shows is explained, too."""
    if found.shape != expected.shape:
        return Deviation(math.inf, where=f"of shape {tuple(found.shape)} in place of {tuple(expected.shape)}")
    if found.numel() == 0:
        return Deviation(0.0)
    if not found.is_floating_point() or not expected.is_floating_point():
        wrong = found != expected
        return Deviation(math.inf, where=_where(found, wrong)) if bool(wrong.any()) else Deviation(0.0)
    known = expected.isfinite()
    lost = known & ~found.isfinite()
    if bool(lost.any()):
        return Deviation(math.inf, where=_where(found, lost), overflow=True)
    if not bool(known.all()):
        found, expected = (torch.where(known, each, 0.0) for each in (found, expected))
    return _numbers(found, expected, EXPLAINED[dtype], noise)


def _numbers(found: torch.Tensor, expected: torch.Tensor, unit: float, noise: torch.Tensor | None) -> Deviation:
    error, size = (_matrix(each).square() for each in (found.float() - expected, expected))
    spread = None if noise is None else _matrix(noise).square()
    explained = unit**2 * size.sum()
    relative = float((error.sum() / size.sum().clamp_min(TINY)).sqrt())
    if spread is not None:
        explained = explained.maximum(spread.sum())
    times = float((error.sum() / explained.clamp_min(TINY)).sqrt())
    wrong, sharpest = torch.ones_like(error, dtype=torch.bool), 0.0
    for dim in (0, 1):  # columns, rows
        if error.shape[dim] < LEAST_SUMMED or error.shape[1 - dim] == 1:
            continue
        sizes = size.sum(dim)
        explained = unit**2 * sizes.maximum(SMALL**2 * sizes.median())
        if spread is not None:
            explained = explained.maximum(spread.sum(dim))
        lines = (error.sum(dim) / explained.clamp_min(TINY)).sqrt() / ROW_ALLOWANCE
        if (largest := float(lines.max())) > max(sharpest, LIMIT):
            wrong, sharpest = (lines > LIMIT).unsqueeze(dim).expand_as(error), largest
        times = max(times, largest)
    if error.shape[0] < LEAST_SUMMED:
        rows = size.mean(1, keepdim=True)
        explained = unit**2 * size.maximum(rows).maximum(SMALL**2 * rows.median())
        if spread is not None:
            explained = explained.maximum(spread).maximum(spread.mean(1, keepdim=True))
        singles = (error / explained.clamp_min(TINY)).sqrt() / SINGLE_ALLOWANCE
        if (largest := float(singles.max())) > sharpest and 0 < (singles > LIMIT).float().mean() < FEW:
            wrong = singles > LIMIT
        times = max(times, largest)
    return Deviation(times, relative, _where(found, wrong) if times > LIMIT else "")


def _matrix(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1, tensor.shape[-1]) if tensor.dim() else tensor.reshape(1, 1)


def _where(tensor: torch.Tensor, wrong: torch.Tensor) -> str:
    """In words: which positions (the last dimension but one), else which channels (the last one)."""
    wrong = wrong.reshape(tensor.shape)
    if tensor.dim() < 2 or not bool(wrong.any()):
        return ""
    texts = []
    for name, dim in (("position", -2), ("channel", -1)):
        found = wrong.movedim(dim, 0).flatten(1).any(1)
        first, count, total = int(found.int().argmax()), int(found.sum()), len(found)
        if count == total:
            continue
        if count == total - first and count > 1:
            texts.append(f"from {name} {first} on, of {total}")
        else:
            texts.append(f"in {name} {first}" + (f" and {count - 1} more" if count > 1 else "") + f" of {total}")
    return ", ".join(texts)
