"""PASS, FAIL or INCONCLUSIVE: is the NPU as good as the GPU, within a margin, and how sure is that?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from videobench.compare.diagnosis import Diagnosis
from videobench.compare.obstacles import Obstacle
from videobench.compare.pairing import Pairing
from videobench.compare.rule import COUNTS, DIVERGENCE, FAIL, INCONCLUSIVE, INPUTS, PASS, Evidence, Rule, weigh
from videobench.compare.same_question import inputs_differ
from videobench.compare.settings import NPU_AND_GPU, Margin, Names
from videobench.compare.smoothed import questions_needed
from videobench.errors import InputError

MANY_QUESTIONS = 1_000_000  # more are none


@dataclass(frozen=True)
class Verdict:
    name: str  # PASS, FAIL or INCONCLUSIVE
    decided_by: str  # of rule.SMOOTHED, ACCURACY, DIVERGENCE, FLIPS, INPUTS, COUNTS (of questions that lack something)
    margin: float  # points
    reasons: list[str]  # sentences, the deciding one first
    evidence: Evidence  # over the questions whose inputs are not known to differ, or all where there are none
    obstacles: list[Obstacle]  # why the runs cannot be compared, in whole or in part
    # Would probably decide it, were the true difference the one seen; None of a PASS or FAIL, and where a doubt stands.
    questions_needed: int | None
    questions_needed_if_equal: int | None  # the same, were there no true difference

    @property
    def too_few(self) -> bool:
        """Whether so few questions could show nothing, however alike the answers."""
        return self.questions_needed_if_equal is not None and self.evidence.estimate.at_best >= self.margin

    @property
    def needed_text(self) -> str | None:
        """None where no number of questions is asked for, or the first reason says it."""
        seen, equal = self.questions_needed, self.questions_needed_if_equal
        if equal is None or self.too_few:
            return None
        if seen == equal:
            return f"about {seen:,} questions would probably decide it"
        about = f"about {equal:,} questions would probably decide it"
        if seen is None or seen > MANY_QUESTIONS:
            return f"if there is no difference, {about}; if it is as seen, no feasible number would"
        about = f"about {seen:,} questions would probably decide it"
        return f"{about} if the difference is as seen, {equal:,} if there is none"


def decide(
    pairing: Pairing,
    obstacles: Sequence[Obstacle],
    diagnosis: Diagnosis,
    margin: Margin,
    seed: int,
    names: Names = NPU_AND_GPU,
) -> Verdict:
    """FAIL where the divergence says broken, else by Rule.judge.

    No PASS is given where there is an obstacle, where questions that one side lacks, or that have no known answer,
    would undo it if they were counted as wrong, or where there were none without those that neither side gave a letter
    to.
    With an obstacle, FAIL stands only where the questions with the same inputs show it.

    Raises InputError where a margin relative to the reference's accuracy is none."""
    same = [pair for pair in pairing.compared if not inputs_differ(pair)]
    evidence = weigh(same or pairing.compared, seed)
    rule = _rule(margin, evidence, names)
    judgement = rule.judge(evidence)
    name, decided_by, reasons, doubts = judgement.name, judgement.decided_by, judgement.reasons, list[str]()
    if diagnosis.broken:
        name, decided_by = FAIL, DIVERGENCE
        reasons = [f"numerically broken: {diagnosis.findings[0].text}", *reasons]
    texts = [each.text for each in obstacles]
    if texts and name == FAIL and same and all(each.allows_fail for each in obstacles):
        reasons = [*reasons, *texts]
    elif texts:
        name, decided_by, doubts = INCONCLUSIVE, INPUTS, [f"not comparable: {texts[0]}", *texts[1:]]
    elif name == PASS and (doubts := list(_of_silence(pairing, evidence, rule, seed))):
        name, decided_by = INCONCLUSIVE, COUNTS
    seen = equal = None
    if name == INCONCLUSIVE and judgement.is_open and not doubts:  # more questions do not remove a doubt
        estimate = evidence.estimate
        seen, equal = (
            questions_needed(estimate, each, rule.margin, rule.one_sided) for each in (estimate.difference, 0.0)
        )
    verdict = Verdict(name, decided_by, rule.margin, [*doubts, *reasons], evidence, list(obstacles), seen, equal)
    return replace(verdict, reasons=[_at_best(verdict), *reasons]) if verdict.too_few else verdict


def _rule(margin: Margin, evidence: Evidence, names: Names) -> Rule:
    points = margin.points(evidence.accuracy.gpu_accuracy)
    if points <= 0:
        raise InputError(
            f"--margin {margin.size:g}%: {names.gpu.phrase} has no right answer to relate to; give it in points"
        )
    return Rule(points, margin.one_sided, names)


def _at_best(verdict: Verdict) -> str:
    """What so few questions can show, which is the first thing to know where it is not enough."""
    estimate = verdict.evidence.estimate
    clear = "clear flip" if verdict.evidence.is_smoothed else "flip"
    best = f"{estimate.questions} questions without a single {clear} can show {estimate.at_best:.2g} points at best"
    return f"{best}; {verdict.questions_needed_if_equal:,} would show {verdict.margin:.3g}"


def _of_silence(pairing: Pairing, evidence: Evidence, rule: Rule, seed: int) -> Iterator[str]:
    """Doubts in a PASS: questions without a letter or a right answer could be what makes it one."""
    missing = len(pairing.pairs) - len(pairing.compared)
    if missing and not rule.passes(pairing.pairs, seed):
        yield f"{missing} questions are in one file only; counted as wrong there, they would undo a PASS: answer them"
    # Both sides are equal in those: they would shrink a difference that the others show.
    read = [pair for pair in pairing.compared if pair.npu.letter or pair.gpu.letter]
    silent = len(pairing.compared) - len(read)
    if silent and not rule.passes(read, seed):
        yield f"{silent} questions have no letter on either side; without them this would be no PASS: answer them"
    known, unknown = len(pairing.compared), len(pairing.without_answer)
    if unknown and not rule.allows_loss_of(unknown / (known + unknown), evidence):
        yield (
            f"{unknown} of {known + unknown} questions have no right answer in the answer file; all of them lost would "
            "undo a PASS: name the file that has them"
        )
    dropped = pairing.dropped / (len(pairing.pairs) + pairing.dropped)
    if dropped and not rule.allows_loss_of(dropped, evidence):
        yield (
            f"{pairing.dropped} questions are left out, a side gave no letter; all of them wrong would undo a PASS: "
            "answer them, or score in another way"
        )


def exit_status(verdict: Verdict) -> int:
    """Of `--gate`: 0 PASS, 1 FAIL, 3 INCONCLUSIVE; 2 is wrong input."""
    return {PASS: 0, FAIL: 1, INCONCLUSIVE: 3}[verdict.name]
