"""Is the port broken? What the differences show beyond accuracy, as findings in words.

The rule, which fails the verdict whatever the accuracies are. A question's difference is the largest one among its
options' log-probabilities; the limit is what the coarser dtype can explain (divergence.TYPICAL_LIMIT: 0.1 nats in
float16 and float32, 0.5 in bfloat16). A run is called broken where
  nonfinite   a reply's logits held NaN or infinity;
  everywhere  half of all questions differ by more than the limit;
  a group     a fifth of a group's questions (a set, a card, long prompts, ...) differ by more than the limit, three
              times as many or by three times as much as elsewhere, p < 0.001 by rank sums, corrected for all groups;
  letter      one option letter is shifted against the others by a quarter of the limit in the mean, p < 0.001;
  scattered   one question in 200, and three at least, differ by more than ten times the limit.
The limit is four to five times what was measured between sound runs, of different engine or dtype, so that no
rule fires on them; benchmarks/verdict_power.py counts how often it does in simulated ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from videobench.compare.associations import Association, associate, correct, letter_shifts
from videobench.compare.divergence import TYPICAL_LIMIT, Differences, coarser_dtype
from videobench.compare.pairing import Pair
from videobench.compare.same_inputs import pixels_differ, prompts_differ
from videobench.compare.statistics import number_clusters

SIGNIFICANT = 0.001
GROUP_PROPORTION = 0.2  # of a group's questions above the limit
GROUP_RATIO = 3.0  # how much more often, or by how much more, than elsewhere
LETTER_PART = 0.25  # of the limit, for a mean shift of one letter
SCATTERED_FACTOR, SCATTERED_PROPORTION, SCATTERED_COUNT = 10.0, 0.005, 3


@dataclass(frozen=True)
class Finding:
    cause: str  # "nonfinite", "everywhere", "letter", "npu card", "prompt length", ...
    text: str  # one sentence
    questions: int  # that it is about
    z: float  # strength; infinity for what needs no test
    p_corrected: float | None


@dataclass(frozen=True)
class Diagnosis:
    findings: list[Finding]  # that call the run broken, strongest first
    associations: list[Association]  # every significant one, broken or not, strongest first
    dtype: str  # the coarser one of both sides
    limit: float  # nats

    @property
    def broken(self) -> bool:
        return bool(self.findings)


def diagnose(compared: Sequence[Pair], differences: Differences) -> Diagnosis:
    """`compared` are pairs with a reply on both sides, `differences` what measure() made of them.

    The dtypes that the replies state set the limit: the coarser one counts."""
    dtype = coarser_dtype(compared)
    limit = TYPICAL_LIMIT[dtype]
    findings = _nonfinite(compared)
    associations: list[Association] = []
    if differences.pairs:
        clusters = number_clusters(pair.video for pair in differences.pairs)
        found = letter_shifts(differences, clusters)
        above = differences.largest > limit
        found += associate(differences.spread, above, differences.pairs, clusters)
        associations = _significant(found)
        # A shift of all options alike leaves no spread. Looked at for faults only, since it says less than the spread.
        found += associate(differences.common, above, differences.pairs, clusters)
        findings += _systematic(_significant(found), differences, limit, dtype)
    else:
        associations = _flip_associations(compared)
    return Diagnosis(findings, associations, dtype, limit)


def _nonfinite(compared: Sequence[Pair]) -> list[Finding]:
    findings = []
    for side in ("npu", "gpu"):
        hit = np.array([bool(getattr(pair, side).reply.nonfinite) for pair in compared])
        if hit.any():
            clusters = number_clusters(pair.video for pair in compared)
            where = _significant(associate(hit.astype(float), hit, compared, clusters, is_proportion=True))
            most = f", most of all in {where[0].label}" if where else ""
            text = f"{side.upper()} logits hold NaN or infinity in {hit.sum()} of {len(hit)} questions{most}"
            findings.append(Finding("nonfinite", text, int(hit.sum()), float("inf"), None))
    return findings


def _systematic(
    associations: Sequence[Association], differences: Differences, limit: float, dtype: str
) -> list[Finding]:
    """Strongest first; where most questions had other inputs, that comes first."""
    strongest: dict[str, Finding] = {}  # of each cause
    for each in associations:
        finding = _finding(each, limit, dtype)
        if finding:
            strongest.setdefault(each.cause, finding)
    findings = list(strongest.values())
    typical, count = float(np.median(differences.largest)), len(differences.pairs)
    if typical > limit:
        text = (
            f"half of all {count} questions differ by {typical:.3g} nats and more, where {dtype} can explain {limit:g}"
        )
        findings.append(Finding("everywhere", text, count, 0.0, None))
    if not findings:
        return _scattered(differences, limit)
    for cause, differ, words in (
        ("prompts", prompts_differ, "the prompts differ"),
        ("pixels", pixels_differ, "the frames differ (other pixels, or another order)"),
    ):
        hit = sum(map(differ, differences.pairs))
        if hit > count / 2:
            text = f"{words} in {hit} of {count} questions, and it shows: {findings[0].text}"
            return [Finding(cause, text, hit, float("inf"), None), *findings]
    return findings


def _finding(each: Association, limit: float, dtype: str) -> Finding | None:
    """The association as a fault, where it is large enough to be one."""
    if each.cause == "letter":
        text = f"{each.label}: shifted by {each.inside:+.3f} nats in the mean of {each.questions} questions"
        is_fault = abs(each.inside) > LETTER_PART * limit
    else:
        text = (
            f"{each.label}: {each.above_inside:.0%} of {each.questions} questions differ by more than the "
            f"{limit:g} nats that {dtype} can explain, elsewhere {each.above_outside:.0%} "
            f"(in the middle {each.inside:.2g} against {each.outside:.2g} nats)"
        )
        is_more = each.above_inside >= GROUP_RATIO * each.above_outside or each.inside >= GROUP_RATIO * each.outside
        is_fault = each.above_inside >= GROUP_PROPORTION and is_more
    return Finding(each.cause, text, each.questions, each.z, each.p_corrected) if is_fault else None


def _scattered(differences: Differences, limit: float) -> list[Finding]:
    count = len(differences.pairs)
    hit = int((differences.largest > SCATTERED_FACTOR * limit).sum())
    if hit < max(SCATTERED_COUNT, SCATTERED_PROPORTION * count):
        return []
    text = f"{hit} of {count} questions differ by more than {SCATTERED_FACTOR * limit:g} nats, while most agree"
    return [Finding("scattered", text, hit, 0.0, None)]


def _flip_associations(compared: Sequence[Pair]) -> list[Association]:
    """Without log-probabilities: where letters flip more often than elsewhere. That is reported and fails no port."""
    flips = np.array([pair.npu.letter != pair.gpu.letter for pair in compared])
    if not flips.any():
        return []
    clusters = number_clusters(pair.video for pair in compared)
    return _significant(associate(flips.astype(float), flips, compared, clusters, is_proportion=True))


def _significant(found: Sequence[Association]) -> list[Association]:
    return [each for each in correct(found) if each.p_corrected < SIGNIFICANT]
