"""The rule of the verdict: what some questions' answers show of the difference, against a margin."""

from collections.abc import Sequence
from dataclasses import dataclass

from videobench.compare.accuracy import Paired, compare_paired
from videobench.compare.pairing import Pair
from videobench.compare.settings import NPU_AND_GPU, Names
from videobench.compare.smoothed import Estimate, can_be_smoothed, estimate_difference
from videobench.compare.statistics import Z95, Z99, Interval

PASS, FAIL, INCONCLUSIVE = "PASS", "FAIL", "INCONCLUSIVE"
SMOOTHED, ACCURACY, DIVERGENCE = "smoothed accuracy", "accuracy", "divergence"
FLIPS, INPUTS, COUNTS = "flips", "inputs", "counts"
ONE_WAY = 0.05  # p of the sign test below which the flips are no coins


@dataclass(frozen=True)
class Evidence:
    """What some pairs show of the difference, NPU minus GPU."""

    accuracy: Paired
    estimate: Estimate  # of smoothed accuracy; of accuracy where a side stores no log-probabilities
    is_smoothed: bool

    def interval(self, z: float = Z95) -> Interval:
        """Of the measure that decides, points; z is Z95 or Z99."""
        if self.is_smoothed:
            return self.estimate.interval(z)
        return self.accuracy.ci95 if z == Z95 else self.accuracy.ci99


def weigh(pairs: Sequence[Pair], seed: int) -> Evidence:
    """`pairs` are one or more; an answer that is missing on a side counts as wrong there."""
    is_smoothed = can_be_smoothed(pairs)
    return Evidence(compare_paired(pairs, seed), estimate_difference(pairs, is_smoothed), is_smoothed)


@dataclass(frozen=True)
class Judgement:
    name: str  # PASS, FAIL or INCONCLUSIVE
    decided_by: str  # SMOOTHED, ACCURACY or FLIPS
    reasons: list[str]  # the deciding one first
    is_open: bool = False  # INCONCLUSIVE, and more questions would decide it


@dataclass(frozen=True)
class Rule:
    margin: float  # points
    one_sided: bool
    names: Names = NPU_AND_GPU

    def judge(self, evidence: Evidence) -> Judgement:
        """By smoothed accuracy, or by accuracy where a side stores no log-probabilities: PASS where the whole 95 %
        interval lies within the margin, FAIL where the whole 99 % interval lies outside, else INCONCLUSIVE.

        Accuracy FAILs a run in any case. Nor is there a PASS where the answers that flipped went one way, unless
        accuracy's own interval lies within the margin: coins fall both ways, and a fault that overturns only right
        answers of a tiny lead hardly moves smoothed accuracy.

        99 % for FAIL: it accuses a port, and where many answers flip in a few hundred questions the 95 % interval lies
        outside the margin in 1 to 1.5 % of comparisons of equals (benchmarks/verdict_power.py)."""
        paired = evidence.accuracy
        by_accuracy, accuracy = self._place(ACCURACY, paired.difference, paired.ci95, paired.ci99)
        if not evidence.is_smoothed:
            return Judgement(by_accuracy, ACCURACY, [accuracy], by_accuracy == INCONCLUSIVE)
        intervals = evidence.interval(Z95), evidence.interval(Z99)
        name, smoothed = self._place(SMOOTHED, evidence.estimate.difference, *intervals)
        one_way = paired.p_clustered < ONE_WAY and not (self.one_sided and paired.difference > 0)
        if name != FAIL and by_accuracy == FAIL and one_way:
            return Judgement(FAIL, ACCURACY, [accuracy, smoothed])
        if name == PASS and one_way and by_accuracy != PASS:
            return Judgement(INCONCLUSIVE, FLIPS, [_one_way(paired, self.names), smoothed, accuracy])
        return Judgement(name, SMOOTHED, [smoothed, accuracy], name == INCONCLUSIVE)

    def passes(self, pairs: Sequence[Pair], seed: int) -> bool:
        return bool(pairs) and self.judge(weigh(pairs, seed)).name == PASS

    def allows_loss_of(self, proportion: float, evidence: Evidence) -> bool:
        """Whether a PASS would hold if this proportion of all answers were lost on one side besides."""
        low, high = evidence.interval()
        return max(-low, -low if self.one_sided else high) + 100 * proportion < self.margin

    def _place(self, measure: str, difference: float, ci95: Interval, ci99: Interval) -> tuple[str, str]:
        """Where the intervals lie, as a name and as a sentence."""
        (low, high), (low99, high99), margin = ci95, ci99, self.margin
        text = f"{measure} differs by {difference:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}"
        limit = f"the margin of {margin:.3g}"
        if -margin < low and (self.one_sided or high < margin):
            return PASS, f"{text}: {'no loss beyond' if self.one_sided else 'all of it within'} {limit}"
        is_above = not self.one_sided
        if high99 < -margin or (is_above and low99 > margin):
            return FAIL, f"{text}: all of it outside {limit}, and so is the 99 % interval"
        if high < -margin or (is_above and low > margin):
            across = f"the 99 % interval, {low99:+.2f} to {high99:+.2f}, reaches across it"
            return INCONCLUSIVE, f"{text}: all of it outside {limit}, but {across}"
        return INCONCLUSIVE, f"{text}: it reaches across {limit}"


def _one_way(paired: Paired, names: Names) -> str:
    return (
        f"the answers that flipped went one way: {paired.gpu_only} are right on {names.gpu.phrase} alone, "
        f"{paired.npu_only} on {names.npu.phrase} alone (sign test over videos, p {paired.p_clustered:.2g}); "
        "coins fall both ways"
    )
