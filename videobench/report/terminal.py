"""A comparison as a page for the terminal, 100 columns wide: the verdict, whether it can be trusted, the numbers."""

import textwrap
from collections.abc import Iterator, Sequence

import numpy as np

from videobench.compare.accuracy import Group, Paired
from videobench.compare.associations import Association
from videobench.compare.comparison import Comparison
from videobench.compare.flips import CLASSES, Flip
from videobench.compare.same_inputs import DIFFERS
from videobench.compare.scoring import FAILED, LEVEL_NAMES, MISSING, REFERENCE_ROWS, UNREADABLE, Score
from videobench.compare.verdict import Verdict
from videobench.report.as_json import count_classes, keys_with

WIDTH = 100
MOST_QUESTIONS = 1_000_000  # more are none
SHOWN_KEYS = 5  # of a list of questions; the JSON has all
SHOWN_FLIPS = 10
SHOWN_FINDINGS = 3
SIDES = ("gpu", "npu")  # the original's order


def build_text(comparison: Comparison) -> str:
    sections = (_verdict, _inputs, _accuracy, _tables, _divergence, _flips, _named)
    return "\n\n".join(text for text in ("\n".join(map(_visible, section(comparison))) for section in sections) if text)


def _visible(line: str) -> str:
    """Names and settings are the files' own: no character of them ends a line or steers the terminal."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in line)


def _verdict(comparison: Comparison) -> Iterator[str]:
    verdict = comparison.verdict
    yield f"{verdict.name}  (margin {tell_points(verdict.margin)}, scoring {comparison.scoring})"
    for reason in verdict.reasons:
        yield from _wrapped(reason)
    needed = tell_needed(verdict)
    if needed:
        yield from _wrapped(needed)


def tell_points(margin: float) -> str:
    return f"{margin:g} point" + ("" if margin == 1 else "s")


def tell_needed(verdict: Verdict) -> str:
    """ "" where no number of questions is asked for."""
    seen, equal = verdict.questions_needed, verdict.questions_needed_if_equal
    if equal is None:
        return ""
    if seen == equal:
        return f"about {seen:,} questions would probably decide it"
    if seen is None or seen > MOST_QUESTIONS:
        return (
            f"if there is no difference, about {equal:,} questions would probably decide it; if it is as seen, none can"
        )
    return f"about {seen:,} questions would probably decide it if the difference is as seen, {equal:,} if there is none"


def _wrapped(text: str, indent: str = "  ") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent)


def _inputs(comparison: Comparison) -> Iterator[str]:
    inputs, pairing = comparison.inputs, comparison.pairing
    told = "no: " + ", ".join(inputs.differing) if inputs.differing else "yes, as far as the files tell"
    yield from _wrapped(f"Were the inputs the same? {told}", "")
    rows = [("", "npu", "gpu", "")] + [(row.name, row.npu, row.gpu, row.state) for row in inputs.rows]
    for name, npu, gpu, state in rows:
        mark = "!" if state == DIFFERS else " "
        yield f"{mark} {_cut(name, 20):20} {_cut(npu, 28):28} {_cut(gpu, 28):28} {state}".rstrip()
    for side, sets in (("npu", pairing.sets_only_npu), ("gpu", pairing.sets_only_gpu)):
        if sets:
            listed = ", ".join(f"{name} ({count})" for name, count in sets.items())
            yield from _wrapped(f"sets that only {side} has, left out: {listed}")
    if pairing.answers_unused:
        yield from _wrapped(f"right answers of questions that neither side has: {pairing.answers_unused:,}")
    if pairing.without_answer:
        yield from _wrapped(f"without a right answer, left out: {_some(pairing.without_answer)}")
    if pairing.dropped:
        yield from _wrapped(f"left out as the original does, a side gave no letter: {pairing.dropped} questions")


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def _some(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - SHOWN_KEYS:,} more" if len(keys) > SHOWN_KEYS else ""
    return f"{len(keys):,}: {', '.join(keys[:SHOWN_KEYS])}{more}"


def _accuracy(comparison: Comparison) -> Iterator[str]:
    overall = comparison.groups.overall
    for side in SIDES:
        yield f"{side} {_score_line(getattr(overall, side))}"
    paired = overall.paired
    if paired:
        yield (
            f"difference {paired.difference:+.2f} points, 95 % interval {_interval(paired)}, "
            f"{paired.questions:,} questions on {paired.videos:,} videos"
        )
        kappa = "-" if paired.kappa is None else f"{paired.kappa:.3f}"
        yield f"agreement {100 * paired.agreement:.1f} % ({paired.same_letter}/{paired.questions}), kappa {kappa}"
        yield (
            f"both right {paired.both_right}, only npu {paired.npu_only}, only gpu {paired.gpu_only}, "
            f"both wrong {paired.both_wrong}; exact McNemar p {paired.p_value:.3g}"
        )


def _score_line(score: Score) -> str:
    return (
        f"{score.accuracy:.4f} ({score.correct}/{score.total}), {score.unreadable} unreadable, {score.failed} failed, "
        f"{score.missing} missing"
    )


def _interval(paired: Paired) -> str:
    return f"{paired.ci95[0]:+.2f} to {paired.ci95[1]:+.2f}"


def _tables(comparison: Comparison) -> Iterator[str]:
    groups = comparison.groups
    yield f"{'':25} {'questions':>9} {'npu %':>7} {'gpu %':>7} {'diff':>7} {'95 % interval':>18} {'p (corrected)':>14}"
    for level, group in groups.per_level.items():
        yield _group_row(f"level {level} {LEVEL_NAMES[level]}", group)
    for name, group in groups.per_dataset.items():
        yield _group_row(f"  {name}", group)
    weighted = groups.weighted
    if "all" in weighted["npu"]:
        averages = ", ".join(f"{side} {100 * weighted[side]['all']:.2f}" for side in SIDES)
        chance = "" if comparison.chance is None else f"; chance of these questions {100 * comparison.chance:.2f}"
        yield from _wrapped(f"leaderboard's weighted average over these sets, %: {averages}{chance}", "")
        yield from _wrapped("; ".join(f"{name} {value:.2f}" for name, value in REFERENCE_ROWS.items()))


def _group_row(name: str, group: Group) -> str:
    paired = group.paired
    difference = f"{paired.difference:+7.2f} {_interval(paired):>18}" if paired else f"{'-':>7} {'-':>18}"
    p_value = "" if group.p_corrected is None else f"{group.p_corrected:14.3g}"
    accuracies = f"{100 * group.npu.accuracy:7.2f} {100 * group.gpu.accuracy:7.2f}"
    return f"{_cut(name, 25):25} {group.npu.total:9} {accuracies} {difference} {p_value}".rstrip()


def _divergence(comparison: Comparison) -> Iterator[str]:
    differences, noise, diagnosis = comparison.differences, comparison.noise, comparison.diagnosis
    if not len(differences.pairs):
        yield "Numeric divergence: not known, a side stores no log-probabilities"
    else:
        yield f"Numeric divergence of the option log-probabilities, nats ({len(differences.pairs):,} questions)"
        yield _quantiles("largest difference of a question", differences.largest)
        if noise.repeat:
            yield _quantiles("the same between repeated runs", noise.repeat.largest)
        yield _quantiles("shift of the top-2 margin", np.abs(differences.shift))
        yield _quantiles("Kullback-Leibler divergence", differences.kl)
        yield from _wrapped(f"noise floor of a margin: {noise.margin:.4f}; {noise.source}")
    for finding in diagnosis.findings[:SHOWN_FINDINGS]:
        corrected = "" if finding.p_corrected is None else f" ({tell_p(finding.p_corrected)})"
        yield from _wrapped(f"BROKEN, {finding.cause}: {finding.text}{corrected}")
    if not diagnosis.broken and diagnosis.associations:
        each = diagnosis.associations[0]
        limit = ", too weak to call the run broken" if each.unit == "nats" else ""
        yield from _wrapped(f"strongest association{limit}: {tell_association(each)}")


def tell_association(each: Association) -> str:
    amounts = f"{each.inside:.3g} nats against {each.outside:.3g} elsewhere"
    if each.cause == "letter":
        amounts = f"shifted by {each.inside:+.3g} nats in the mean"
    if each.unit == "share":
        amounts = f"flips in {100 * each.inside:.3g} % against {100 * each.outside:.3g} % elsewhere"
    return f"{each.label}, {amounts} ({tell_p(each.p_corrected)})"


def tell_p(p_corrected: float) -> str:
    return "p < 1e-300, corrected" if p_corrected < 1e-300 else f"p {p_corrected:.1g}, corrected"


def _quantiles(name: str, values: np.ndarray) -> str:
    median, p99 = np.quantile(values, [0.5, 0.99])
    return f"  {name:34} median {median:8.5f}   99 % {p99:8.5f}   max {values.max():8.5f}"


def _flips(comparison: Comparison) -> Iterator[str]:
    flips = comparison.flips
    counts = ", ".join(f"{count} {kind}" for kind, count in count_classes(flips).items() if count)
    yield f"Flips: {len(flips)}" + (f" ({counts})" if counts else "")
    for kind in [kind for kind, count in count_classes(flips).items() if count]:
        yield f"  {kind}: {CLASSES[kind]}"
    for flip in flips[:SHOWN_FLIPS]:
        yield _flip_row(flip)
    if len(flips) > SHOWN_FLIPS:
        yield f"  and {len(flips) - SHOWN_FLIPS:,} more: --output_json or --report_html"


def _flip_row(flip: Flip) -> str:
    pair = flip.pair
    margins = " ".join(
        f"{side} {'-' if margin is None else format(margin, '.3f')}"
        for side, margin in (("npu", flip.npu_margin), ("gpu", flip.gpu_margin))
    )
    letters = f"npu {pair.npu.letter or '-'} gpu {pair.gpu.letter or '-'} right {pair.right or '-'}"
    return f"  {flip.kind:8} {_cut(pair.key, 34):34} {letters}  margins {margins}"


def _named(comparison: Comparison) -> Iterator[str]:
    for side in SIDES:
        for outcome in (UNREADABLE, FAILED, MISSING):
            keys = keys_with(comparison.pairing.pairs, side, outcome)
            if keys:
                yield from _wrapped(f"{side} {outcome} {_some(keys)}", "")
