"""How far apart two runs' option log-probabilities are, beside what rounding explains: the sensitive part.

A broken port moves log-probabilities long before it moves accuracy; what two sound runs differ by: tolerances.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videobench.compare.pairing import LOG_FLOOR, Answers, Pair, leads_of
from videobench.compare.statistics import Clusters, FloatArray, cluster_error
from videobench.tolerances import TOLERANCES

COARSEST = "bfloat16"  # taken where a file does not give its dtype
SPREAD_MEDIAN = np.array([0.6745, 0.8326, 0.8881, 0.9160, 0.9329])  # of the standard deviation of 2 to 6 normal numbers
BYTES_OF_A_WORD = 8  # of texts without spaces
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
    shift: FloatArray  # from reference to candidate, of the lead of the reference's best option over its second, nats
    kl: FloatArray  # Kullback-Leibler divergence of the candidate's distribution from the reference's, nats
    by_letter: FloatArray  # (questions, 6): each letter's difference less the mean of the others'; nan: no such option
    right_leads: FloatArray  # (questions, 2): lead of the right option over the best wrong one, nats; nan: not known
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
    sides = candidate, reference = [np.where(shared, side, np.nan)[rows] for side in (candidate, reference)]
    difference, right, row = candidate - reference, answers.right[rows], np.arange(len(rows))
    options, mean = (~np.isnan(difference)).sum(axis=1), np.nanmean(difference, axis=1)
    *_, second, first = np.argsort(np.nan_to_num(reference, nan=-np.inf), axis=1).T  # the reference's best options
    top, reference_top = (np.argmax(np.nan_to_num(side, nan=-np.inf), axis=1) for side in sides)
    chances = [np.exp(side) / np.nansum(np.exp(side), axis=1, keepdims=True) for side in sides]
    deviation = np.nansum((difference - mean[:, None]) ** 2, axis=1) / (options - 1)
    return Differences(
        rows=rows,
        pairs=[answers.pairs[row] for row in rows.tolist()],
        videos=answers.videos[rows],
        largest=np.nanmax(np.abs(difference), axis=1),
        spread=np.sqrt(deviation) / SPREAD_MEDIAN[options - 2],
        common=np.abs(mean),
        shift=(candidate[row, first] - candidate[row, second]) - (reference[row, first] - reference[row, second]),
        kl=_divergence(reference, candidate),
        by_letter=np.where(_asks_for_letters(answers, rows)[:, None], _against_others(difference), np.nan),
        right_leads=np.stack([leads_of(side, right) for side in sides], axis=1),
        right_chances=np.stack([np.where(right >= 0, each[row, right], np.nan) for each in chances], axis=1),
        same_top=top == reference_top,
    )


def _asks_for_letters(answers: Answers, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
    """A log's options may be texts, of which A is only the first."""
    texts = [_logged_options(answers.pairs[row]) for row in rows.tolist()]
    return np.array([list(each) == list(each.values()) for each in texts], dtype=bool)


def option_words(pairs: Sequence[Any]) -> int:
    """How many words a log's options have in the middle: their log-likelihoods add up so many roundings."""
    texts = [text for pair in pairs for text in _logged_options(pair).values()]
    counts = [max(1, len(text.split()), len(text.encode()) // BYTES_OF_A_WORD) for text in texts]
    return round(float(np.median(counts))) if counts else 1


def _logged_options(pair: Any) -> dict[str, str]:
    return pair.reply.options if isinstance(pair, Pair) and pair.reply.logged else {}


def _against_others(difference: FloatArray) -> FloatArray:
    """Each option's difference less the mean of the others'."""
    options = (~np.isnan(difference)).sum(axis=1, keepdims=True)
    less: FloatArray = (difference * options - np.nansum(difference, axis=1, keepdims=True)) / (options - 1)
    return less


def without_letter(by_letter: FloatArray, column: int) -> FloatArray:
    """Differences.by_letter where the questions lack that option; nan where a single one is left."""
    options = (~np.isnan(by_letter)).sum(axis=1, keepdims=True)
    difference = by_letter * (options - 1) / np.maximum(options, 1)  # each less the mean of all
    difference[:, column] = np.nan
    difference[(~np.isnan(difference)).sum(axis=1) < 2] = np.nan
    with np.errstate(invalid="ignore", divide="ignore"):
        return _against_others(difference)


def _divergence(*sides: FloatArray) -> FloatArray:
    """Of the second side from the first, over the shared options, each side made to sum to 1."""
    first, second = (side - np.log(np.nansum(np.exp(side), axis=1, keepdims=True)) for side in sides)
    divergence: FloatArray = np.nansum(np.exp(first) * (first - second), axis=1)
    return np.maximum(0.0, divergence)


def right_chance_change(differences: Differences) -> tuple[float, float] | None:
    """Mean change of the right option's probability, 0 to 1, candidate less reference, and its standard error.

    None where it is known of no question."""
    change = differences.right_chances[:, 0] - differences.right_chances[:, 1]
    known = ~np.isnan(change)
    if not known.any():
        return None
    return float(change[known].mean()), cluster_error(change[known], differences.videos[known])


def coarser_dtype(pairs: Sequence[Pair]) -> str:
    """The coarser one of both runs' dtypes, COARSEST where one is not stored."""
    order = list(TOLERANCES)
    replies = (side.reply for pair in pairs for side in pair.sides if side.reply)
    found = {str(each.run.get("dtype", COARSEST)).removeprefix("torch.") for each in replies}
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
