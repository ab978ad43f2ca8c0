"""Smoothed accuracy: what decides whether two runs answer equally well.

Accuracy tosses a coin for each question whose two best options lie within the rounding noise, and two sound runs
differ in hardly anything but those coins. The log-probabilities show which answers are coins. So an answer's credit is
not 0 or 1 but Phi(lead / bandwidth): `lead` is the log-probability of the right option less that of the best wrong one.
A clear answer counts 1 or 0, a tie a half (J. Horowitz, A smoothed maximum score estimator, Econometrica 60, 1992). It
estimates the same difference with less variance. Most leads must be wider than the bandwidth: it follows from them.

A pair of replies counts so only if both follow their log-probabilities: the letter that is read is the most probable
option, and the options have most of the probability. Otherwise both count 0 or 1, as read: a reply that goes wrong
after its first token counts in full.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np

from videobench.compare.answers import Answers, leads_of
from videobench.compare.statistics import (
    Z95,
    FloatArray,
    Interval,
    cluster_error,
    flip_effect,
    normal_cdf,
    student_quantile,
)

WIDEST_BANDWIDTH = 0.5  # nats
LEADS_TO_BANDWIDTH = 2.5  # median lead of the right option, right or wrong, over the bandwidth
ONE_TAIL = {True: 1.2815515655446004, False: 1.6448536269514722}  # one-sided or not: normal points of 10 % in all
SAFETY = 1.25  # of the standard error, which is itself estimated
MOST_QUESTIONS = 1_000_000
LEAST_OPTION_MASS = 0.5  # probability of all options together at the first generated position


@dataclass(frozen=True)
class Estimate:
    """The mean difference of credits of 0 to 1, candidate minus reference, in points."""

    questions: int
    videos: int
    difference: float
    error: float  # cluster-robust standard error
    effect: float  # design effect of the answers that flipped

    def interval(self, level: float = 0.95) -> Interval:
        """By Student's t, and never narrower than what could flip unseen: of one video nothing is known."""
        if self.videos < 2:
            return -100.0, 100.0
        half = math.hypot(student_quantile(level, self.videos - 1) * self.error, self.unseen)
        return max(-100.0, self.difference - half), min(100.0, self.difference + half)

    @property
    def differs(self) -> bool:
        """Whether chance explains the difference badly."""
        return self.videos > 1 and abs(self.difference) > student_quantile(0.95, self.videos - 1) * self.error

    @property
    def unseen(self) -> float:
        """Points that may differ although no question does: with z^2 / n of all a flip shows with a chance of 95 %."""
        return min(100.0, 100 * Z95**2 * self.effect / self.questions)


@dataclass(frozen=True)
class Smoothed:
    estimate: Estimate
    lead: float  # median of the reference's leads of the right option, right or wrong, nats
    bandwidth: float  # nats
    share: float  # of the pairs that count by their log-probabilities, 0 to 1


def estimate_accuracy(answers: Answers) -> Estimate:
    return _estimate(answers, answers.is_right.astype(float))


def estimate_smoothed(answers: Answers) -> Smoothed | None:
    """None if a side stores no log-probabilities, or no pair can be counted by them: then accuracy alone decides."""
    leads = right_leads(answers)
    known = ~np.isnan(leads).any(axis=1)
    if not known.any():
        return None
    lead = float(np.median(np.abs(leads[known, 1])))
    bandwidth = max(1e-6, min(WIDEST_BANDWIDTH, lead / LEADS_TO_BANDWIDTH))
    credits = answers.is_right.astype(float)
    credits[known] = normal_cdf(leads[known] / bandwidth)
    return Smoothed(_estimate(answers, credits), lead, bandwidth, float(known.mean()))


def right_leads(answers: Answers) -> FloatArray:
    """(questions, 2): nats by which the right option leads; nan if a reply does not follow its log-probabilities.

    An option's bound counts as its value: it lies nearer to the others than the option itself does."""
    leads = np.stack([leads_of(answers.scores[:, side], answers.right) for side in (0, 1)], axis=1)
    best = np.nan_to_num(answers.scores, nan=-np.inf).max(axis=2, initial=-np.inf)
    read = np.take_along_axis(answers.scores, np.maximum(answers.letters, 0)[:, :, None], axis=2)[:, :, 0]
    follows = (answers.letters >= 0) & (read == best) & (answers.mass >= LEAST_OPTION_MASS)
    return np.asarray(np.where(follows, leads, np.nan), dtype=float)


def _estimate(answers: Answers, credits: FloatArray) -> Estimate:
    flips = answers.is_right[:, 0].astype(float) - answers.is_right[:, 1]
    moved = credits[:, 0] - credits[:, 1]
    return Estimate(
        questions=len(moved),
        videos=len(np.unique(answers.videos)),
        difference=100 * float(moved.mean()),
        error=100 * cluster_error(moved, answers.videos),
        effect=flip_effect(flips, answers.videos),
    )


def questions_needed(estimate: Estimate, margin: float, one_sided: bool) -> int | None:
    """How many such questions PASS with a chance of 90 % if the runs do not differ; None if no feasible number does."""

    def suffices(questions: int) -> bool:
        error = SAFETY * estimate.error * math.sqrt(estimate.questions / questions)
        return (
            ONE_TAIL[one_sided] * error + math.hypot(Z95 * error, 100 * Z95**2 * estimate.effect / questions) < margin
        )

    steps = itertools.chain(range(10, 500, 10), range(500, MOST_QUESTIONS, 100))
    return next(filter(suffices, steps), None)
