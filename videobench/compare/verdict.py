"""Decide PASS, FAIL or INCONCLUSIVE: of the rules in `_apply_rules`, the first that holds decides.

A new reason why two runs cannot be compared is just another Obstacle (obstacles.py) and changes nothing here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from videobench.compare.accuracy import Estimate, Paired, Smoothed, compare_paired, estimate_smoothed, questions_needed
from videobench.compare.associations import Outlier, Subgroup, find_outliers
from videobench.compare.divergence import LEAST_MEASURED, SHOWN_GROUPS, Diagnosis, Finding, list_groups
from videobench.compare.obstacles import Obstacle
from videobench.compare.pairing import Answers, Pairing, tabulate
from videobench.compare.settings import NPU_AND_GPU, Margin, Names
from videobench.errors import InputError

PASS, FAIL, INCONCLUSIVE = "PASS", "FAIL", "INCONCLUSIVE"
SMOOTHED, ACCURACY, DIVERGENCE = "smoothed accuracy", "accuracy", "divergence"
INPUTS, VIDEOS, FLIPS, AGREEMENT, COUNTS, GROUPS = "inputs", "videos", "flips", "agreement", "counts", "groups"
ONE_WAY = 0.05  # p of the sign test over videos below which flips do not split evenly
MOST_DISAGREEMENT = 10.0  # % of letters, without log-probabilities; sound runs that accuracy can judge have at most 8


@dataclass(frozen=True)
class Evidence:
    """What is known about two runs; differences are candidate minus reference, in points."""

    margin: float
    one_sided: bool
    names: Names
    accuracy: Paired
    smoothed: Smoothed | None  # None if a side stores no log-probabilities: then accuracy decides
    diagnosis: Diagnosis | None = None
    outliers: Sequence[Outlier] = ()  # sets, levels and groups that differ by more than the margin
    obstacles: Sequence[Obstacle] = ()  # why the runs cannot be compared, fully or in part
    has_same_inputs: bool = True  # False: no question is known to be comparable
    doubts: Sequence[str] = ()  # why questions that are left out could undo a PASS

    @property
    def measure(self) -> str:
        return SMOOTHED if self.smoothed else ACCURACY

    @property
    def estimate(self) -> Estimate:
        """The estimate of the measure that decides."""
        return self.smoothed.estimate if self.smoothed else self.accuracy.estimate

    @property
    def broken(self) -> Sequence[Finding]:
        return self.diagnosis.broken if self.diagnosis else ()

    @property
    def is_barred(self) -> bool:
        return any(not (each.allows_fail and self.has_same_inputs) for each in self.obstacles)

    def is_within(self, estimate: Estimate) -> bool:
        low, high = estimate.interval(0.95)
        return -self.margin < low and (self.one_sided or high < self.margin)

    def is_outside(self, estimate: Estimate, level: float = 0.99) -> bool:
        """Whether the interval is outside the margin; at 99 %, since a FAIL should be certain."""
        low, high = estimate.interval(level)
        return high < -self.margin or (low > self.margin and not self.one_sided)

    @property
    def is_one_way(self) -> bool:
        """Whether the flips favour a side more than chance explains; with `one_sided` a gain is fine."""
        difference = self.accuracy.estimate.difference
        return self.accuracy.p_clustered < ONE_WAY and not (self.one_sided and difference > 0)

    @property
    def favoured(self) -> str:
        paired, names = self.accuracy, self.names
        return (names.reference if paired.reference_only > paired.candidate_only else names.candidate).phrase

    @property
    def disagreement(self) -> float:
        """Answers with different letters in %; with `one_sided`, answers that were lost."""
        paired = self.accuracy
        return 100 * (paired.reference_only / paired.questions if self.one_sided else 1 - paired.agreement)

    @property
    def most_disagreement(self) -> float:
        return max(MOST_DISAGREEMENT, self.margin)


@dataclass(frozen=True)
class Verdict:
    name: str  # PASS, FAIL or INCONCLUSIVE
    decided_by: str  # SMOOTHED, ACCURACY, DIVERGENCE, INPUTS, ...
    headline: str
    reasons: list[str]  # sentences, the deciding one first
    evidence: Evidence
    questions_needed: int | None = None  # to PASS with a chance of 90 % if the runs do not differ
    advice: str | None = None  # on the number of questions; None if more questions would not help


def judge(evidence: Evidence) -> Verdict:
    name, by, headline = _apply_rules(evidence)
    measure = by or evidence.measure
    verdict = Verdict(name, measure, headline, _reasons(evidence, measure), evidence)
    return _advise(verdict) if name == INCONCLUSIVE and not by else verdict


def _apply_rules(e: Evidence) -> tuple[str, str | None, str]:
    """Return the verdict, what decided it (None: the measure in use) and line 1; the first rule that holds decides."""
    accuracy, margin, candidate = e.accuracy.estimate, points_text(e.margin), e.names.candidate.phrase
    if e.is_barred:
        return INCONCLUSIVE, INPUTS, f"not comparable: {e.obstacles[0].text}"
    if e.broken:
        return FAIL, DIVERGENCE, f"numerically broken: {list_groups(e.broken)}"
    if e.is_one_way and e.is_outside(accuracy):
        return FAIL, ACCURACY, f"{candidate} {_moved(accuracy)}; the margin is {margin}"
    if e.smoothed and e.is_outside(e.estimate) and not e.is_within(accuracy):
        return FAIL, SMOOTHED, f"{candidate} {_moved(e.estimate)} of smoothed accuracy; the margin is {margin}"
    if e.obstacles:
        return INCONCLUSIVE, INPUTS, f"not comparable: {e.obstacles[0].text}"
    if e.estimate.videos < 2:
        return INCONCLUSIVE, VIDEOS, f"all questions are about one {e.names.cluster}"
    if e.outliers:
        named = "; ".join(f"{each.label} {each.difference:+.1f} points" for each in e.outliers[:SHOWN_GROUPS])
        return INCONCLUSIVE, GROUPS, f"groups differ by more than {margin}: {named}"
    if e.estimate.unseen >= e.margin:
        return INCONCLUSIVE, None, f"too few questions to show {margin}"
    if not e.is_within(e.estimate):
        low, high = e.estimate.interval()
        return INCONCLUSIVE, None, f"{e.measure} differs by {low:+.2f} to {high:+.2f} points; the margin is {margin}"
    if e.is_one_way and not e.is_within(accuracy):
        return INCONCLUSIVE, FLIPS, f"flips favour {e.favoured} more than chance explains"
    if e.disagreement > e.most_disagreement and (not e.smoothed or e.smoothed.share < LEAST_MEASURED):
        return INCONCLUSIVE, AGREEMENT, _disagree(e)
    if e.doubts:
        return INCONCLUSIVE, COUNTS, e.doubts[0]
    if e.one_sided:
        return PASS, None, f"no loss on {candidate} beyond {margin}"
    return PASS, None, f"{candidate} answers like {e.names.reference.phrase}, within {margin}"


def weigh(
    answers: Answers,
    groups: Sequence[Subgroup],
    margin: Margin,
    diagnosis: Diagnosis | None = None,
    names: Names = NPU_AND_GPU,
) -> Evidence:
    """Collect the evidence from `answers` to at least one question; a missing answer counts as wrong.

    Raises InputError if a relative margin is 0, because the reference has no right answer."""
    accuracy = compare_paired(answers)
    points = margin.points(accuracy.reference_accuracy)
    if points <= 0:
        raise InputError(
            f"--margin {margin.size:g}%: {names.reference.phrase} has no right answer to relate to; give it in points"
        )
    outliers = find_outliers(answers, groups, points, margin.one_sided)
    return Evidence(points, margin.one_sided, names, accuracy, estimate_smoothed(answers), diagnosis, outliers)


def decide(pairing: Pairing, evidence: Evidence, obstacles: Sequence[Obstacle], has_same_inputs: bool) -> Verdict:
    """Decide; `evidence` is over the questions whose inputs are not known to differ, or over all if there are none."""
    evidence = replace(evidence, obstacles=obstacles, has_same_inputs=has_same_inputs)
    return judge(replace(evidence, doubts=list(_of_silence(pairing, evidence))))


def exit_status(verdict: Verdict) -> int:
    """The status with `--gate`: 0 PASS, 1 FAIL, 3 INCONCLUSIVE; 2 is wrong input."""
    return {PASS: 0, FAIL: 1, INCONCLUSIVE: 3}[verdict.name]


def points_text(points: float) -> str:
    """ "1 point", "0.455 points"."""
    return f"{points:.3g} point" + ("" if points == 1 else "s")


def _moved(estimate: Estimate) -> str:
    return f"{'loses' if estimate.difference < 0 else 'gains'} {points_text(abs(estimate.difference))}"


def _disagree(e: Evidence) -> str:
    return f"{e.disagreement:.1f} % of the answers {'are lost' if e.one_sided else 'differ'}"


def _reasons(e: Evidence, by: str) -> list[str]:
    """Give the reasons for the verdict, the deciding one first, then what else is known."""
    paired = e.accuracy
    groups = [f"{each.text} (p {each.p_corrected:.1g}, corrected)" for each in e.outliers[:SHOWN_GROUPS]]
    obstacles = [each.text for each in e.obstacles]
    candidate, reference = e.names.candidate, e.names.reference
    known = {
        INPUTS: [f"not comparable: {text}" if index == 0 else text for index, text in enumerate(obstacles)],
        DIVERGENCE: [f"numerically broken: {each.text}" for each in e.broken[:1]],
        VIDEOS: [f"all questions are about one {e.names.cluster}; an interval needs two or more"],
        FLIPS: [
            f"flips favour {e.favoured}: {paired.reference_only} answers are right on {reference.phrase} alone, "
            f"{paired.candidate_only} on {candidate.phrase} alone; random flips would split evenly (sign test over "
            f"{e.names.cluster}s, p {paired.p_clustered:.2g})"
        ],
        AGREEMENT: [
            f"{_disagree(e)}; without log-probabilities of half the pairs a PASS needs {e.most_disagreement:.3g} % or "
            "less: equal accuracy may be chance"
        ],
        COUNTS: list(e.doubts),
        GROUPS: groups,
        SMOOTHED: [_place(e, SMOOTHED, e.smoothed.estimate)] if e.smoothed else [],
        ACCURACY: [_place(e, ACCURACY, paired.estimate)],
    }
    more = [text for each in (SMOOTHED, ACCURACY, GROUPS) if each != by for text in known[each]]
    return [*known[by], *more, *([] if by == INPUTS else obstacles)]


def _place(e: Evidence, measure: str, estimate: Estimate) -> str:
    """Say where the intervals lie, compared with the margin."""
    (low, high), (low99, high99) = estimate.interval(0.95), estimate.interval(0.99)
    text = f"{measure} differs by {estimate.difference:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}"
    limit = f"the margin of {e.margin:.3g}"
    if e.is_within(estimate):
        return f"{text}: {'no loss beyond' if e.one_sided else 'all of it within'} {limit}"
    if e.is_outside(estimate):
        return f"{text}: all of it outside {limit}, and so is the 99 % interval"
    if e.is_outside(estimate, 0.95):
        across = f"the 99 % interval, {low99:+.2f} to {high99:+.2f}, reaches across it"
        return f"{text}: all of it outside {limit}, but {across}"
    return f"{text}: it reaches across {limit}"


def _advise(verdict: Verdict) -> Verdict:
    """Add how many questions would be enough; if the runs differ, so that more may not decide, say what is excluded."""
    e, estimate = verdict.evidence, verdict.evidence.estimate
    if estimate.differs and estimate.unseen < e.margin:
        low, high = estimate.interval()
        gain = "" if e.one_sided else f", and a gain of more than {max(0.0, high):.2f}"
        text = f"the runs differ: a loss of more than {max(0.0, -low):.2f} points is excluded{gain}"
        return replace(verdict, advice=f"{text}; more of such questions may not decide this margin")
    needed, reasons = questions_needed(estimate, e.margin, e.one_sided), verdict.reasons
    if estimate.unseen >= e.margin:
        best = f"{estimate.questions:,} questions show {estimate.unseen:.2g} points at best, however alike the answers"
        reasons = [best, *reasons]
    text = "no feasible number of questions would decide it"
    if needed is not None:
        text = f"if the runs do not differ, {needed:,} questions show it with a chance of 90 %"
    return replace(verdict, reasons=reasons, questions_needed=needed, advice=text)


def _of_silence(pairing: Pairing, evidence: Evidence) -> Iterator[str]:
    """Find doubts about a PASS: it may rest on leaving out questions without a letter or a right answer."""

    def passes(answers: Answers) -> bool:
        numbers = replace(evidence, accuracy=compare_paired(answers), smoothed=estimate_smoothed(answers))
        return judge(replace(numbers, diagnosis=None, outliers=(), obstacles=())).name == PASS

    def allows_loss_of(count: int, among: int) -> bool:
        """Whether a PASS would still hold if in addition one side lost so many answers."""
        low, high = evidence.estimate.interval()
        return max(-low, -low if evidence.one_sided else high) + 100 * count / among < evidence.margin

    compared = pairing.compared
    missing = len(pairing.pairs) - len(compared)
    if missing and not passes(tabulate(pairing.pairs)):
        yield f"{missing} questions are in one file only; counted as wrong there, they would undo a PASS: answer them"
    # Questions without a letter on either side count as equal, and would shrink a difference in the others.
    read = [pair for pair in compared if pair.candidate.letter or pair.reference.letter]
    silent = len(compared) - len(read)
    if silent and not (read and passes(tabulate(read))):
        yield f"{silent} questions have no letter on either side; without them this would be no PASS: answer them"
    unknown, known = len(pairing.without_answer), len(compared)
    if unknown and not allows_loss_of(unknown, known + unknown):
        yield (
            f"{unknown} of {known + unknown} questions have no right answer in the answer file; all of them lost would "
            "undo a PASS: name the file that has them"
        )
    if pairing.dropped and not allows_loss_of(pairing.dropped, len(pairing.pairs) + pairing.dropped):
        yield (
            f"{pairing.dropped} questions are left out, a side gave no letter; all of them wrong would undo a PASS: "
            "answer them, or score in another way"
        )
