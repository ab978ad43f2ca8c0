"""Find groups of questions (by set, card, length, letter) in which two runs differ more than elsewhere: a systematic
difference has a cause."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from videobench.compare.pairing import Answers, Mask, Pair
from videobench.compare.scoring import LEVEL_NAMES, LEVEL_OF
from videobench.compare.settings import NPU_AND_GPU, SIDES, Names
from videobench.compare.statistics import (
    Clusters,
    FloatArray,
    average_ranks,
    cluster_error,
    cluster_sums,
    holm,
    normal_p,
    rank_sum_z,
    sign_flip_p,
)
from videobench.data.dataset import LETTERS
from videobench.data.rows import Reply

SIGNIFICANT = 0.001
OUTLIER_P, OUTLIER_Z = 0.01, 2.5
SMALLEST_GROUP = 5  # questions, in the group and in the rest
QUANTILES = (0.25, 0.5, 0.75, 0.9)  # at which a measured quantity is cut into "above" and the rest
MANY_VALUES = 40  # of a named quantity; with more, single values are not examined
ALL_BUT = "all but "  # begins the label of a group that was replaced by its complement
ABOUT_TIME = re.compile(
    r"\b(first|last|before|after|then|next|begin\w*|start\w*|end(?:s|ed|ing)?|final\w*|order|sequence|direction|while|until)\b",
    re.I,
)


@dataclass(frozen=True)
class Subgroup:
    """A group of questions that may differ more than the rest."""

    cause: str  # "npu card": what the group is about
    label: str  # "NPU card 2": the group in words
    members: Mask


@dataclass(frozen=True)
class Outlier:
    """A set, a level or a group in which accuracy differs by more than the margin, and by more than chance explains."""

    label: str
    questions: int
    difference: float  # points
    p_corrected: float  # Holm, over all groups

    @property
    def text(self) -> str:
        return f"{self.label}: accuracy differs by {self.difference:+.1f} points over {self.questions:,} questions"


@dataclass(frozen=True)
class Association:
    cause: str
    label: str
    questions: int
    # The group's median of the measure, in nats (divergence.Differences), or its proportion of flips, 0 to 1; for a
    # letter its mean shift.
    inside: float
    outside: float  # the same for the rest
    above_inside: float  # proportion of the group whose difference is above the limit
    above_outside: float
    z: float
    p_corrected: float  # Bonferroni, over all groups that were tested with it
    unit: str = "nats"  # of inside and outside: "nats", or "share" for a proportion
    members: Mask = field(default_factory=lambda: np.zeros(0, dtype=bool), repr=False)  # empty for a letter


def associate(
    values: FloatArray, above: Mask, subgroups: Sequence[Subgroup], clusters: Clusters, is_proportion: bool = False
) -> list[Association]:
    """Find groups that differ from the rest by more than chance explains, by the rank-sum test.

    z includes the design effect of videos; p is not yet corrected for the number of groups. `above` says which
    questions differ by more than the limit. If a group differs less than the rest, its complement is named: "all but
    NPU card 0"."""
    middle: Callable[[FloatArray], float] = np.mean if is_proportion else np.median
    ranks, found = average_ranks(values), []
    for subgroup in subgroups:
        members, label = subgroup.members, subgroup.label
        z = rank_sum_z(ranks, members, clusters)
        if z < 0:
            members, label, z = ~members, f"{ALL_BUT}{label}", -z
        if normal_p(z) >= SIGNIFICANT:
            continue
        inside, outside = (float(middle(values[each])) for each in (members, ~members))
        above_inside, above_outside = (float(above[each].mean()) for each in (members, ~members))
        amounts = inside, outside, above_inside, above_outside, z, normal_p(z), "share" if is_proportion else "nats"
        found.append(Association(subgroup.cause, label, int(members.sum()), *amounts, members))
    return found


def find_outliers(answers: Answers, groups: Sequence[Subgroup], margin: float, one_sided: bool) -> list[Outlier]:
    """Find outliers, the clearest first; with `one_sided` only a loss counts."""
    moved, p_values = answers.is_right[:, 0].astype(float) - answers.is_right[:, 1], []
    for each in groups:
        sums, _ = cluster_sums(moved[each.members], answers.videos[each.members])
        # The exact test takes time, so it is skipped if it cannot find anything.
        is_near = sums.sum() ** 2 > OUTLIER_Z**2 * (sums**2).sum()
        p_values.append(sign_flip_p(sums) if is_near else 1.0)
    found = []
    for each, p_corrected in zip(groups, holm(p_values), strict=True):
        difference = 100 * float(moved[each.members].mean())
        if p_corrected < OUTLIER_P and (-difference if one_sided else abs(difference)) > margin:
            found.append(Outlier(each.label, int(each.members.sum()), difference, p_corrected))
    return sorted(found, key=lambda each: each.p_corrected)


def letter_shifts(by_letter: FloatArray, clusters: Clusters) -> list[Association]:
    """Find each option letter's mean shift against the question's other letters: does a port favour one letter?

    `by_letter` is Differences.by_letter."""
    options, total = (~np.isnan(by_letter)).sum(axis=1, keepdims=True), np.nansum(by_letter, axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):  # a single option has no others: nan
        against_others = (by_letter * options - total) / (options - 1)
    found = []
    for column, letter in enumerate(LETTERS):
        shifts = against_others[:, column]
        has = ~np.isnan(shifts)
        if has.sum() < 6 * SMALLEST_GROUP:  # the mean of fewer is not normal
            continue
        values, own = shifts[has], clusters[has]
        mean = float(values.mean())
        error = max(cluster_error(values, own), float(values.std(ddof=1)) / len(values) ** 0.5)
        z = abs(mean) / error if error else 0.0
        word = "favoured" if mean > 0 else "avoided"
        found.append(Association("letter", f"option {letter} {word}", len(values), mean, 0.0, 0.0, 0.0, z, normal_p(z)))
    return found


def significant(found: Sequence[Association], tests: int) -> list[Association]:
    """Keep the significant ones, strongest first, with p multiplied by the number of tests."""
    tested = [replace(each, p_corrected=min(1.0, each.p_corrected * tests)) for each in found]
    return sorted((each for each in tested if each.p_corrected < SIGNIFICANT), key=lambda each: -each.z)


def association_text(each: Association) -> str:
    """ "NPU card 2, 0.41 nats against 0.01 elsewhere (p 1e-09, corrected)"."""
    amounts = f"{each.inside:.3g} nats against {each.outside:.3g} elsewhere"
    if each.cause == "letter":
        amounts = f"shifted by {each.inside:+.3g} nats on average"
    if each.unit == "share":
        amounts = f"flips in {100 * each.inside:.3g} % against {100 * each.outside:.3g} % elsewhere"
    return f"{each.label}, {amounts} ({p_value_text(each.p_corrected)})"


def p_value_text(p_corrected: float) -> str:
    return "p < 1e-300, corrected" if p_corrected < 1e-300 else f"p {p_corrected:.1g}, corrected"


def find_subgroups(pairs: Sequence[Pair], names: Names = NPU_AND_GPU) -> list[Subgroup]:
    """List all groups that may differ and are large enough to be judged."""
    return [each for each in _all_subgroups(pairs, names) if _is_large_enough(each.members)]


def find_levels(pairs: Sequence[Pair]) -> list[Subgroup]:
    """List the benchmark's levels among the pairs."""
    levels = (LEVEL_OF.get(pair.dataset) for pair in pairs)
    return list(_by_value("level", "level ", [f"{each} {LEVEL_NAMES[each]}" if each else None for each in levels]))


def restrict(subgroups: Sequence[Subgroup], left: Mask) -> list[Subgroup]:
    """Restrict the groups to the pairs that are `left`; drop those that become too small."""
    smaller = [replace(each, members=each.members[left]) for each in subgroups]
    return [each for each in smaller if _is_large_enough(each.members)]


def _is_large_enough(members: Mask) -> bool:
    return SMALLEST_GROUP <= int(members.sum()) <= len(members) - SMALLEST_GROUP


def _all_subgroups(pairs: Sequence[Pair], names: Names) -> Iterator[Subgroup]:
    yield from _by_value("data set", "", [pair.dataset for pair in pairs])
    yield from _cards(pairs, names)
    yield from _by_value("right letter", "right answer ", [None if pair.reply.logged else pair.right for pair in pairs])
    yield from _by_value("number of options", "number of options ", [len(pair.reply.options) or None for pair in pairs])
    yield from _by_size("prompt length", "prompts of more than {} tokens", [_longest_prompt(pair) for pair in pairs])
    yield from _by_size("video length", "videos of more than {} frames", [pair.reply.frames_decoded for pair in pairs])
    yield from _by_size("resolution", "videos of more than {} pixels a frame", [_area(pair) for pair in pairs])
    about_time = [not pair.reply.logged and bool(ABOUT_TIME.search(pair.reply.own_question)) for pair in pairs]
    yield Subgroup("order in time", "questions about order in time", np.array(about_time, dtype=bool))


def _cards(pairs: Sequence[Pair], names: Names) -> Iterator[Subgroup]:
    candidate, reference = ([getattr(pair, side).reply for pair in pairs] for side in SIDES.values())
    labels = _card_labels(candidate), _card_labels(reference)
    if [each.rank for each in candidate] == [each.rank for each in reference]:  # either side's card may be the cause
        both = (dict.fromkeys(each) for each in zip(*labels, strict=True))
        yield from _by_value("card", "", [None if None in each else " or ".join(map(str, each)) for each in both])
    else:
        yield from _by_value("npu card", f"{names.candidate.title} ", labels[0])
        yield from _by_value("gpu card", f"{names.reference.title} ", labels[1])


def _card_labels(replies: Sequence[Reply]) -> list[str | None]:
    """ "card 5", "cards 2 and 3"; the replica is added if another machine has cards with these numbers, too."""
    replicas: dict[tuple[str, ...], set[int | None]] = {}
    for each in replies:
        replicas.setdefault(each.cards, set()).add(each.rank)
    labels = []
    for each in replies:
        named = f"card{'s' * (len(each.cards) > 1)} {' and '.join(each.cards)}"
        more = f" of replica {each.rank}" if len(replicas[each.cards]) > 1 else ""
        labels.append(f"{named}{more}" if each.cards else None)
    return labels


def _by_value(cause: str, prefix: str, values: Sequence[object]) -> Iterator[Subgroup]:
    distinct = sorted({value for value in values if value is not None}, key=str)
    if 2 <= len(distinct) <= MANY_VALUES:
        for value in distinct:
            yield Subgroup(cause, f"{prefix}{value}", np.array([each == value for each in values]))


def _by_size(cause: str, label: str, values: Sequence[float | None]) -> Iterator[Subgroup]:
    numbers = np.array([float("nan") if value is None else value for value in values], dtype=float)
    known = numbers[~np.isnan(numbers)]
    if len(known):
        for cut in sorted({float(np.quantile(known, quantile, method="lower")) for quantile in QUANTILES}):
            yield Subgroup(cause, label.format(f"{cut:.0f}"), numbers > cut)


def _longest_prompt(pair: Pair) -> float | None:
    """The length of the longer prompt: if one side's prompts are cut, the other's are the true ones."""
    replies = (side.reply for side in pair.sides if side.reply)
    return max((each.prompt_tokens for each in replies if each.prompt_tokens), default=None)


def _area(pair: Pair) -> float | None:
    sides = pair.reply.resolution.split("x")
    return float(sides[0]) * float(sides[1]) if len(sides) == 2 and all(side.isdecimal() for side in sides) else None
