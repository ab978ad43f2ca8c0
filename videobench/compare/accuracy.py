"""Accuracy and smoothed accuracy of two runs, and their difference with its interval; smoothed accuracy decides.

If a question's two best options are within the rounding noise, its answer is a coin toss, and two sound runs differ in
hardly anything but such tosses. The log-probabilities show which answers these are. So an answer is credited not with 0
or 1 but with Phi(lead / bandwidth), where `lead` is the log-probability of the right option less that of the best wrong
one: a clear answer counts 1 or 0, a tie a half (J. Horowitz, A smoothed maximum score estimator, Econometrica 60,
1992). This estimates the same difference with less variance. The bandwidth is chosen from the leads, so that most of
them are wider.

A pair of replies is smoothed only if both follow their log-probabilities: the letter that was read is the most probable
option, and the options have most of the probability. Otherwise both count 0 or 1, as read: a reply that goes wrong
after its first token counts in full.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from videobench.compare.pairing import Answers, Pair, leads_of, tabulate
from videobench.compare.scoring import LEVEL_OF, Score, score, weighted_average
from videobench.compare.settings import SIDES
from videobench.compare.statistics import (
    PRIOR_CORRELATION,
    Z95,
    FloatArray,
    Interval,
    cluster_error,
    cluster_sums,
    cohen_kappa,
    flip_effect,
    holm,
    normal_cdf,
    sign_flip_p,
    student_quantile,
)
from videobench.data.dataset import DATASET_NAMES

WIDEST_BANDWIDTH = 0.5  # nats
LEADS_TO_BANDWIDTH = 2.5  # median lead of the right option, right or wrong, over the bandwidth
ONE_TAIL = {True: 1.2815515655446004, False: 1.6448536269514722}  # one-sided or not: normal points, 10 % outside
SAFETY = 1.25  # factor on the standard error, which is itself an estimate
ALL_QUESTIONS = 17_036  # of Video-Bench
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
        """Interval by Student's t, never narrower than `unseen`; with a single video nothing is known."""
        if self.videos < 2:
            return -100.0, 100.0
        half = math.hypot(student_quantile(level, self.videos - 1) * self.error, self.unseen)
        return max(-100.0, self.difference - half), min(100.0, self.difference + half)

    @property
    def differs(self) -> bool:
        """Whether the difference is too large to be chance."""
        return self.videos > 1 and abs(self.difference) > student_quantile(0.95, self.videos - 1) * self.error

    @property
    def unseen(self) -> float:
        """Points by which the runs may differ although no question shows it: if z^2 / n of all questions flip, a sample
        has a flip with a chance of 95 %."""
        return min(100.0, 100 * Z95**2 * self.effect / self.questions)


@dataclass(frozen=True)
class Smoothed:
    estimate: Estimate
    lead: float  # median of the reference's leads of the right option, right or wrong, nats
    bandwidth: float  # nats
    share: float  # of the pairs that count by their log-probabilities, 0 to 1


def estimate_smoothed(answers: Answers) -> Smoothed | None:
    """Estimate smoothed accuracy; None if no pair has log-probabilities that can be used: then accuracy decides."""
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
    """The right option's lead in nats, (questions, 2); nan if a reply does not follow its log-probabilities.

    If only a bound of an option is known, the bound is used: it is nearer to the other options than the true value."""
    leads = np.stack([leads_of(answers.scores[:, side], answers.right) for side in (0, 1)], axis=1)
    best = np.nan_to_num(answers.scores, nan=-np.inf).max(axis=2, initial=-np.inf)
    columns = np.clip(answers.letters, 0, answers.scores.shape[2] - 1)[:, :, None]
    read = np.take_along_axis(answers.scores, columns, axis=2)[:, :, 0]
    follows = (answers.letters >= 0) & (read == best) & (answers.mass >= LEAST_OPTION_MASS)
    return np.where(follows, leads, np.nan)


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
    """How many such questions, including these, give PASS with a chance of 90 % if the runs do not differ; None if no
    feasible number does.

    A larger sample has more questions on each video: the worst case that this sample suggests is assumed."""

    def at_most(count: float) -> float:
        return count + 2 * math.sqrt(count) + 3

    have = estimate.questions
    pairs = (estimate.effect - 1) / PRIOR_CORRELATION * have / 2  # of questions on one video

    def suffices(questions: int) -> bool:
        size = min(questions, ALL_QUESTIONS)
        most = at_most(at_most(pairs) * size / have * (size - 1) / max(1, have - 1))
        effect = 1 + PRIOR_CORRELATION * 2 * most / size
        error = SAFETY * estimate.error * math.sqrt(have / questions * max(1.0, effect / estimate.effect))
        chance, known = ONE_TAIL[one_sided] * error, have / questions  # share of questions that are known already
        moved = max(chance, known * abs(estimate.difference) + chance * math.sqrt(1 - known))
        return moved + math.hypot(Z95 * error, 100 * Z95**2 * effect / questions) < margin

    steps = itertools.chain(range(10, 500, 10), range(500, MOST_QUESTIONS, 100))
    return next((each for each in steps if each > have and suffices(each)), None)


@dataclass(frozen=True)
class Paired:
    """The questions that both files have."""

    both_right: int
    candidate_only: int  # right on the candidate alone
    reference_only: int
    both_wrong: int
    same_letter: int  # two unreadable or failed replies count as the same
    kappa: float | None  # of the letters; None if both sides gave one letter throughout
    estimate: Estimate  # of the difference of accuracy
    p_value: float  # exact McNemar
    p_clustered: float  # of the sign test with whole videos as units

    @property
    def questions(self) -> int:
        return self.estimate.questions

    @property
    def agreement(self) -> float:
        return self.same_letter / self.questions

    @property
    def candidate_accuracy(self) -> float:
        """The candidate's accuracy over these questions, 0 to 1."""
        return (self.both_right + self.candidate_only) / self.questions

    @property
    def reference_accuracy(self) -> float:
        return (self.both_right + self.reference_only) / self.questions


@dataclass(frozen=True)
class Accuracy:
    """Scores and paired statistics of a data set, a level, or everything."""

    candidate: Score  # missing answers count as wrong here
    reference: Score
    paired: Paired | None  # None if no question has a row on both sides
    p_corrected: float | None = None  # p_clustered, Holm's correction over the data sets


@dataclass(frozen=True)
class Accuracies:
    overall: Accuracy
    per_dataset: dict[str, Accuracy]  # in the order of the benchmark
    per_level: dict[int, Accuracy]
    weighted: dict[str, dict[int | str, float]]  # side -> level or "all" -> leaderboard average, 0 to 1


def compare_groups(pairs: Sequence[Pair]) -> Accuracies:
    """Compare by data set, by level and in all.

    A pair may lack a reply on one side: it counts as wrong in the scores, and the paired statistics leave it out."""
    found = {pair.dataset for pair in pairs}
    names = [*(name for name in DATASET_NAMES if name in found), *sorted(found - {*DATASET_NAMES})]
    per_dataset = {name: compare([pair for pair in pairs if pair.dataset == name]) for name in names}
    tested = {name: group.paired.p_clustered for name, group in per_dataset.items() if group.paired}
    corrected = dict(zip(tested, holm(list(tested.values())), strict=True))
    per_dataset = {name: replace(group, p_corrected=corrected.get(name)) for name, group in per_dataset.items()}
    levels = sorted({LEVEL_OF[name] for name in names if name in LEVEL_OF})
    return Accuracies(
        overall=compare(pairs),
        per_dataset=per_dataset,
        per_level={level: compare([each for each in pairs if LEVEL_OF.get(each.dataset) == level]) for level in levels},
        weighted={
            side: weighted_average({name: getattr(group, side).accuracy for name, group in per_dataset.items()})
            for side in SIDES.values()
        },
    )


def compare(pairs: Sequence[Pair]) -> Accuracy:
    """Compute scores over all `pairs`, and paired statistics over those with a row on both sides."""
    compared = [pair for pair in pairs if pair.candidate.reply and pair.reference.reply]
    return Accuracy(
        candidate=score(pair.candidate.outcome for pair in pairs),
        reference=score(pair.reference.outcome for pair in pairs),
        paired=compare_paired(tabulate(compared)) if compared else None,
    )


def compare_paired(answers: Answers) -> Paired:
    """Compute the paired statistics of one question or more."""
    candidate, reference = answers.is_right.T
    first, second = answers.letters.T
    moved = candidate.astype(float) - reference
    return Paired(
        both_right=int((candidate & reference).sum()),
        candidate_only=int((moved > 0).sum()),
        reference_only=int((moved < 0).sum()),
        both_wrong=int((~candidate & ~reference).sum()),
        same_letter=int((first == second).sum()),
        kappa=cohen_kappa(first + 1, second + 1),
        estimate=_estimate(answers, answers.is_right.astype(float)),
        p_value=sign_flip_p(moved),
        p_clustered=sign_flip_p(cluster_sums(moved, answers.videos)[0]),
    )
