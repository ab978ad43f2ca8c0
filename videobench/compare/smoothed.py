"""Smoothed accuracy: what decides whether two runs answer equally well.

Accuracy tosses a coin for each question whose two best options lie within the rounding noise, and two sound runs
differ in hardly anything but those coins. The log-probabilities show which answers are coins. So an answer's credit is
not 0 or 1 but Phi(m / BANDWIDTH), where m is the log-probability of the right option less that of the best wrong one: a
clear answer counts 1 or 0, a tie a half. That is a kernel-smoothed step (J. Horowitz, A smoothed maximum score
estimator for the binary response model, Econometrica 60 (1992), 505-531). It estimates the same difference as accuracy
with a fraction of its variance; benchmarks/verdict_power.py measures both.

A pair of replies counts so only where both follow their log-probabilities: the letter that is read is the most
probable option, and the options have most of the probability. Otherwise both count 0 or 1, as read: a reply that goes
wrong after its first token counts in full.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from videobench.compare.pairing import Pair, Side
from videobench.compare.scoring import RIGHT
from videobench.compare.statistics import (
    Z95,
    Z99,
    Clusters,
    FloatArray,
    Interval,
    cluster_error,
    flip_effect,
    join_intervals,
    normal_cdf,
    number_clusters,
    tango_interval,
)

BANDWIDTH = 0.5  # nats
LEAST_OPTION_MASS = 0.5  # probability of all options together at the first generated position
CLEAR = 0.5  # of credit: a question that moves by more is a clear flip
Z80, Z90 = 0.8416, 1.2816  # a decision is "probable" with a chance of 80 %
MOST_QUESTIONS = 10_000_000  # where more were needed, no number decides


@dataclass(frozen=True)
class Estimate:
    """The mean difference of credits, NPU minus GPU, in points; in two parts, clear flips and all that moved less."""

    questions: int
    difference: float
    ups: float  # questions whose credit is clearly higher on the NPU; a fraction where it is a prediction
    downs: float
    effect: float  # design effect of the clear flips: their variance over that on videos of one question each
    rest_error: float  # cluster-robust standard error of the other questions' part, points

    def interval(self, z: float = Z95) -> Interval:
        """Tango's for the clear flips, normal for the rest, joined: with no clear flip it is not of width zero, since
        of n questions 3 / n may flip and none be seen."""
        flips = 100 * (self.ups - self.downs) / self.questions
        ups, downs, questions = (each / self.effect for each in (self.ups, self.downs, self.questions))
        low, high = (100 * end for end in tango_interval(ups, downs, questions, z))
        rest = self.difference - flips
        return join_intervals([(flips, (low, high)), (rest, (rest - z * self.rest_error, rest + z * self.rest_error))])

    @property
    def errors(self) -> tuple[float, float]:
        """Standard errors of both parts, points."""
        mean = (self.ups - self.downs) / self.questions
        variance = ((self.ups + self.downs) / self.questions - mean**2) * self.effect / self.questions
        return 100 * math.sqrt(max(0.0, variance)), self.rest_error

    @property
    def at_best(self) -> float:
        """The smallest margin, in points, that as many questions can show: where not one of them moved."""
        return replace(self, difference=0.0, ups=0.0, downs=0.0, rest_error=0.0).interval()[1]

    def predict(self, questions: int, difference: float) -> "Estimate":
        """The same with so many questions of this kind, where the true difference is `difference` points."""
        scale = questions / self.questions
        ups, downs = self.ups * scale, self.downs * scale
        if difference == 0:
            ups = downs = (ups + downs) / 2
        return replace(
            self,
            questions=questions,
            difference=difference,
            ups=ups,
            downs=downs,
            rest_error=self.rest_error / math.sqrt(scale),
        )


def build_estimate(credits: FloatArray, clusters: Clusters) -> Estimate:
    """`credits` is (questions, 2), NPU and GPU, each 0 to 1; `clusters` numbers the questions' videos."""
    moved = credits[:, 0] - credits[:, 1]
    flips = np.where(np.abs(moved) > CLEAR, np.sign(moved), 0.0)
    return Estimate(
        questions=len(moved),
        difference=100 * float(moved.mean()),
        ups=int((flips > 0).sum()),
        downs=int((flips < 0).sum()),
        effect=flip_effect(flips, clusters),
        rest_error=100 * cluster_error(np.where(flips == 0, moved, 0.0), clusters),
    )


def estimate_difference(pairs: Sequence[Pair], is_smoothed: bool) -> Estimate:
    """Of smoothed accuracy, or of accuracy, where each answer counts 0 or 1. `pairs` are one or more."""
    credits = smoothed_credits(pairs) if is_smoothed else _outcomes(pairs)
    return build_estimate(credits, number_clusters(pair.video for pair in pairs))


def can_be_smoothed(pairs: Sequence[Pair]) -> bool:
    """Whether both sides store log-probabilities; otherwise accuracy alone decides."""
    sides = [pair.npu.reply for pair in pairs], [pair.gpu.reply for pair in pairs]
    return all(any(reply and reply.logprobs for reply in replies) for replies in sides)


def smoothed_credits(pairs: Sequence[Pair]) -> FloatArray:
    """(pairs, 2), NPU and GPU: 0 to 1."""
    margins = np.full((len(pairs), 2), np.nan)
    for index, pair in enumerate(pairs):
        npu, gpu = _margin(pair.npu, pair.right), _margin(pair.gpu, pair.right)
        if npu is not None and gpu is not None:
            margins[index] = npu, gpu
    return np.where(np.isnan(margins), _outcomes(pairs), normal_cdf(np.nan_to_num(margins) / BANDWIDTH))


def _outcomes(pairs: Sequence[Pair]) -> FloatArray:
    return np.array([[side.outcome == RIGHT for side in (pair.npu, pair.gpu)] for pair in pairs], dtype=float)


def _margin(side: Side, right: str) -> float | None:
    """Nats: the right option less the best wrong one; None where the reply does not follow its log-probabilities."""
    reply = side.reply
    if reply is None or reply.nonfinite or reply.error:
        return None
    options = reply.scores  # a bound lies nearer to the others than the option itself: the credit nearer to a half
    if right not in options or len(options) < 2 or options.get(side.letter or "") != max(options.values()):
        return None
    if sum(math.exp(options[letter]) for letter in options.keys() & reply.logprobs.keys()) < LEAST_OPTION_MASS:
        return None
    return options[right] - max(value for letter, value in options.items() if letter != right)


def questions_needed(estimate: Estimate, difference: float, margin: float, one_sided: bool) -> int | None:
    """The least number of such questions whose interval decides with a chance of 80 %, by the interval's own formula,
    were `difference` the true one, in points.

    None where no number below MOST_QUESTIONS does: where the difference is the margin itself, or nearly."""
    if not _decides(estimate, MOST_QUESTIONS, difference, margin, one_sided):
        return None
    low, high = 1, MOST_QUESTIONS
    while low < high:
        middle = (low + high) // 2
        if _decides(estimate, middle, difference, margin, one_sided):
            high = middle
        else:
            low = middle + 1
    return high


def _decides(estimate: Estimate, questions: int, difference: float, margin: float, one_sided: bool) -> bool:
    expected = estimate.predict(questions, difference)
    # Without a difference, chance can spoil either end of the interval.
    z = Z90 if difference == 0 and not one_sided else Z80
    if difference < -margin or (difference > margin and not one_sided):
        low, high = _by_chance(expected, -z).interval(Z99)[0], _by_chance(expected, z).interval(Z99)[1]
        return high < -margin or low > margin  # FAIL asks for more than PASS
    low, high = _by_chance(expected, -z).interval()[0], _by_chance(expected, z).interval()[1]
    return low > -margin and (one_sided or high < margin)


def _by_chance(expected: Estimate, z: float) -> Estimate:
    """A sample that lies `z` standard errors off what is expected, by clear flips and by the rest as they vary."""
    flips, rest = expected.errors
    error = math.hypot(flips, rest)
    if not error:
        return expected
    more = expected.questions * z * flips**2 / error / 100  # clear flips
    return replace(
        expected,
        difference=expected.difference + z * error,
        ups=expected.ups + max(0.0, more),
        downs=expected.downs + max(0.0, -more),
    )
