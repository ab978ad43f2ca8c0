"""Is the port broken? What the differences show beyond accuracy, as findings in words.

The rule, which fails the verdict whatever the accuracies are. A question's difference is the largest one among its
options' log-probabilities; the limit is what the coarser dtype can explain (divergence.TYPICAL_LIMIT: 0.1 nats in
float16 and float32, 0.5 in bfloat16). A run is called broken where
  nonfinite   a reply's logits held NaN or infinity;
  everywhere  half of all questions differ by more than the limit;
  a group     a fifth of a group's questions (a set, a card, long prompts, ...) differ by more than the limit, three
              times as many or by three times as much as elsewhere, p < 0.001 by rank sums, corrected for all groups;
  letter      one option letter is shifted against the others by two fifths of the limit in the mean, p < 0.001;
  scattered   one question in 200, and three at least, differ by more than ten times the limit.
Every such group is named: after the strongest one, the same is asked of the questions outside of it, so that a group
which lies inside a named one is not named again. The limit is four to five times what was measured between sound runs,
of different engine or dtype, so that no rule fires on them; benchmarks/verdict_power.py counts how often it does in
simulated ones.

Findings that call no run broken: one side's replies that cannot be read (`unreadable`; they count as wrong), and a run
that does not repeat itself on one device (`repeat`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from videobench.compare.associations import (
    ALL_BUT,
    Association,
    Candidate,
    Mask,
    associate,
    correct,
    find_candidates,
    letter_shifts,
    restrict,
)
from videobench.compare.divergence import ROUNDING_STEP, TYPICAL_LIMIT, Differences, coarser_dtype, without_letter
from videobench.compare.look_at import look_at
from videobench.compare.pairing import Pair
from videobench.compare.scoring import UNREADABLE
from videobench.compare.settings import NPU_AND_GPU, Names
from videobench.compare.statistics import Clusters, FloatArray, mcnemar_p, number_clusters
from videobench.data.dataset import LETTERS

SIGNIFICANT = 0.001
GROUP_PROPORTION = 0.2  # of a group's questions above the limit
GROUP_RATIO = 3.0  # how much more often, or by how much more, than elsewhere
LETTER_PART = 0.4  # of the limit, for a mean shift of one letter
SCATTERED_FACTOR, SCATTERED_PROPORTION, SCATTERED_COUNT = 10.0, 0.005, 3
BY_SIZE = {"prompt length", "video length", "resolution"}  # cut at quantiles: what a cut leaves over is no new group
REPEATED = 0.01  # proportion of questions that may differ by more than the last bits between repeated runs


@dataclass(frozen=True)
class Finding:
    cause: str  # "nonfinite", "everywhere", "letter", "npu card", "prompt length", ...
    text: str  # one sentence
    look_at: str  # likely causes
    questions: int  # that it is about
    z: float  # strength; infinity for what needs no test
    p_corrected: float | None
    breaks: bool = True  # whether it calls the run broken


@dataclass(frozen=True)
class Diagnosis:
    findings: list[Finding]  # strongest first; those that call the run broken before others
    associations: list[Association]  # every significant one, broken or not, strongest first
    dtype: str  # the coarser one of both sides
    limit: float  # nats

    @property
    def broken(self) -> bool:
        return any(each.breaks for each in self.findings)


def diagnose(
    compared: Sequence[Pair],
    differences: Differences,
    repeat: Differences | None = None,
    names: Names = NPU_AND_GPU,
) -> Diagnosis:
    """`compared` are pairs with a reply on both sides and the same inputs, `differences` what measure() made of them,
    `repeat` a second run against its first.

    The dtypes that the replies state set the limit: the coarser one counts."""
    dtype = coarser_dtype(compared)
    limit = TYPICAL_LIMIT[dtype]
    findings = _nonfinite(compared, names)
    if differences.pairs:
        clusters = number_clusters(pair.video for pair in differences.pairs)
        candidates = find_candidates(differences.pairs, names)
        above = differences.largest > limit
        found = letter_shifts(differences.by_letter, clusters)
        associations = _significant([*found, *associate(differences.spread, above, candidates, clusters)])
        systematic, rest = _broken_groups(differences, candidates, clusters, limit, dtype)
        systematic += _everywhere(differences.largest[rest], len(above), limit, dtype, _runs(compared, names))
        findings += systematic or _scattered(differences, limit)
    else:
        associations = _flip_associations(compared, names)
    return Diagnosis([*findings, *_unreadable(compared, names), *_not_repeated(repeat)], associations, dtype, limit)


def _nonfinite(compared: Sequence[Pair], names: Names) -> list[Finding]:
    findings = []
    for side in ("npu", "gpu"):
        hit = np.array([bool(getattr(pair, side).reply.nonfinite) for pair in compared])
        if hit.any():
            where = _significant(_proportions(hit, compared, names))
            most = f", most of all in {where[0].label}" if where else ""
            text = (
                f"{getattr(names, side).title} logits hold NaN or infinity in {hit.sum()} of {len(hit)} questions{most}"
            )
            findings.append(Finding("nonfinite", text, look_at("nonfinite"), int(hit.sum()), float("inf"), None))
    return findings


def _proportions(hit: Mask, pairs: Sequence[Pair], names: Names) -> list[Association]:
    clusters = number_clusters(pair.video for pair in pairs)
    return associate(hit.astype(float), hit, find_candidates(pairs, names), clusters, is_proportion=True)


def _broken_groups(
    differences: Differences, candidates: Sequence[Candidate], clusters: Clusters, limit: float, dtype: str
) -> tuple[list[Finding], Mask]:
    """Strongest first, each found among the questions outside of those before it, and among the options without a
    letter before it: where one is favoured, all others are avoided. And which questions are in no such group."""
    above, by_letter = differences.largest > limit, differences.by_letter
    left, findings = np.ones(len(above), dtype=bool), list[Finding]()
    while left.any():
        smaller, videos = restrict(candidates, left), clusters[left]
        found = letter_shifts(by_letter[left], videos)
        # A shift of all options alike leaves no spread. Looked at for faults only, since it says less than the spread.
        found += associate(differences.spread[left], above[left], smaller, videos)
        found += associate(differences.common[left], above[left], smaller, videos)
        broken = [each for each in _significant(found) if _is_broken(each, limit)]
        if not broken:
            break
        # Two cards of four are two groups rather than "all but NPU card 0".
        plain = [each for each in broken if each.cause == broken[0].cause and not each.label.startswith(ALL_BUT)]
        worst = (plain or broken)[0]
        findings.append(_finding(worst, limit, dtype))
        if worst.cause == "letter":
            by_letter = without_letter(by_letter, LETTERS.index(worst.label.split()[1]))
        else:
            left[np.flatnonzero(left)[worst.members]] = False
        candidates = [each for each in candidates if each.cause not in BY_SIZE or each.cause != worst.cause]
    return findings, left


def _is_broken(each: Association, limit: float) -> bool:
    if each.cause == "letter":
        return abs(each.inside) > LETTER_PART * limit
    is_more = each.above_inside >= GROUP_RATIO * each.above_outside or each.inside >= GROUP_RATIO * each.outside
    return each.above_inside >= GROUP_PROPORTION and is_more


def _finding(each: Association, limit: float, dtype: str) -> Finding:
    if each.cause == "letter":
        text = f"{each.label}: shifted by {each.inside:+.3f} nats in the mean of {each.questions} questions"
    else:
        text = (
            f"{each.label}: {100 * each.above_inside:.0f} % of {each.questions} questions differ by more than the "
            f"{limit:g} nats that {dtype} can explain, elsewhere {100 * each.above_outside:.0f} % "
            f"(in the middle {each.inside:.2g} against {each.outside:.2g} nats)"
        )
    return Finding(each.cause, text, look_at(each.cause), each.questions, each.z, each.p_corrected)


def _everywhere(
    largest: FloatArray, total: int, limit: float, dtype: str, runs: Mapping[str, Mapping[str, Any]]
) -> list[Finding]:
    """`largest` of the questions that are in no broken group."""
    count = len(largest)
    if count < total / 2 or float(np.median(largest)) <= limit:
        return []
    named = f"all {count}" if count == total else f"the {count} other"
    typical = float(np.median(largest))
    text = f"half of {named} questions differ by {typical:.3g} nats and more, where {dtype} can explain {limit:g}"
    return [Finding("everywhere", text, look_at("everywhere", runs), count, 0.0, None)]


def _runs(compared: Sequence[Pair], names: Names) -> dict[str, Mapping[str, Any]]:
    first = compared[0]
    sides = ((names.npu.title, first.npu), (names.gpu.title, first.gpu))
    return {title: side.reply.run for title, side in sides if side.reply}


def _scattered(differences: Differences, limit: float) -> list[Finding]:
    count = len(differences.pairs)
    hit = int((differences.largest > SCATTERED_FACTOR * limit).sum())
    if hit < max(SCATTERED_COUNT, SCATTERED_PROPORTION * count):
        return []
    text = f"{hit} of {count} questions differ by more than {SCATTERED_FACTOR * limit:g} nats, while most agree"
    return [Finding("scattered", text, look_at("scattered"), hit, 0.0, None)]


def _unreadable(compared: Sequence[Pair], names: Names) -> list[Finding]:
    """Where one side alone has them more often than chance explains."""
    unread = [(pair.npu.outcome == UNREADABLE, pair.gpu.outcome == UNREADABLE) for pair in compared]
    counts = {names.npu: unread.count((True, False)), names.gpu: unread.count((False, True))}
    side = max(counts, key=counts.__getitem__)
    p_value = mcnemar_p(*counts.values())
    if p_value >= SIGNIFICANT:
        return []
    text = f"{counts[side]} replies of {side.phrase} alone cannot be read"
    return [Finding("unreadable", text, look_at("unreadable"), counts[side], 0.0, p_value, breaks=False)]


def _not_repeated(repeat: Differences | None) -> list[Finding]:
    """One device twice: more than rounding in another order of additions explains."""
    if repeat is None or not repeat.pairs:
        return []
    dtype, count = coarser_dtype(repeat.pairs), len(repeat.pairs)
    step = ROUNDING_STEP[dtype]
    hit = int((repeat.largest > step).sum())
    if hit <= REPEATED * count:
        return []
    text = (
        f"the repeated run does not repeat its first: {hit} of {count} questions differ by more than the last bits of "
        f"{dtype} ({step:g} nats), by {repeat.largest.max():.3g} at most"
    )
    return [Finding("repeat", text, look_at("repeat"), hit, 0.0, None, breaks=False)]


def _flip_associations(compared: Sequence[Pair], names: Names) -> list[Association]:
    """Without log-probabilities: where letters flip more often than elsewhere. That is reported and fails no port."""
    flips = np.array([pair.npu.letter != pair.gpu.letter for pair in compared])
    return _significant(_proportions(flips, compared, names)) if flips.any() else []


def _significant(found: Sequence[Association]) -> list[Association]:
    return [each for each in correct(found) if each.p_corrected < SIGNIFICANT]
