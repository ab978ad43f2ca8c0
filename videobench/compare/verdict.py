"""PASS, FAIL or INCONCLUSIVE: is the NPU as good as the GPU, within a margin, and how sure is that?"""

import math
from dataclasses import dataclass

from videobench.compare.accuracy import Groups, Paired, compare_paired
from videobench.compare.diagnosis import Diagnosis
from videobench.compare.pairing import Pairing
from videobench.compare.same_inputs import Inputs
from videobench.compare.statistics import Z95, Z99

PASS, FAIL, INCONCLUSIVE = "PASS", "FAIL", "INCONCLUSIVE"
Z80, Z90 = 0.8416, 1.2816  # a decision is "probable" with a chance of 80 %; without a difference two ends can spoil it


@dataclass(frozen=True)
class Verdict:
    name: str  # PASS, FAIL or INCONCLUSIVE
    margin: float  # points
    reasons: list[str]  # sentences, the deciding one first
    # Would probably decide it, were the true difference the one seen; None of a PASS or FAIL, and where a doubt stands.
    questions_needed: int | None
    questions_needed_if_equal: int | None  # the same, were there no true difference


def decide(pairing: Pairing, groups: Groups, inputs: Inputs, diagnosis: Diagnosis, margin: float, seed: int) -> Verdict:
    """PASS where the whole 95 % interval lies within the margin, FAIL where the whole 99 % interval lies outside or
    the divergence says broken, else INCONCLUSIVE.

    99 % for FAIL: it accuses a port, and where many answers flip in a few hundred questions the 95 % interval lies
    outside the margin in 1 to 1.5 % of comparisons of equals (benchmarks/verdict_power.py); at most 1 % may FAIL.
    No PASS is given where the prompts differ, where one side lacks whole sets, where questions that one side lacks,
    counted as wrong, would undo it, or where without those that neither side gave a letter to there were none.
    """
    paired = groups.overall.paired
    assert paired, "pair_runs makes sure of a common question"
    name, reason = _by_interval(paired, margin)
    reasons = [reason]
    doubts = [] if name == FAIL else _of_inputs(pairing, inputs)  # whatever they are, a FAIL stays one
    if name == PASS:
        doubts += _of_silence(pairing, paired, margin, seed)
    if doubts:
        name, reasons = INCONCLUSIVE, doubts + reasons
    if diagnosis.broken:
        name = FAIL
        reasons = [f"numerically broken: {diagnosis.findings[0].text}", *reasons]
    needed = _questions_needed(paired, paired.difference, margin), _questions_needed(paired, 0.0, margin)
    is_open = name == INCONCLUSIVE and not doubts  # more questions do not remove a doubt
    return Verdict(name, margin, reasons, *(needed if is_open else (None, None)))


def _by_interval(paired: Paired, margin: float) -> tuple[str, str]:
    low, high = paired.ci95
    told = f"the difference is {paired.difference:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}"
    if -margin < low and high < margin:
        return PASS, f"{told}: all of it within the margin of {margin:g}"
    low99, high99 = paired.ci99
    if low99 > margin or high99 < -margin:
        return FAIL, f"{told}: all of it outside the margin of {margin:g}, and so is the 99 % interval"
    if low > margin or high < -margin:
        told99 = f"the 99 % interval, {low99:+.2f} to {high99:+.2f}, reaches across it"
        return INCONCLUSIVE, f"{told}: all of it outside the margin of {margin:g}, but {told99}"
    return INCONCLUSIVE, f"{told}: it reaches across the margin of {margin:g}"


def _of_inputs(pairing: Pairing, inputs: Inputs) -> list[str]:
    """Doubts that more questions do not remove: both sides were not asked the same."""
    doubts = []
    if inputs.differing_prompts:
        doubts.append(
            f"the prompts of {inputs.differing_prompts} questions differ: the devices were not asked the same"
        )
    left_out = {**pairing.sets_only_npu, **pairing.sets_only_gpu}
    if left_out:
        doubts.append(
            f"{sum(left_out.values())} questions are left out, of sets that only one file has ({', '.join(left_out)}): "
            "answer them on both sides, or name files of the same sets"
        )
    return doubts


def _of_silence(pairing: Pairing, paired: Paired, margin: float, seed: int) -> list[str]:
    """Doubts in a PASS: questions without a letter could be what makes it one."""
    doubts = []
    missing = len(pairing.pairs) - len(pairing.compared)
    if missing and _by_interval(compare_paired(pairing.pairs, seed), margin)[0] != PASS:
        doubts.append(
            f"{missing} questions are in one file only; counted as wrong there, they would undo a PASS: answer them"
        )
    # Both sides are equal in those: they would shrink a difference that the others show.
    read = [pair for pair in pairing.compared if pair.npu.letter or pair.gpu.letter]
    silent = len(pairing.compared) - len(read)
    if silent and not (read and _by_interval(compare_paired(read, seed), margin)[0] == PASS):
        doubts.append(
            f"{silent} questions have no letter on either side; without them this would be no PASS: answer them"
        )
    of_all = 100 * pairing.dropped / (len(pairing.pairs) + pairing.dropped)
    if pairing.dropped and max(map(abs, paired.ci95)) + of_all >= margin:
        doubts.append(
            f"{pairing.dropped} questions are left out, a side gave no letter; all of them wrong would undo a PASS: "
            "answer them, or score in another way"
        )
    return doubts


def _questions_needed(paired: Paired, assumed: float, margin: float) -> int | None:
    """So many questions of this kind that the interval would lie on one side of the margin with a chance of 80 %.

    None where the assumed difference is the margin itself: no number of questions decides that."""
    gap = abs(margin - abs(assumed))
    if gap == 0 or not math.isfinite(paired.standard_error):
        return None
    power = Z80 if assumed else Z90
    confidence = Z99 if abs(assumed) > margin else Z95  # of FAIL, of PASS
    return math.ceil(paired.questions * ((confidence + power) * paired.standard_error / gap) ** 2)


def exit_status(verdict: Verdict) -> int:
    """Of `--gate`: 0 PASS, 1 FAIL, 3 INCONCLUSIVE; 2 is wrong input."""
    return {PASS: 0, FAIL: 1, INCONCLUSIVE: 3}[verdict.name]
