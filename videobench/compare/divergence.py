"""Measure how far apart two runs' option log-probabilities are, and say in words if a run is broken.

A broken port moves log-probabilities long before it moves accuracy.

A question's difference is the largest one among its options' log-probabilities; the tolerance is what rounding in the
coarser dtype explains (tolerances.py), or what --tolerance says. A run is called broken if
  nonfinite   a reply's logits held NaN or infinity;
  everywhere  half of all questions differ by more than the tolerance, or a fifth by more than three times as much;
  a group     a fifth of a group's questions (a set, a card, long prompts, ...) differ by more than the tolerance, three
              times as many or by three times as much as elsewhere, p < 0.001 by rank sums, corrected for all groups;
  letter      one option letter is shifted against the others by two fifths of the tolerance on average, p < 0.001;
  scattered   one question in 200, and at least three, differ by more than five tolerances, and these are half of those
              beyond two (with heavy-tailed rounding, Student's t with 2 degrees of freedom, they would be a sixth).
All such groups are named: after the strongest one, the other questions are searched again. With `--tolerance none`
only NaN and infinity mean broken, and a group stands out if it differs by twice the median or more.

Two findings break nothing: `unreadable`, replies of one side that cannot be read (they count as wrong), and `repeat`, a
run that does not repeat itself on one device.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

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
from videobench.compare.pairing import LOG_FLOOR, Answers, Mask, Pair, leads_of
from videobench.compare.settings import NPU_AND_GPU, Names, Tolerance
from videobench.compare.statistics import Clusters, FloatArray, sign_flip_p
from videobench.data.dataset import LETTERS
from videobench.tolerances import TOLERANCES

COARSEST = "bfloat16"  # taken if a file does not give its dtype
# Medians of the standard deviation of 2 to 6 normal numbers; for more, Wilson and Hilferty's approximation.
SPREAD_MEDIAN = np.array([0.6745, 0.8326, 0.8881, 0.9160, 0.9329, *((1 - 2 / (9 * k)) ** 1.5 for k in range(6, 26))])
BYTES_OF_A_WORD = 8  # in texts without spaces
BULK_TO_TAIL = 2.5758 / 0.6745  # of a normal distribution: the 99 % point of |x| over the median of |x|
SHOWN_GROUPS = 3
STANDS_OUT = 2.0  # times the median difference, with --tolerance none
GROUP_PROPORTION = 0.2  # of a group's questions above the limit
GROUP_RATIO = 3.0  # how much more often, or by how much more, than elsewhere
LETTER_PART = 0.4  # of the limit, for a mean shift of one letter
WIDE_FACTOR, WIDE_PROPORTION = 3.0, 0.2
SCATTERED_FACTOR, SCATTERED_PROPORTION, SCATTERED_COUNT = 5.0, 0.005, 3
TAIL_FACTOR, TAIL_PROPORTION = 2.0, 0.5
LEAST_MEASURED = 0.5  # share of the compared questions; with fewer the numbers are not judged
BY_SIZE = {"prompt length", "video length", "resolution"}  # cut at quantiles: the rest beyond a cut is not a new group
REPEATED = 0.01  # proportion of questions that may differ by more than the last bits between repeated runs


@dataclass(frozen=True)
class Differences:
    """Measures of the questions with two shared option letters or more, as arrays in the order of `pairs`."""

    rows: NDArray[np.intp]  # indices of the measured answers
    pairs: list[Pair]
    videos: Clusters
    largest: FloatArray  # largest |difference| of an option's log-probability, nats
    spread: FloatArray  # standard deviation of the options' differences, scaled to one median for 2 to 6 options, nats
    common: FloatArray  # |mean| of the options' differences, nats: probability moved between options and other tokens
    shift: FloatArray  # from reference to candidate, of the lead of the reference's best option over its second, nats
    kl: FloatArray  # Kullback-Leibler divergence of the candidate's distribution from the reference's, nats
    by_letter: FloatArray  # (questions, 6 or more): each letter's difference, nats; nan: no such option, or no letter
    right_leads: FloatArray  # (questions, 2): lead of the right option over the best wrong one, nats; nan: not known
    same_top: NDArray[np.bool_]  # whether both sides' most probable option is the same
    overflowed: int  # questions, of all answers, of which one side alone holds NaN or infinity


@dataclass(frozen=True)
class NoiseFloor:
    lead: float  # nats: a smaller lead is within the noise
    source: str  # in words
    repeat: Differences | None  # the repeated run compared with its first


def measure(answers: Answers) -> Differences:
    """Measure the questions for which both sides have finite log-probabilities of at least two shared options.

    Questions with an option of which only a bound is known are left out. Log-probabilities are clipped at LOG_FLOOR."""
    candidate, reference = (np.maximum(answers.scores[:, side], LOG_FLOOR) for side in (0, 1))
    shared = ~np.isnan(candidate + reference)  # a row may lack an option that the other side has
    shared[answers.vague.any(axis=1)] = False
    rows = np.flatnonzero(shared.sum(axis=1) >= 2)
    sides = candidate, reference = [np.where(shared, side, np.nan)[rows] for side in (candidate, reference)]
    difference, right, row = candidate - reference, answers.right[rows], np.arange(len(rows))
    options, mean = (~np.isnan(difference)).sum(axis=1), np.nanmean(difference, axis=1)
    *_, second, first = np.argsort(np.nan_to_num(reference, nan=-np.inf), axis=1).T  # the reference's best options
    top, reference_top = (np.argmax(np.nan_to_num(side, nan=-np.inf), axis=1) for side in sides)
    deviation = np.nansum((difference - mean[:, None]) ** 2, axis=1) / (options - 1)
    return Differences(
        rows=rows,
        pairs=[answers.pairs[row] for row in rows.tolist()],
        videos=answers.videos[rows],
        largest=np.nanmax(np.abs(difference), axis=1),
        spread=np.sqrt(deviation) / SPREAD_MEDIAN[options - 2],
        common=np.abs(mean),
        shift=(candidate[row, first] - candidate[row, second]) - (reference[row, first] - reference[row, second]),
        kl=_divergence(reference, candidate),
        by_letter=np.where(_asks_for_letters(answers, rows)[:, None], difference, np.nan),
        right_leads=np.stack([leads_of(side, right) for side in sides], axis=1),
        same_top=top == reference_top,
        overflowed=int((answers.nonfinite[:, 0] != answers.nonfinite[:, 1]).sum()),
    )


def _asks_for_letters(answers: Answers, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Mark the questions whose options are letters: in a log they may be texts, and "A" just means the first one."""
    texts = [_logged_options(answers.pairs[row]) for row in rows.tolist()]
    return np.array([list(each) == list(each.values()) for each in texts], dtype=bool)


def option_words(pairs: Sequence[Pair]) -> int:
    """Count the words in a log's options, in the median: log-likelihoods add up the rounding of so many tokens.

    Roundings cancel in part. On the small model (192 sampled texts, bfloat16 and float16 against float32) the 90th
    percentile of the difference grew from 1 token to 4, 16 and 64 by 2, 4 and 14, about as the square root."""
    texts = [text for pair in pairs for text in _logged_options(pair).values()]
    counts = [max(1, len(text.split()), len(text.encode()) // BYTES_OF_A_WORD) for text in texts]
    return round(float(np.median(counts))) if counts else 1


def _logged_options(pair: Pair) -> dict[str, str]:
    return pair.reply.options if pair.reply.logged else {}


def _divergence(*sides: FloatArray) -> FloatArray:
    """Kullback-Leibler divergence over the shared options, each side normalised to sum to 1."""
    first, second = (side - np.log(np.nansum(np.exp(side), axis=1, keepdims=True)) for side in sides)
    divergence: FloatArray = np.nansum(np.exp(first) * (first - second), axis=1)
    return np.maximum(0.0, divergence)


def coarser_dtype(pairs: Sequence[Pair]) -> str:
    """The coarser of both runs' dtypes, COARSEST if one is not stored."""
    order = list(TOLERANCES)
    replies = (side.reply for pair in pairs for side in pair.sides if side.reply)
    found = {str(each.run.get("dtype", COARSEST)).removeprefix("torch.") for each in replies}
    return max((name if name in order else COARSEST for name in found), key=order.index, default=COARSEST)


def find_noise_floor(differences: Differences, dtype: str, repeat: Differences | None) -> NoiseFloor:
    """Estimate the noise from a repeated run if there is one, else from the bulk of the differences between devices.

    It is at least one rounding step: a device that repeats itself to the bit still rounds differently from another.
    Taken from the bulk it is at most the dtype's tolerance, so that a fault in every question is not taken for noise.
    """
    step, limit = TOLERANCES[dtype].step, TOLERANCES[dtype].devices
    if repeat:
        lead = float(np.quantile(np.abs(repeat.shift), 0.99))
        source = f"99 % of the leads of the repeated run moved by at most {lead:.4f}"
    elif len(differences.pairs):
        lead = float(np.median(np.abs(differences.shift))) * BULK_TO_TAIL
        bulk = f"{BULK_TO_TAIL:.1f} times the median shift = {lead:.4f}"
        source = f"no repeated run: taken from the bulk of the differences ({bulk})"
        if lead > limit:
            lead, source = limit, f"{source}, but at most what {dtype} explains"
    else:
        return NoiseFloor(step, f"no log-probabilities: one rounding step of {dtype}", None)
    if lead < step:
        lead, source = step, f"{source}, but at least one rounding step of {dtype}"
    return NoiseFloor(lead, source, repeat)


# --- Findings ---


@dataclass(frozen=True)
class Finding:
    cause: str  # "nonfinite", "everywhere", "letter", "npu card", "prompt length", ...
    text: str  # one sentence
    look_at: str  # likely causes
    questions: int  # number of questions concerned
    p_corrected: float | None
    breaks: bool = True  # whether it calls the run broken


@dataclass(frozen=True)
class Diagnosis:
    findings: list[Finding]  # those that mean broken first, then by strength
    associations: list[Association]  # every significant one, broken or not, strongest first
    dtype: str  # the coarser one of both sides
    limit: float  # nats: the tolerance
    explained: str  # the same in words: "0.1 nats that float16 rounding explains"
    is_judged: bool  # False with --tolerance none: the limit only makes a group stand out
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
        return bool(self.measured) and self.measured >= LEAST_MEASURED * self.compared


def list_groups(findings: Sequence[Finding]) -> str:
    """Name the findings' groups without figures: "NPU card 2; TVQA"."""
    named = [each.text.split(": ")[0] for each in findings]
    more = [f"{len(named) - SHOWN_GROUPS} more"] if len(named) > SHOWN_GROUPS else []
    return "; ".join(named[:SHOWN_GROUPS] + more)


def diagnose(
    answers: Answers,
    differences: Differences,
    groups: Sequence[Subgroup],
    tolerance: Tolerance = Tolerance(),  # noqa: B008
    repeat: Differences | None = None,
    names: Names = NPU_AND_GPU,
) -> Diagnosis:
    """Find out whether a run is broken.

    `answers` have the same inputs on both sides; `differences` are measure(answers), `groups` their find_subgroups();
    `repeat` is a second run compared with its first."""
    is_judged, largest, dtype = tolerance.is_judged, differences.largest, coarser_dtype(answers.pairs)
    median = float(np.median(largest)) if len(largest) else 0.0
    limit, explained = _limit(answers.pairs, dtype, tolerance, median)
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
            systematic += _everywhere(largest[rest], len(above), limit, explained)
            systematic = systematic or _scattered(largest, limit)
        findings += [replace(each, breaks=is_judged) for each in systematic]
    else:
        flips = answers.letters[:, 0] != answers.letters[:, 1]  # reported, but not a reason to FAIL
        associations = _where(flips, answers, groups) if flips.any() else []
    findings += [*_unreadable(answers, names), *_not_repeated(repeat)]
    beyond, compared = float((largest > limit).mean()) if len(largest) else 0.0, len(answers.videos)
    return Diagnosis(findings, associations, dtype, limit, explained, is_judged, len(largest), compared, median, beyond)


def _limit(pairs: Sequence[Pair], dtype: str, tolerance: Tolerance, median: float) -> tuple[float, str]:
    """Return the largest difference that is no fault, in nats and in words."""
    if not tolerance.is_judged:
        limit = max(TOLERANCES[dtype].devices, STANDS_OUT * median)
        return limit, f"{limit:.3g} nats from which a group stands out"
    if tolerance.nats is not None:
        return tolerance.nats, f"{tolerance.nats:g} nats of --tolerance"
    words = option_words(pairs)
    limit = math.sqrt(words) * TOLERANCES[dtype].devices
    in_words = f" in {words} words" if words > 1 else ""
    is_stored = all("dtype" in reply.run for pair in pairs for reply in pair.replies)
    assumed = "" if is_stored else " (a dtype is not stored)"
    return limit, f"{limit:.3g} nats that {dtype} rounding explains{in_words}{assumed}"


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
    """Find the broken groups, strongest first, and which questions are in none of them.

    After each group the search goes on among the other questions, and after a letter among the other options: if one
    letter is favoured, all others look avoided."""
    above, by_letter = differences.largest > limit, differences.by_letter.copy()
    left, findings = np.ones(len(above), dtype=bool), list[Finding]()
    while left.any():
        smaller, videos = restrict(subgroups, left), differences.videos[left]
        found = letter_shifts(by_letter[left], videos)
        # An equal shift of all options leaves no spread. It is only used to find faults, since it says less.
        found += associate(differences.spread[left], above[left], smaller, videos)
        found += associate(differences.common[left], above[left], smaller, videos)
        broken = [each for each in significant(found, len(LETTERS) + 2 * len(smaller)) if _is_broken(each, limit)]
        if not broken:
            break
        # Name two broken cards of four as two groups, not as "all but NPU card 0".
        plain = [each for each in broken if each.cause == broken[0].cause and not each.label.startswith(ALL_BUT)]
        worst = (plain or broken)[0]
        findings.append(_finding(worst, limit, explained))
        if worst.cause == "letter":
            by_letter[:, LETTERS.index(worst.label.split()[1])] = np.nan
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
        text = f"{each.label}: shifted by {each.inside:+.3f} nats on average over {each.questions} questions"
    else:
        text = (
            f"{each.label}: {100 * each.above_inside:.0f} % of {each.questions} questions differ by more than the "
            f"{explained}, elsewhere {100 * each.above_outside:.0f} % "
            f"(median {each.inside:.2g} against {each.outside:.2g} nats)"
        )
    return Finding(each.cause, text, look_at(each.cause), each.questions, each.p_corrected)


def _everywhere(largest: FloatArray, total: int, limit: float, explained: str) -> list[Finding]:
    """Find a difference that is in most questions; `largest` is of the questions in no broken group."""
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
    return [Finding("everywhere", text, look_at("everywhere"), count, None)]


def _scattered(largest: FloatArray, limit: float) -> list[Finding]:
    hit, tail = (int((largest > factor * limit).sum()) for factor in (SCATTERED_FACTOR, TAIL_FACTOR))
    if hit < max(SCATTERED_COUNT, SCATTERED_PROPORTION * len(largest), TAIL_PROPORTION * tail):
        return []
    text = f"{hit} of {len(largest)} questions differ by more than {SCATTERED_FACTOR * limit:g} nats, while most agree"
    return [Finding("scattered", text, look_at("scattered"), hit, None)]


def _unreadable(answers: Answers, names: Names) -> list[Finding]:
    """Name the side that has more unreadable replies than chance explains."""
    alone = answers.unreadable[:, 0].astype(float) - answers.unreadable[:, 1]
    candidate, reference = int((alone > 0).sum()), int((alone < 0).sum())
    p_value, side = sign_flip_p(alone), names.candidate if candidate >= reference else names.reference
    if p_value >= SIGNIFICANT:
        return []
    count = max(candidate, reference)
    text = f"{count} replies of {side.phrase} alone cannot be read"
    return [Finding("unreadable", text, look_at("unreadable"), count, p_value, breaks=False)]


def _not_repeated(repeat: Differences | None) -> list[Finding]:
    """Say if a repeated run differs by more than another order of additions explains, or if one of both overflows."""
    if repeat is None:
        return []
    dtype, count = coarser_dtype(repeat.pairs), len(repeat.pairs)
    step = TOLERANCES[dtype].step
    hit, found = int((repeat.largest > step).sum()), []
    if hit > REPEATED * count:
        last_bits = f"the last bits of {dtype} ({step:g} nats), by {repeat.largest.max():.3g} at most"
        found.append(f"{hit} of {count} questions differ by more than {last_bits}")
    if repeat.overflowed:
        found.append(f"questions in which one of both alone holds NaN or infinity: {repeat.overflowed}")
    text = f"the repeated run does not repeat its first: {'; '.join(found)}"
    return [Finding("repeat", text, look_at("repeat"), hit + repeat.overflowed, None, breaks=False)] if found else []
