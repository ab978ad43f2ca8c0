"""How far apart two runs' option log-probabilities are, beside what rounding explains: the sensitive part.

A broken port moves log-probabilities long before it moves accuracy; what two sound runs differ by: tolerances.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from videobench.compare.pairing import LOG_FLOOR, Answers, Pair, leads_of
from videobench.compare.statistics import Clusters, FloatArray, cluster_error
from videobench.tolerances import TOLERANCES

COARSEST = "bfloat16"  # taken where a file does not give its dtype
SPREAD_MEDIAN = np.array([0.6745, 0.8326, 0.8881, 0.9160, 0.9329])  # of the standard deviation of 2 to 6 normal numbers
BULK_TO_TAIL = 2.5758 / 0.6745  # of a normal distribution: the 99 % point of |x| over the median of |x|


@dataclass(frozen=True)
class Differences:
    """Of the questions that have two shared option letters or more, in the order of `pairs`; arrays of their length."""

    rows: NDArray[np.intp]  # of the answers that were measured
    pairs: list[Pair]
    videos: Clusters
    largest: FloatArray  # largest |difference| of an option's log-probability, nats
    spread: FloatArray  # standard deviation of the options' differences, scaled to one median for 2 to 6 options, nats
    common: FloatArray  # |mean| of the options' differences, nats: mass that went to no option, or came from none
    shift: FloatArray  # change from GPU to NPU of the lead of the GPU's best option over its second best, nats
    kl: FloatArray  # Kullback-Leibler divergence of the NPU's option distribution from the GPU's, nats
    by_letter: FloatArray  # (questions, 6): each letter's difference less the mean of the others'; nan: no such option
    # (questions, 2), NPU and GPU: log-probability of the right option less that of the best wrong one; nan: not known
    right_leads: FloatArray
    right_chances: FloatArray  # (questions, 2): probability of the right option among the options; nan: not known
    same_top: NDArray[np.bool_]  # whether both sides' most probable option is the same


@dataclass(frozen=True)
class NoiseFloor:
    lead: float  # nats: a lead up to this is within the noise
    source: str  # in words
    repeat: Differences | None  # the repeated run against its first


def measure(answers: Answers) -> Differences:
    """Questions without finite log-probabilities of two shared options or more on both sides are left out, and those
    of which an option is known by a bound alone.

    A log-probability below LOG_FLOOR counts as LOG_FLOOR."""
    candidate, reference = (np.maximum(answers.scores[:, side], LOG_FLOOR) for side in (0, 1))
    shared = ~np.isnan(candidate + reference)  # a row may lack an option that the other side's has
    shared[answers.vague.any(axis=1)] = False
    rows = np.flatnonzero(shared.sum(axis=1) >= 2)
    candidate, reference = (np.where(shared, side, np.nan)[rows] for side in (candidate, reference))
    difference, right = candidate - reference, answers.right[rows]
    return Differences(
        rows=rows,
        pairs=[answers.pairs[row] for row in rows.tolist()],
        videos=answers.videos[rows],
        largest=_row_reduce(np.nanmax, np.abs(difference)),
        spread=_spread(difference),
        common=np.abs(_row_reduce(np.nanmean, difference)),
        shift=_lead_shift(candidate, reference),
        kl=_divergence(reference, candidate),
        by_letter=_against_others(difference),
        right_leads=np.stack([leads_of(candidate, right), leads_of(reference, right)], axis=1),
        right_chances=np.stack([_right_chance(candidate, right), _right_chance(reference, right)], axis=1),
        same_top=_top(candidate) == _top(reference),
    )


def _row_reduce(reduce, values: FloatArray) -> FloatArray:  # type: ignore[no-untyped-def]
    return np.asarray(reduce(values, axis=1) if len(values) else np.zeros(0), dtype=float)


def _against_others(difference: FloatArray) -> FloatArray:
    """Each option's difference less the mean of the others'."""
    options = (~np.isnan(difference)).sum(axis=1, keepdims=True)
    return np.asarray(
        (difference * options - np.nansum(difference, axis=1, keepdims=True)) / (options - 1), dtype=float
    )


def without_letter(by_letter: FloatArray, column: int) -> FloatArray:
    """Differences.by_letter where the questions lack that option; nan where a single one is left."""
    options = (~np.isnan(by_letter)).sum(axis=1, keepdims=True)
    difference = by_letter * (options - 1) / np.maximum(options, 1)  # each less the mean of all
    difference[:, column] = np.nan
    difference[(~np.isnan(difference)).sum(axis=1) < 2] = np.nan
    with np.errstate(invalid="ignore", divide="ignore"):
        return _against_others(difference)


def _spread(difference: FloatArray) -> FloatArray:
    options = (~np.isnan(difference)).sum(axis=1)
    deviation = difference - _row_reduce(np.nanmean, difference)[:, None]
    return np.asarray(
        np.sqrt(np.nansum(deviation**2, axis=1) / (options - 1)) / SPREAD_MEDIAN[options - 2], dtype=float
    )


def _lead_shift(candidate: FloatArray, reference: FloatArray) -> FloatArray:
    order = np.argsort(np.nan_to_num(reference, nan=-np.inf), axis=1)
    rows, first, second = np.arange(len(reference)), order[:, -1], order[:, -2]
    return np.asarray(
        (candidate[rows, first] - candidate[rows, second]) - (reference[rows, first] - reference[rows, second]),
        dtype=float,
    )


def _divergence(reference: FloatArray, other: FloatArray) -> FloatArray:
    """Both distributions over the shared options, each made to sum to 1."""
    if not len(reference):
        return np.zeros(0)
    reference, other = (
        values - np.log(np.nansum(np.exp(values), axis=1, keepdims=True)) for values in (reference, other)
    )
    return np.asarray(np.maximum(0.0, np.nansum(np.exp(reference) * (reference - other), axis=1)), dtype=float)


def _right_chance(values: FloatArray, right: np.ndarray) -> FloatArray:
    chances = np.exp(values) / np.nansum(np.exp(values), axis=1, keepdims=True)
    return np.asarray(np.where(right >= 0, chances[np.arange(len(values)), right], np.nan), dtype=float)


def _top(values: FloatArray) -> NDArray[np.intp]:
    return np.asarray(np.argmax(np.nan_to_num(values, nan=-np.inf), axis=1), dtype=np.intp)


def right_chance_change(differences: Differences) -> tuple[float, float] | None:
    """Mean change of the right option's probability from GPU to NPU, and its standard error over videos, 0 to 1.

    None where it is known of no question."""
    change = differences.right_chances[:, 0] - differences.right_chances[:, 1]
    known = ~np.isnan(change)
    if not known.any():
        return None
    return float(change[known].mean()), cluster_error(change[known], differences.videos[known])


def coarser_dtype(pairs: Sequence[Pair]) -> str:
    """The coarser one of both runs' dtypes, COARSEST where one is not stored."""
    order = list(TOLERANCES)
    found = {
        str(reply.run.get("dtype", COARSEST)).removeprefix("torch.")
        for pair in pairs
        for reply in (pair.candidate.reply, pair.reference.reply)
        if reply
    }
    return max((name if name in order else COARSEST for name in found), key=order.index, default=COARSEST)


def find_noise_floor(differences: Differences, dtype: str, repeat: Differences | None) -> NoiseFloor:
    """From a repeated run where there is one, else from the bulk of the differences between the devices.

    Not below one rounding step, since a device that repeats itself to the bit still rounds otherwise than another; from
    the bulk not above the dtype's tolerance, so that a fault in every question does not pass for noise."""
    step, limit = TOLERANCES[dtype].step, TOLERANCES[dtype].devices
    if repeat and len(repeat.pairs):
        lead = float(np.quantile(np.abs(repeat.shift), 0.99))
        source = f"99 % of the leads of the repeated run moved by at most {lead:.4f}"
    elif len(differences.pairs):
        lead = float(np.median(np.abs(differences.shift))) * BULK_TO_TAIL
        source = f"no repeated run: taken from the bulk of the differences (3.8 times the median shift = {lead:.4f})"
        if lead > limit:
            lead, source = limit, f"{source}, but at most what {dtype} explains"
    else:
        return NoiseFloor(step, f"no log-probabilities: one rounding step of {dtype}", None)
    if lead < step:
        lead, source = step, f"{source}, but at least one rounding step of {dtype}"
    return NoiseFloor(lead, source, repeat)
