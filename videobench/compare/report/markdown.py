"""A report as Markdown, for a CI's page or an issue: one line that says all, the lines to act on, tables."""

import re
from collections.abc import Iterable, Iterator, Sequence

from videobench.compare.report.as_json import Json
from videobench.compare.report.terminal import margin_text
from videobench.compare.scoring import LEVEL_NAMES

SIDES = ("npu", "gpu")
SHOWN_FLIPS = 20
SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~!@&$])")  # @ and # would link people and issues


def build_markdown(report: Json) -> str:
    """`report` is as_json.build_report's. Names from the files are escaped: they make no markup and no link."""
    sections = (_summary, _reasons, _inputs, _accuracy, _groups, _divergence, _flips)
    return "\n\n".join("\n".join(section(report)) for section in sections) + "\n"


def _escaped(text: object) -> str:
    visible = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in str(text))
    return SPECIAL.sub(r"\\\1", visible)


def _titles(report: Json) -> list[str]:
    return [_title(report, side) for side in SIDES]


def _title(report: Json, side: str) -> str:
    return _escaped(report["names"][side]["title"])


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    yield from (f"| {' | '.join(map(_escaped, row))} |" for row in rows)


def _summary(report: Json) -> Iterator[str]:
    summary, compared = report["summary"], report["compared"]
    accuracies = ", ".join(f"{_title(report, side)} {100 * report[side]['accuracy']:.2f} %" for side in SIDES)
    yield f"**{_escaped(summary['verdict'])}** ({accuracies}, {compared['questions']:,} questions)"
    yield ""
    yield f"- **Numbers**: {_escaped(summary['numbers'])}"
    yield f"- **Next**: {_escaped(summary['next_step'])}"


def _reasons(report: Json) -> Iterator[str]:
    margin = margin_text(report)
    yield f"### {report['verdict']} by {report['decided_by']} (margin {margin}, scoring {report['scoring']})"
    yield ""
    yield from (f"- {_escaped(reason)}" for reason in report["reasons"])
    if report["questions_needed"]["text"]:
        yield f"- {_escaped(report['questions_needed']['text'])}"
    yield from (f"- look at: {_escaped(each['look_at'])}" for each in report["obstacles"])


def _inputs(report: Json) -> Iterator[str]:
    yield f"### Were the inputs the same? {_escaped(report['inputs']['same'])}"
    yield ""
    rows = ([each["name"], each["npu"], each["gpu"], each["state"]] for each in report["inputs"]["table"])
    yield from _table(("", *_titles(report), ""), rows)
    if report["services"]:
        yield ""
        yield from (f"- {_escaped(each['text'])}. Set: {_escaped(each['fix'])}" for each in report["services"])


def _accuracy(report: Json) -> Iterator[str]:
    yield "### Accuracy"
    yield ""
    outcomes = ("unreadable", "failed", "missing")
    rows = (
        [report["names"][side]["title"], f"{100 * score['accuracy']:.2f} % ({score['correct']}/{score['total']})"]
        + [score[outcome] for outcome in outcomes]
        for side, score in ((side, report[side]) for side in SIDES)
    )
    yield from _table(("", "right", *outcomes), rows)
    yield ""
    named = [("accuracy", report)] + ([("smoothed accuracy", report["smoothed"])] if report["smoothed"] else [])
    yield from _table(
        (" minus ".join(_titles(report)), "points", "95 % interval"),
        ([name, f"{group['difference_points']:+.2f}", _interval(group)] for name, group in named),
    )
    yield ""
    compared, mcnemar = report["compared"], report["mcnemar"]
    npu, gpu = (report["names"][side]["phrase"] for side in SIDES)
    yield (
        f"{compared['questions']:,} questions on {compared['videos']:,} videos. Same letter in "
        f"{100 * report['agreement']:.1f} %; right on {_escaped(npu)} alone {mcnemar['npu_only']}, on "
        f"{_escaped(gpu)} alone {mcnemar['gpu_only']}, exact McNemar p {mcnemar['p_value']:.3g}."
    )
    yield from (f"\n{note[:1].upper()}{note[1:]}." for note in report["over"])


def _interval(group: Json) -> str:
    return "{:+.2f} to {:+.2f}".format(*group["difference_ci95"])


def _groups(report: Json) -> Iterator[str]:
    groups = [(f"level {level} {LEVEL_NAMES[int(level)]}", group) for level, group in report["per_level"].items()]
    groups += list(report["per_dataset"].items())
    rows = (
        [name, group["npu"]["total"]]
        + [f"{100 * group[side]['accuracy']:.2f}" for side in SIDES]
        + ([f"{group['difference_points']:+.2f}", _interval(group)] if "compared" in group else ["-", "-"])
        for name, group in groups
    )
    shares = (f"{title} %" for title in _titles(report))
    yield from _table(("", "questions", *shares, "difference", "95 % interval"), rows)


def _divergence(report: Json) -> Iterator[str]:
    divergence = report["divergence"]
    yield "### Numeric divergence"
    yield ""
    for each in divergence["findings"]:
        kind = "broken" if each["breaks"] else "found"
        yield f"- **{kind}, {_escaped(each['cause'])}**: {_escaped(each['text'])}. Look at: {_escaped(each['look_at'])}"
    if not divergence["questions"]:
        yield "Not known: log-probabilities of the same questions are not there on both sides."
        return
    yield ""
    names = {"kl": "KL divergence", "largest_difference": "largest difference of a question"}
    columns = ("mean", "median", "p99", "p999", "max")
    rows = ([names[key], *(f"{divergence[key][column]:.6f}" for column in columns)] for key in names)
    yield from _table(("nats", "mean", "median", "99 %", "99.9 %", "max"), rows)
    yield ""
    change = divergence["right_probability"]
    right = ""
    if change:
        right = (
            f"; mean difference of the right option's probability {change['difference_points']:+.3f} ± "
            f"{change['error_points']:.3f} points"
        )
    yield f"Same top option in {100 * divergence['same_top']:.2f} %{right}."


def _flips(report: Json) -> Iterator[str]:
    flips = report["flips"]
    counts = ", ".join(f"{count} {kind}" for kind, count in report["flip_classes"].items())
    yield f"### Flips: {len(flips)}{f' ({counts})' if counts else ''}"
    if not flips:
        return
    yield ""
    margins = ("npu_margin", "gpu_margin")
    rows = (
        [each["class"], each["key"], each["npu_letter"] or "-", each["gpu_letter"] or "-", each["right_letter"] or "-"]
        + ["-" if each[margin] is None else f"{each[margin]:.3f}" for margin in margins]
        for each in flips[:SHOWN_FLIPS]
    )
    titles = _titles(report)
    yield from _table(("class", "question", *titles, "right", *(f"{title} margin" for title in titles)), rows)
    if len(flips) > SHOWN_FLIPS:
        yield ""
        yield f"And {len(flips) - SHOWN_FLIPS:,} more in the JSON."
