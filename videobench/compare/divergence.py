"""How far apart two runs' option log-probabilities are, beside what rounding explains: the sensitive part.

A broken port moves log-probabilities long before it moves accuracy. But two sound runs differ too: another kernel,
another order of additions, another dtype. What is sound was taken from measurements, in nats:
  Qwen2.5-7B, one input, two engines, root mean square of a token's log-probability: 0.002 in float32, 0.02 to 0.04 in
  bfloat16 (https://github.com/ServiceNow/Fast-LLM/pull/525);
  LLaMA-7B with and without cache, largest difference of a logit: 0.00001 in float32, 0.02 in float16, 0.125 in
  bfloat16 (https://github.com/huggingface/transformers/issues/25420);
  the small model of the tests against itself in float32, median over questions of the largest difference among their
  options: 0.03 in bfloat16 (demo.sh prints it).
TYPICAL_LIMIT is four to five times the largest of them. float32 has float16's: TF32 and HF32 multiply with its 10 bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from videobench.compare.pairing import Pair
from videobench.compare.statistics import FloatArray, cluster_error, number_clusters
from videobench.data.dataset import LETTERS
from videobench.data.replies import Reply

TYPICAL_LIMIT = {"float32": 0.1, "float16": 0.1, "bfloat16": 0.5}  # nats; of a question's largest difference
# Nats: what one rounding moves. The spacing of float16 and bfloat16 numbers from 16 to 32, where a language model's
# largest logits lie, and the difference of two engines in float32: no margin below it is a clear one.
ROUNDING_STEP = {"float32": 0.002, "float16": 2**-6, "bfloat16": 2**-3}
COARSEST = "bfloat16"  # taken where a file does not give its dtype
LOG_FLOOR = -20.0  # nats; below a probability of 2e-9 an option plays no part, and its logarithm is all rounding
SPREAD_MEDIAN = np.array([0.6745, 0.8326, 0.8881, 0.9160, 0.9329])  # of the standard deviation of 2 to 6 normal numbers
BULK_TO_TAIL = 2.5758 / 0.6745  # of a normal distribution: the 99 % point of |x| over the median of |x|


@dataclass(frozen=True)
class Differences:
    """Of the questions that have two shared option letters or more, in the order of `pairs`; arrays of their length."""

    pairs: list[Pair]
    largest: FloatArray  # largest |difference| of an option's log-probability, nats
    spread: FloatArray  # standard deviation of the options' differences, scaled to one median for 2 to 6 options, nats
    common: FloatArray  # |mean| of the options' differences, nats: mass that went to no option, or came from none
    shift: FloatArray  # change from GPU to NPU of the margin between the GPU's two best options, nats
    kl: FloatArray  # Kullback-Leibler divergence of the NPU's option distribution from the GPU's, nats
    by_letter: (
        FloatArray  # (questions, 6): each letter's difference less the mean one of the others; nan: no such option
    )
    # (questions, 2), NPU and GPU: log-probability of the right option less that of the best wrong one; nan: not known
    right_margins: FloatArray
    right_chances: FloatArray  # (questions, 2): probability of the right option among the options; nan: not known
    same_top: NDArray[np.bool_]  # whether both sides' most probable option is the same


@dataclass(frozen=True)
class NoiseFloor:
    margin: float  # nats: a margin up to this is within the noise
    source: str  # in words
    repeat: Differences | None  # the repeated run against its first


def measure(pairs: Sequence[Pair]) -> Differences:
    """Pairs without finite log-probabilities of two shared options or more on both sides are left out.

    A log-probability below LOG_FLOOR counts as LOG_FLOOR."""
    replies = [(pair, pair.npu.reply, pair.gpu.reply) for pair in pairs if pair.npu.reply and pair.gpu.reply]
    npu = np.array([_row(npu, gpu) for _, npu, gpu in replies]).reshape(-1, len(LETTERS))
    gpu = np.array([_row(gpu, npu) for _, npu, gpu in replies]).reshape(-1, len(LETTERS))
    shared = ~(np.isnan(npu) | np.isnan(gpu))  # one side's row may lack an option of the other's
    usable = shared.sum(axis=1) >= 2
    npu, gpu = (np.where(shared, side, np.nan)[usable] for side in (npu, gpu))
    kept = [pair for (pair, _, _), has in zip(replies, usable, strict=True) if has]
    difference = npu - gpu
    right = np.array([LETTERS.find(pair.right) if pair.right else -1 for pair in kept], dtype=np.intp)
    return Differences(
        pairs=kept,
        largest=_row_reduce(np.nanmax, np.abs(difference)),
        spread=_spread(difference),
        common=np.abs(_row_reduce(np.nanmean, difference)),
        shift=_margin_shift(npu, gpu),
        kl=_divergence(gpu, npu),
        by_letter=_against_others(difference),
        right_margins=np.stack([_right_margin(npu, right), _right_margin(gpu, right)], axis=1),
        right_chances=np.stack([_right_chance(npu, right), _right_chance(gpu, right)], axis=1),
        same_top=_top(npu) == _top(gpu),
    )


def _row(reply: Reply, other: Reply) -> list[float]:
    """Log-probabilities of letters A to F, nan where the question or a side lacks the option; all of them nan where
    one is known by a bound alone."""
    values, others = _exact(reply), _exact(other)
    if reply.nonfinite or other.nonfinite or values is None or others is None:
        return [float("nan")] * len(LETTERS)
    options = reply.options or other.options or LETTERS
    return [
        values[letter] if letter in values and letter in others and letter in options else float("nan")
        for letter in LETTERS
    ]


def _exact(reply: Reply) -> dict[str, float] | None:
    """Not below LOG_FLOOR, where a bound says as much as a value; None where an option's bound lies above."""
    if any(reply.bounds[letter] > LOG_FLOOR for letter in reply.bounded):
        return None
    return {letter: max(value, LOG_FLOOR) for letter, value in reply.scores.items()}


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


def _margin_shift(npu: FloatArray, gpu: FloatArray) -> FloatArray:
    order = np.argsort(np.nan_to_num(gpu, nan=-np.inf), axis=1)
    rows, first, second = np.arange(len(gpu)), order[:, -1], order[:, -2]
    return np.asarray((npu[rows, first] - npu[rows, second]) - (gpu[rows, first] - gpu[rows, second]), dtype=float)


def _divergence(reference: FloatArray, other: FloatArray) -> FloatArray:
    """Both distributions over the shared options, each made to sum to 1."""
    if not len(reference):
        return np.zeros(0)
    reference, other = (
        values - np.log(np.nansum(np.exp(values), axis=1, keepdims=True)) for values in (reference, other)
    )
    return np.asarray(np.maximum(0.0, np.nansum(np.exp(reference) * (reference - other), axis=1)), dtype=float)


def _right_margin(values: FloatArray, right: np.ndarray) -> FloatArray:
    rows = np.arange(len(values))
    wrong = values.copy()
    wrong[rows, right] = np.nan
    margin = values[rows, right] - np.nan_to_num(wrong, nan=-np.inf).max(axis=1, initial=-np.inf)
    return np.asarray(np.where(right >= 0, margin, np.nan), dtype=float)


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
    clusters = number_clusters(pair.video for pair, has in zip(differences.pairs, known, strict=True) if has)
    return float(change[known].mean()), cluster_error(change[known], clusters)


def coarser_dtype(pairs: Sequence[Pair]) -> str:
    """The coarser one of both runs' dtypes, COARSEST where one is not stored."""
    order = list(TYPICAL_LIMIT)
    found = {
        str(reply.run.get("dtype", COARSEST)).removeprefix("torch.")
        for pair in pairs
        for reply in (pair.npu.reply, pair.gpu.reply)
        if reply
    }
    return max((name if name in order else COARSEST for name in found), key=order.index, default=COARSEST)


def find_noise_floor(differences: Differences, dtype: str, repeat: Differences | None) -> NoiseFloor:
    """From a repeated run where there is one, else from the bulk of the differences between the devices.

    Not below one rounding step, since a device that repeats itself to the bit still rounds otherwise than another; from
    the bulk not above TYPICAL_LIMIT, so that a fault in every question does not pass for noise."""
    step, limit = ROUNDING_STEP[dtype], TYPICAL_LIMIT[dtype]
    if repeat and len(repeat.pairs):
        margin = float(np.quantile(np.abs(repeat.shift), 0.99))
        source = f"99 % of the margins of the repeated run moved by at most {margin:.4f}"
    elif len(differences.pairs):
        margin = float(np.median(np.abs(differences.shift))) * BULK_TO_TAIL
        source = f"no repeated run: taken from the bulk of the differences (3.8 times the median shift = {margin:.4f})"
        if margin > limit:
            margin, source = limit, f"{source}, but at most what {dtype} explains"
    else:
        return NoiseFloor(step, f"no log-probabilities: one rounding step of {dtype}", None)
    if margin < step:
        margin, source = step, f"{source}, but at least one rounding step of {dtype}"
    return NoiseFloor(margin, source, repeat)
