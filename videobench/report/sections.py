"""The report's verdict, tables and lists; every text from data is escaped."""

from collections.abc import Iterable, Iterator, Sequence
from html import escape

import numpy as np

from videobench.compare.accuracy import Group
from videobench.compare.comparison import Comparison
from videobench.compare.same_inputs import DIFFERS
from videobench.compare.scoring import FAILED, LEVEL_NAMES, MISSING, REFERENCE_ROWS, UNREADABLE, Score
from videobench.report.as_json import count_classes, keys_with
from videobench.report.plots import plot_accuracies, plot_histogram, plot_interval, plot_margins
from videobench.report.terminal import tell_association, tell_needed

LISTED_KEYS = 300


def verdict_section(comparison: Comparison) -> Iterator[str]:
    verdict, paired = comparison.verdict, comparison.groups.overall.paired
    reasons = [_sentence(reason) for reason in verdict.reasons]
    needed = tell_needed(verdict)
    if needed:
        reasons.append(_sentence(needed))
    yield f'<section class="panel verdict {verdict.name}"><div><div class="stamp">{verdict.name}</div>'
    yield f"<ul>{''.join(f'<li>{escape(reason)}</li>' for reason in reasons)}</ul></div>"
    if paired:
        yield f"<div>{plot_interval(paired.difference, paired.ci95, verdict.margin)}</div>"
    yield "</section>"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def inputs_section(comparison: Comparison) -> Iterator[str]:
    inputs, pairing = comparison.inputs, comparison.pairing
    told = f"No: {', '.join(inputs.differing)}." if inputs.differing else "Yes, as far as the files tell."
    rows = (
        _row([row.name, row.npu, row.gpu, row.state], "differs" if row.state == DIFFERS else "") for row in inputs.rows
    )
    yield f"<h2>Were the inputs the same?</h2><p>{escape(told)}</p>"
    yield f'<div class="panel">{_table(["", "NPU", "GPU", ""], rows, "words")}</div>'
    for side, sets in (("NPU", pairing.sets_only_npu), ("GPU", pairing.sets_only_gpu)):
        if sets:
            listed = ", ".join(f"{name} ({count})" for name, count in sets.items())
            yield f'<p class="soft">Data sets that only the {side} run has, left out: {escape(listed)}.</p>'
    if pairing.answers_unused:
        yield f'<p class="soft">Right answers of questions that neither side has: {pairing.answers_unused:,}.</p>'
    if pairing.dropped:
        yield f'<p class="soft">Left out as the original does, a side gave no letter: {pairing.dropped} questions.</p>'
    yield _keys("Without a right answer, left out", pairing.without_answer)


def accuracy_section(comparison: Comparison) -> Iterator[str]:
    overall = comparison.groups.overall
    yield f'<h2>Accuracy</h2><div class="tiles">{_score_tile("npu", overall.npu)}{_score_tile("gpu", overall.gpu)}'
    paired = overall.paired
    if paired:
        low, high = paired.ci95
        kappa = "not defined" if paired.kappa is None else f"{paired.kappa:.3f}"
        yield _tile(
            f"{paired.difference:+.2f}",
            "points, NPU minus GPU",
            f"95 % interval {low:+.2f} to {high:+.2f}; {paired.questions:,} questions on {paired.videos:,} videos",
        )
        same = f"({paired.same_letter}/{paired.questions}), kappa {kappa}"
        yield _tile(f"{100 * paired.agreement:.1f} %", "same letter", same)
        yield _tile(
            f"{paired.npu_only} : {paired.gpu_only}",
            "right on the NPU only : on the GPU only",
            f"exact McNemar p {paired.p_value:.3g}; both right {paired.both_right}, both wrong {paired.both_wrong}",
        )
    yield "</div>"
    for side in ("npu", "gpu"):
        for outcome in (UNREADABLE, FAILED, MISSING):
            keys = keys_with(comparison.pairing.pairs, side, outcome)
            yield _keys(f"{side.upper()} {outcome}, counted as wrong", keys)


def _score_tile(side: str, score: Score) -> str:
    counts = f"{score.unreadable} unreadable, {score.failed} failed, {score.missing} missing"
    return _tile(f"{100 * score.accuracy:.2f} %", f"{side.upper()} ({score.correct}/{score.total})", counts, side)


def _tile(number: str, name: str, more: str, style: str = "") -> str:
    return (
        f'<div class="panel tile {style}"><b>{escape(number)}</b>{escape(name)}'
        f'<div class="soft small">{escape(more)}</div></div>'
    )


def groups_section(comparison: Comparison) -> Iterator[str]:
    groups = comparison.groups
    scores = [(name, group.npu, group.gpu) for name, group in groups.per_dataset.items()]
    yield '<h2>By level and data set</h2><div class="pair"><div class="panel"><h3>Accuracy, %, with 95 % intervals</h3>'
    yield plot_accuracies(scores)
    yield f'{_SIDES_LEGEND}</div><div class="panel">{"".join(_ranking(comparison))}</div></div>'
    rows = [
        _group_row(f"Level {level}: {LEVEL_NAMES[level]}", group, "", "level")
        for level, group in groups.per_level.items()
    ]
    typical = _typical_differences(comparison)
    rows += [_group_row(name, group, typical.get(name, ""), "") for name, group in groups.per_dataset.items()]
    names = [
        "",
        "questions",
        "NPU %",
        "GPU %",
        "difference",
        "95 % interval",
        "same letter",
        "NPU : GPU only",
        "nats",
        "p (corr.)",
    ]
    yield f'<div class="panel" style="margin-top:16px">{_table(names, rows)}'
    yield (
        '<p class="soft small">p: sign test with whole videos as units, corrected (Holm) for the number of data sets. '
        "Differences are NPU minus GPU, in points; nats: median of the questions' largest differences.</p></div>"
    )


_SIDES_LEGEND = '<p class="legend"><span class="is-npu"><b>NPU</b></span><span class="is-gpu"><b>GPU</b></span></p>'


def _ranking(comparison: Comparison) -> Iterator[str]:
    """Both sides' weighted averages among the leaderboard's published ones."""
    weighted = comparison.groups.weighted
    rows = [(value, name, "") for name, value in REFERENCE_ROWS.items()]
    rows += [
        (100 * weighted[side]["all"], f"this {side.upper()} run", side) for side in weighted if "all" in weighted[side]
    ]
    yield '<h3>The leaderboard\'s weighted average, %</h3><div class="ranking">'
    for value, name, side in sorted(rows, reverse=True):
        own = f' class="own is-{side}"' if side else ""
        bar = f'<i class="{side}" style="width:{value:.1f}%"></i>'
        yield f"<span{own}>{escape(name)}</span>{bar}<span{own}>{value:.2f}</span>"
    yield "</div>"
    chance = "" if comparison.chance is None else f" Chance level of these questions: {100 * comparison.chance:.2f} %."
    yield (
        '<p class="soft small" style="margin-top:10px">Over the data sets in this comparison; the published rows are '
        f"over all 13 and all their questions. Random is the chance level.{chance}</p>"
    )


def _group_row(name: str, group: Group, typical: str, style: str) -> str:
    paired = group.paired
    cells = [name, f"{group.npu.total}", f"{100 * group.npu.accuracy:.2f}", f"{100 * group.gpu.accuracy:.2f}"]
    if paired:
        cells += [f"{paired.difference:+.2f}", f"{paired.ci95[0]:+.2f} to {paired.ci95[1]:+.2f}"]
        cells += [f"{100 * paired.agreement:.1f} %", f"{paired.npu_only} : {paired.gpu_only}"]
    else:
        cells += ["-"] * 4
    return _row([*cells, typical, "" if group.p_corrected is None else f"{group.p_corrected:.3g}"], style)


def _typical_differences(comparison: Comparison) -> dict[str, str]:
    """Data set -> median of its questions' largest differences."""
    by_set: dict[str, list[float]] = {}
    for pair, largest in zip(comparison.differences.pairs, comparison.differences.largest, strict=True):
        by_set.setdefault(pair.dataset, []).append(float(largest))
    return {name: f"{np.median(values):.2g}" for name, values in by_set.items()}


def divergence_section(comparison: Comparison) -> Iterator[str]:
    differences, noise, diagnosis = comparison.differences, comparison.noise, comparison.diagnosis
    yield "<h2>Numeric divergence</h2>"
    findings = diagnosis.findings
    if findings:
        listed = "".join(f"<li><b>{escape(each.cause)}</b>: {escape(each.text)}</li>" for each in findings[:6])
        yield f'<section class="panel verdict FAIL" style="display:block"><h3>Broken</h3><ul>{listed}</ul></section>'
    if not differences.pairs:
        yield '<p class="soft">Not known: a side stores no log-probabilities.</p>'
        return
    yield f"<p>{escape(_strongest(comparison))}</p>"
    yield f'<div class="pair"><div class="panel"><h3>Margin of the right option</h3>{plot_margins(comparison)}'
    kinds = [kind for kind, count in count_classes(comparison.flips).items() if count]
    legend = "".join(f'<span class="is-{kind}"><b>flip: {kind}</b></span>' for kind in kinds)
    yield f'<p class="legend">{legend}</p></div>'
    yield f'<div class="panel"><h3>Differences of log-probabilities</h3>{plot_histogram(comparison)}'
    repeated = "<span><b>outline: repeated run</b></span>" if noise.repeat else ""
    yield f'<p class="legend"><span class="is-npu"><b>NPU against GPU</b></span>{repeated}</p>'
    rows = [_quantiles("largest difference", differences.largest)]
    if noise.repeat:
        rows.append(_quantiles("between repeated runs", noise.repeat.largest))
    rows += [
        _quantiles("shift of the top-2 margin", np.abs(differences.shift)),
        _quantiles("KL divergence", differences.kl),
    ]
    yield _table(["nats", "median", "99 %", "max"], rows)
    floor = f"Noise floor of a margin: {noise.margin:.4f} nats; {noise.source}."
    yield f'<p class="soft small">{escape(floor)}</p></div></div>'


def _strongest(comparison: Comparison) -> str:
    diagnosis = comparison.diagnosis
    told = f"{diagnosis.dtype} can explain {diagnosis.limit:g} nats."
    if not diagnosis.associations:
        return f"{told} No set, card, letter, length or wording differs more than the rest."
    each = diagnosis.associations[0]
    return f"{told} Strongest association: {tell_association(each)}."


def _quantiles(name: str, values: np.ndarray) -> str:
    median, p99 = np.quantile(values, [0.5, 0.99])
    return _row([name, *(f"{value:.5f}" for value in (median, p99, values.max()))])


def _table(names: Sequence[str], rows: Iterable[str], style: str = "") -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    body = "".join(rows)
    table = f'<table class="{style}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="scroll">{table}</div>'


def _row(cells: Sequence[str], style: str = "") -> str:
    return f'<tr class="{style}">{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'


def _keys(name: str, keys: Sequence[str]) -> str:
    if not keys:
        return ""
    more = f"<li>and {len(keys) - LISTED_KEYS} more</li>" if len(keys) > LISTED_KEYS else ""
    listed = "".join(f"<li>{escape(key)}</li>" for key in keys[:LISTED_KEYS])
    return f'<details class="small"><summary>{escape(name)}: {len(keys)}</summary><ul>{listed}{more}</ul></details>'
