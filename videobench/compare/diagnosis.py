"""Is the port broken? What the differences show beyond accuracy, as findings in words.

A question's difference is the largest one among its options' log-probabilities; the tolerance is what rounding in the
coarser dtype explains (tolerances.py), or what the user says. A run is called broken if
  nonfinite   a reply's logits held NaN or infinity;
  everywhere  half of all questions differ by more than the tolerance, or a fifth by more than three times as much;
  a group     a fifth of a group's questions (a set, a card, long prompts, ...) differ by more than the tolerance, three
              times as many or by three times as much as elsewhere, p < 0.001 by rank sums, corrected for all groups;
  letter      one option letter is shifted against the others by two fifths of the tolerance in the mean, p < 0.001;
  scattered   one question in 200, and three at least, differ by more than five tolerances, and these are half of those
              beyond two: of heavy-tailed rounding (Student's t with 2 degrees of freedom) they are a sixth.
Every such group is named: after the strongest one, the same is asked of the questions outside of it. With `--tolerance
none` only NaN and infinity break a run, and a group stands out from twice the median difference on.

Findings that call no run broken: one side's replies that cannot be read (`unreadable`; they count as wrong), and a run
that does not repeat itself on one device (`repeat`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from videobench.compare.advice import look_at
from videobench.compare.associations import (
    ALL_BUT,
    SIGNIFICANT,
    Association,
    Subgroup,
    associate,
    letter_shifts,
    restrict,
    significant,
)
from videobench.compare.divergence import Differences, coarser_dtype, option_words, without_letter
from videobench.compare.pairing import Answers, Mask, Pair
from videobench.compare.settings import NPU_AND_GPU, Names, Tolerance
from videobench.compare.statistics import FloatArray, sign_flip_p
from videobench.data.dataset import LETTERS
from videobench.tolerances import TOLERANCES

SHOWN_GROUPS = 3
STANDS_OUT = 2.0  # times the median difference, if other numbers are expected
GROUP_PROPORTION = 0.2  # of a group's questions above the limit
GROUP_RATIO = 3.0  # how much more often, or by how much more, than elsewhere
LETTER_PART = 0.4  # of the limit, for a mean shift of one letter
WIDE_FACTOR, WIDE_PROPORTION = 3.0, 0.2
SCATTERED_FACTOR, SCATTERED_PROPORTION, SCATTERED_COUNT = 5.0, 0.005, 3
TAIL_FACTOR, TAIL_PROPORTION = 2.0, 0.5
LEAST_MEASURED = 0.5  # of the compared questions: with fewer nothing is said of the numbers
BY_SIZE = {"prompt length", "video length", "resolution"}  # cut at quantiles: what a cut leaves over is no new group
REPEATED = 0.01  # proportion of questions that may differ by more than the last bits between repeated runs


@dataclass(frozen=True)
class Finding:
    cause: str  # "nonfinite", "everywhere", "letter", "npu card", "prompt length", ...
    text: str  # one sentence
    look_at: str  # likely causes
    questions: int  # that it is about
    p_corrected: float | None
    breaks: bool = True  # whether it calls the run broken


@dataclass(frozen=True)
class Diagnosis:
    findings: list[Finding]  # strongest first; those that call the run broken before others
    associations: list[Association]  # every significant one, broken or not, strongest first
    dtype: str  # the coarser one of both sides
    limit: float  # nats: the tolerance
    explained: str  # the same in words: "0.1 nats that float16 rounding explains"
    is_judged: bool  # False: other numbers are expected, and the limit is what makes a group stand out
    measured: int  # questions
    compared: int
    median: float  # largest difference of a question, nats
    beyond: float  # proportion of the measured questions beyond the limit

    @property
    def broken(self) -> list[Finding]:
        return [each for each in self.findings if each.breaks]

    @property
    def is_known(self) -> bool:
        """Whether enough questions are measured to call the numbers sound."""
        return self.measured > 0 and self.measured >= LEAST_MEASURED * self.compared


def list_groups(findings: Sequence[Finding]) -> str:
    """What the findings name, without figures: "NPU card 2; TVQA"."""
    named = [each.text.split(": ")[0] for each in findings]
    more = [f"{len(named) - SHOWN_GROUPS} more"] if len(named) > SHOWN_GROUPS else []
    return "; ".join(named[:SHOWN_GROUPS] + more)


def diagnose(
    answers: Answers,
    differences: Differences,
    groups: Sequence[Subgroup],
    dtype: str,
    tolerance: Tolerance = Tolerance(),  # noqa: B008
    repeat: Differences | None = None,
    names: Names = NPU_AND_GPU,
) -> Diagnosis:
    """`answers` are those with the same inputs, `differences` what measure() made of them, `groups` what
    find_subgroups() found among them, `repeat` a second run against its first."""
    is_judged, largest = tolerance.is_judged, differences.largest
    median = float(np.median(largest)) if len(largest) else 0.0
    if not is_judged:
        limit = max(TOLERANCES[dtype].devices, STANDS_OUT * median)
        explained = f"{limit:.3g} nats from which a group stands out"
    elif tolerance.nats is not None:
        limit, explained = tolerance.nats, f"{tolerance.nats:g} nats of --tolerance"
    else:
        words = option_words(differences.pairs)
        limit = words * TOLERANCES[dtype].devices
        explained = f"{limit:g} nats that {dtype} rounding explains{f' in {words} words' if words > 1 else ''}"
    findings = _nonfinite(answers, groups, names)
    if len(largest):
        measured = np.zeros(len(answers.videos), dtype=bool)
        measured[differences.rows] = True
        groups = restrict(groups, measured)
        above = largest > limit
        found = letter_shifts(differences.by_letter, differences.videos)
        found += associate(differences.spread, above, groups, differences.videos)
        associations = significant(found, len(LETTERS) + len(groups))
        systematic, rest = _broken_groups(differences, groups, limit, explained)
        if is_judged:
            systematic += _everywhere(largest[rest], len(above), limit, explained, _runs(answers, names))
            systematic = systematic or _scattered(largest, limit)
        findings += [replace(each, breaks=is_judged) for each in systematic]
    else:
        flips = answers.letters[:, 0] != answers.letters[:, 1]  # reported, and fails no port
        associations = _where(flips, answers, groups) if flips.any() else []
    findings += [*_unreadable(answers, names), *_not_repeated(repeat)]
    beyond, compared = float((largest > limit).mean()) if len(largest) else 0.0, len(answers.videos)
    return Diagnosis(findings, associations, dtype, limit, explained, is_judged, len(largest), compared, median, beyond)


def _nonfinite(answers: Answers, groups: Sequence[Subgroup], names: Names) -> list[Finding]:
    findings = []
    for name, hit in zip((names.candidate, names.reference), answers.nonfinite.T, strict=True):
        if hit.any():
            where = _where(hit, answers, groups)
            most = f", most of all in {where[0].label}" if where else ""
            text = f"{name.title} logits hold NaN or infinity in {hit.sum()} of {len(hit)} questions{most}"
            findings.append(Finding("nonfinite", text, look_at("nonfinite"), int(hit.sum()), None))
    return findings


def _where(hit: Mask, answers: Answers, groups: Sequence[Subgroup]) -> list[Association]:
    found = associate(hit.astype(float), hit, groups, answers.videos, is_proportion=True)
    return significant(found, len(groups))


def _broken_groups(
    differences: Differences, subgroups: Sequence[Subgroup], limit: float, explained: str
) -> tuple[list[Finding], Mask]:
    """Strongest first, each found among the questions outside of those before it, and among the options without a
    letter before it: where one is favoured, all others are avoided. And which questions are in no such group."""
    above, by_letter = differences.largest > limit, differences.by_letter
    left, findings = np.ones(len(above), dtype=bool), list[Finding]()
    while left.any():
        smaller, videos = restrict(subgroups, left), differences.videos[left]
        found = letter_shifts(by_letter[left], videos)
        # A shift of all options alike leaves no spread. Looked at for faults only, since it says less than the spread.
        found += associate(differences.spread[left], above[left], smaller, videos)
        found += associate(differences.common[left], above[left], smaller, videos)
        broken = [each for each in significant(found, len(LETTERS) + 2 * len(smaller)) if _is_broken(each, limit)]
        if not broken:
            break
        # Two cards of four are two groups rather than "all but NPU card 0".
        plain = [each for each in broken if each.cause == broken[0].cause and not each.label.startswith(ALL_BUT)]
        worst = (plain or broken)[0]
        findings.append(_finding(worst, limit, explained))
        if worst.cause == "letter":
            by_letter = without_letter(by_letter, LETTERS.index(worst.label.split()[1]))
        else:
            left[np.flatnonzero(left)[worst.members]] = False
        subgroups = [each for each in subgroups if each.cause not in BY_SIZE or each.cause != worst.cause]
    return findings, left


def _is_broken(each: Association, limit: float) -> bool:
    if each.cause == "letter":
        return abs(each.inside) > LETTER_PART * limit
    is_more = each.above_inside >= GROUP_RATIO * each.above_outside or each.inside >= GROUP_RATIO * each.outside
    return each.above_inside >= GROUP_PROPORTION and is_more


def _finding(each: Association, limit: float, explained: str) -> Finding:
    if each.cause == "letter":
        text = f"{each.label}: shifted by {each.inside:+.3f} nats in the mean of {each.questions} questions"
    else:
        text = (
            f"{each.label}: {100 * each.above_inside:.0f} % of {each.questions} questions differ by more than the "
            f"{explained}, elsewhere {100 * each.above_outside:.0f} % "
            f"(in the middle {each.inside:.2g} against {each.outside:.2g} nats)"
        )
    return Finding(each.cause, text, look_at(each.cause), each.questions, each.p_corrected)


def _everywhere(
    largest: FloatArray, total: int, limit: float, explained: str, runs: Mapping[str, Mapping[str, Any]]
) -> list[Finding]:
    """`largest` of the questions that are in no broken group."""
    count = len(largest)
    if count < total / 2:
        return []
    median, high = (float(np.quantile(largest, each)) for each in (0.5, 1 - WIDE_PROPORTION))
    if median > limit:
        share, least = "half", median
    elif high > WIDE_FACTOR * limit:
        share, least = "a fifth", high
    else:
        return []
    named = f"all {count}" if count == total else f"the {count} other"
    text = f"{share} of {named} questions differ by {least:.3g} nats and more, beyond the {explained}"
    return [Finding("everywhere", text, look_at("everywhere", runs), count, None)]


def _runs(answers: Answers, names: Names) -> dict[str, Mapping[str, Any]]:
    first = answers.pairs[0]
    if not isinstance(first, Pair):  # simulated
        return {}
    sides = (names.candidate, first.candidate.reply), (names.reference, first.reference.reply)
    return {name.title: reply.run for name, reply in sides if reply}


def _scattered(largest: FloatArray, limit: float) -> list[Finding]:
    hit, tail = (int((largest > factor * limit).sum()) for factor in (SCATTERED_FACTOR, TAIL_FACTOR))
    if hit < max(SCATTERED_COUNT, SCATTERED_PROPORTION * len(largest), TAIL_PROPORTION * tail):
        return []
    text = f"{hit} of {len(largest)} questions differ by more than {SCATTERED_FACTOR * limit:g} nats, while most agree"
    return [Finding("scattered", text, look_at("scattered"), hit, None)]


def _unreadable(answers: Answers, names: Names) -> list[Finding]:
    """If one side alone has them more often than chance explains."""
    alone = answers.unreadable[:, 0].astype(float) - answers.unreadable[:, 1]
    candidate, reference = int((alone > 0).sum()), int((alone < 0).sum())
    p_value, side = sign_flip_p(alone), names.candidate if candidate >= reference else names.reference
    if p_value >= SIGNIFICANT:
        return []
    count = max(candidate, reference)
    text = f"{count} replies of {side.phrase} alone cannot be read"
    return [Finding("unreadable", text, look_at("unreadable"), count, p_value, breaks=False)]


def _not_repeated(repeat: Differences | None) -> list[Finding]:
    """One device twice: more than rounding in another order of additions explains."""
    if repeat is None or not repeat.pairs:
        return []
    dtype, count = coarser_dtype(repeat.pairs), len(repeat.pairs)
    step = TOLERANCES[dtype].step
    hit = int((repeat.largest > step).sum())
    if hit <= REPEATED * count:
        return []
    text = (
        f"the repeated run does not repeat its first: {hit} of {count} questions differ by more than the last bits of "
        f"{dtype} ({step:g} nats), by {repeat.largest.max():.3g} at most"
    )
    return [Finding("repeat", text, look_at("repeat"), hit, None, breaks=False)]
