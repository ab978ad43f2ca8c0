"""Write a report as text for the terminal and for Markdown: three lines to act on, then the reasons."""

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from videobench.commands import fold
from videobench.compare.associations import p_value_text
from videobench.compare.comparison import CLASSES, VIDEO_BENCH
from videobench.compare.same_inputs import DIFFERS, EXPECTED, SAME, UNKNOWN
from videobench.compare.verdict import PASS, points_text
from videobench.console import visible
from videobench.report.build import Json

WIDTH = 80  # columns
SHOWN_KEYS = 5  # of a list of questions; the JSON has all
SHOWN_FLIPS = 10
LONGEST_REPLY = 24  # characters of a reply in words
# Rows in the table of inputs that count questions; the others are settings.
ASKED = {"pixels", "questions", "question", "question, video", "documents", "right answers", "options", "prompts"}
ASKED |= {"videos (bytes)", "prompts (token ids)", "prompt tokens (number)"}
FEW_QUESTIONS = 20  # of a set: with fewer its interval says next to nothing
SIDES = ("gpu", "npu")  # the original's order
# GitHub would make links of @name, #1 and addresses.
SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~!@&$]|:(?=//)|(?<=www)\.)", re.IGNORECASE)


def build_text(report: Json) -> str:
    """Write printable lines; `report` is build_report's."""
    sections = (_verdict, _inputs, _accuracy, _tables, _divergence, _flips, _listed)
    texts = ("\n".join(_fold(visible(line)) for line in section(report)) for section in sections)
    return "\n\n".join(text for text in ["\n".join(_summary(report)), *texts] if text)


def _fold(line: str) -> str:
    """Wrap a line; the rest is indented by two more columns."""
    if len(line) <= WIDTH:
        return line
    text = line.lstrip(" ")
    indent = " " * (len(line) - len(text))
    return textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=f"{indent}  ", break_on_hyphens=False)


def _summary(report: Json) -> Iterator[str]:
    """Yield three lines to act on, and the commands, ready to be copied."""
    summary, commands = report["summary"], report["next_commands"]
    next_step = f"Next: {summary['next_step']}{':' if commands else ''}"
    lines = (summary["verdict"], f"Numbers: {summary['numbers']}", next_step)
    yield from (_fold(visible(line)) for line in lines)
    yield from (fold(command, WIDTH) for command in commands)


def _verdict(report: Json) -> Iterator[str]:
    margin = margin_text(report)
    yield f"{report['verdict']} by {report['decided_by']} (margin {margin}, scoring {report['scoring']})"
    for reason in report["reasons"]:
        yield f"  {reason}"
    if report["questions_needed"]["text"]:
        yield f"  {report['questions_needed']['text']}"
    for obstacle in report["obstacles"]:
        yield f"  look at: {obstacle['look_at']}"


def margin_text(report: Json) -> str:
    """ "1 point", "0.455 points, 99 % kept, one-sided"."""
    margin = report["margin"]
    kept = f", {margin['size']:g} % kept" if margin["is_relative"] else ""
    return f"{points_text(report['margin_points'])}{kept}{', one-sided' if margin['one_sided'] else ''}"


def clusters_text(report: Json) -> str:
    """ "on 279 videos", or why each question counts alone."""
    if report["knows_videos"]:
        return f"on {report['compared']['videos']:,} {report['cluster']}s"
    if report["cluster"] == "document":
        return "(every document is its own cluster; --cluster_by FIELD if some share a text or picture)"
    if report["benchmark"] == VIDEO_BENCH:
        return "(videos not named: clusters unknown)"
    return "(no row has a video_id: every question is its own cluster)"


def _inputs(report: Json) -> Iterator[str]:
    inputs = report["inputs"]
    yield f"Were the inputs the same? {inputs['same']}"
    candidate, reference = _labels(report)
    table = inputs["table"]
    equal = [row["name"] for row in table if row["state"] == SAME]
    asked = [name for name in equal if name in ASKED]
    yield f"  the same: {'; '.join([*asked, f'{len(equal) - len(asked)} settings'])}"
    left = [row for row in table if row["state"] != SAME]
    if report["verdict"] == PASS:
        for state, words in ((EXPECTED, "differ, as they may"), (UNKNOWN, "stored by one side or none")):
            if names := [row["name"] for row in left if row["state"] == state]:
                yield f"  {words}: {', '.join(names)}"
        left = [row for row in left if row["state"] not in (EXPECTED, UNKNOWN)]
    rows = [("", candidate, reference, "")] + [(row["name"], row["npu"], row["gpu"], row["state"]) for row in left]
    _, *values, state_width = (max(map(len, cells)) for cells in zip(*rows, strict=True))
    column = max(18, min(max(values), (WIDTH - 25 - state_width) // 2))  # names are cut only if there is no room
    for name, *sides, state in rows if left else ():
        mark = "!" if state == DIFFERS else " "
        shown = " ".join(f"{_cut(each, column):{column}}" for each in sides)
        yield f"{mark} {_cut(name, 20):20} {shown} {state}".rstrip()
    for side, label in (("npu", candidate), ("gpu", reference)):
        sets = inputs[f"datasets_only_{side}"]
        if sets:
            listed = ", ".join(f"{name} ({count})" for name, count in sets.items())
            yield f"  sets that only {label} has, left out: {listed}"
    for note in report["services"]:
        yield f"  {note['text']}"
        yield f"    set: {note['fix']}"
    if inputs["answers_without_reply"]:
        yield f"  right answers of questions that neither side has: {inputs['answers_without_reply']:,}"
    if inputs["without_answer"]:
        yield f"  without a right answer, left out: {_some(inputs['without_answer'])}"
    dropped = inputs["dropped_as_the_original_does"]
    if dropped:
        yield f"  left out as in the original, because a side gave no letter: {dropped} questions"


def _labels(report: Json) -> list[str]:
    return [str(report["names"][side]["label"]) for side in ("npu", "gpu")]


def _cut(text: str, width: int, mark: str = "...") -> str:
    return text if len(text) <= width else text[: width - len(mark)] + mark


def _some(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - SHOWN_KEYS:,} more" if len(keys) > SHOWN_KEYS else ""
    return f"{len(keys):,}: {', '.join(keys[:SHOWN_KEYS])}{more}"


def _accuracy(report: Json) -> Iterator[str]:
    own, other = _labels(report)
    for side in SIDES:
        score = report[side]
        counts = ", ".join(f"{score[outcome]} {outcome}" for outcome in ("unreadable", "failed", "missing"))
        label = report["names"][side]["label"]
        yield f"{label} {score['accuracy']:.4f} ({score['correct']}/{score['total']}), {counts}"
    compared, mcnemar, kappa = report["compared"], report["mcnemar"], report["kappa"]
    yield f"over {compared['questions']:,} questions {clusters_text(report)}, {own} minus {other}"
    for note in report["over"]:
        yield f"  {note}"
    yield (
        f"agreement {100 * report['agreement']:.1f} % ({report['same_letter']}/{compared['questions']}), "
        f"kappa {'-' if kappa is None else format(kappa, '.3f')}"
    )
    yield (
        f"both right {compared['both_right']}, only {own} {mcnemar['npu_only']}, only {other} {mcnemar['gpu_only']}, "
        f"both wrong {compared['both_wrong']}; exact McNemar p {mcnemar['p_value']:.3g}"
    )


def _tables(report: Json) -> Iterator[str]:
    """Yield a table by level and set; with PASS only the differences, as none of them stands out."""
    names = {f"level {level} {group['name']}": group for level, group in report["per_level"].items()}
    shown = {name: group for name, group in report["per_dataset"].items() if group["npu"]["total"] >= FEW_QUESTIONS}
    small = len(report["per_dataset"]) - len(shown)
    if report["verdict"] == PASS:
        listed = (f"{name} {_points(group)} ({group['npu']['total']:,})" for name, group in {**names, **shown}.items())
        yield f"differences, points (questions): {', '.join(listed)}"
    else:
        yield from _rows({**names, **{f"  {name}": group for name, group in shown.items()}}, report)
    if small:
        yield f"  sets of fewer than {FEW_QUESTIONS} questions ({small}): --output_json or --report_html"
    weighted = report["weighted_average"]
    if "all" in weighted["npu"]:
        averages = ", ".join(f"{report['names'][side]['label']} {weighted[side]['all']:.2f}" for side in SIDES)
        yield f"leaderboard's weighted average over these sets, %: {averages}"


def _points(group: Json) -> str:
    return f"{group['difference_points']:+.2f}" if "compared" in group else "-"


def _rows(groups: Mapping[str, Json], report: Json) -> Iterator[str]:
    candidate, reference = (_cut(f"{label} %", 6, "") for label in _labels(report))
    yield f"{'':25} {'number':>6} {candidate:>6} {reference:>6} {'diff':>7} {'95 % interval':>16} {'p (corr)':>8}"
    for name, group in groups.items():
        yield _group_row(f"{_cut(name, 25):25}", group)


def _group_row(name: str, group: Json) -> str:
    difference, interval = _points(group), "-"
    if "compared" in group:
        interval = "{:+.1f} to {:+.1f}".format(*group["difference_ci95"])
    p_corrected = group.get("p_corrected")  # of data sets only
    p_value = "" if p_corrected is None else f"{p_corrected:8.2g}"
    # Rounded to four digits first, as lm-eval prints it.
    accuracies = " ".join(f"{100 * round(group[side]['accuracy'], 4):6.2f}" for side in ("npu", "gpu"))
    return f"{name} {group['npu']['total']:6} {accuracies} {difference:>7} {interval:>16} {p_value}".rstrip()


def _divergence(report: Json) -> Iterator[str]:
    divergence = report["divergence"]
    if not divergence["questions"]:
        yield f"Numeric divergence: not known, {divergence['unknown']}"
    else:
        floor = divergence["noise_floor"]
        yield f"Numeric divergence of the options' log-probabilities, nats ({divergence['questions']:,} questions)"
        yield _quantiles("largest difference of a question", divergence["largest_difference"])
        if floor["repeat"]:
            yield _quantiles("the same between repeated runs", floor["repeat"]["largest_difference"])
        yield f"  same top option in {100 * divergence['same_top']:.2f} %"
    for finding in divergence["findings"]:
        p_corrected = finding["p_corrected"]
        corrected = "" if p_corrected is None else f" ({p_value_text(p_corrected)})"
        kind = "BROKEN" if finding["breaks"] else "FOUND"
        yield f"  {kind}, {finding['cause']}: {finding['text']}{corrected}"
        yield f"    look at: {finding['look_at']}"
    strongest = divergence["strongest_association"]
    if strongest and not divergence["broken"] and report["verdict"] != PASS:  # after a PASS in the page and the JSON
        limit = ", too weak to call the run broken" if strongest["unit"] == "nats" and divergence["judged"] else ""
        yield f"  strongest association{limit}: {strongest['text']}"


def _quantiles(name: str, values: Json) -> str:
    return f"  {name:32} median {values['median']:.5f}, 99 % {values['p99']:.5f}, max {values['max']:.5f}"


def _flips(report: Json) -> Iterator[str]:
    flips, classes = report["flips"], report["flip_classes"]
    counts = ", ".join(f"{count} {kind}" for kind, count in classes.items())
    where = ": --output_json or --report_html" if report["verdict"] == PASS and flips else ""
    yield f"Flips: {len(flips)}" + (f" ({counts})" if counts else "") + where
    if report["verdict"] == PASS:
        return
    for kind in classes:
        yield f"  {kind}: {CLASSES[kind]}"
    if flips:
        yield f"  {'class':8} {'question':26} {', '.join(_labels(report))}: letter and lead, nats; right"
    for flip in flips[:SHOWN_FLIPS]:
        yield _flip_row(flip, f"{_cut(flip['key'], 26):26}", _labels(report))
    if len(flips) > SHOWN_FLIPS:
        yield f"  and {len(flips) - SHOWN_FLIPS:,} more: --output_json or --report_html"


def _flip_row(flip: Json, key: str, labels: Sequence[str]) -> str:
    leads = {side: flip[f"{side}_margin"] for side in ("npu", "gpu")}
    shown = {side: "-" if lead is None else f"{lead:.3f}" for side, lead in leads.items()}
    sides = ", ".join(
        f"{label} {_cut(flip[f'{side}_letter'] or '-', LONGEST_REPLY)} {shown[side]}"
        for side, label in zip(("npu", "gpu"), labels, strict=True)
    )
    return f"  {flip['class']:8} {key} {sides}, right {_cut(flip['right_letter'] or '-', LONGEST_REPLY)}"


def _listed(report: Json) -> Iterator[str]:
    for side in SIDES:
        for outcome, keys in report["listed"][side].items():
            if keys:
                yield f"{report['names'][side]['label']} {outcome} {_some(keys)}"


def build_markdown(report: Json) -> str:
    """Write Markdown for a CI page or an issue; a name from a file becomes no markup or link, and ends no fence."""
    summary, commands = report["summary"], report["next_commands"]
    head = [
        f"**{_escaped(summary['verdict'])}**",
        "",
        f"- **Numbers**: {_escaped(summary['numbers'])}",
        f"- **Next**: {_escaped(summary['next_step'])}",
        *(f"- {_escaped(reason)}" for reason in report["reasons"]),
        "",
    ]
    blocks = [*(_fenced("shell", command) for command in commands), _fenced("text", build_text(report))]
    return "\n".join([*head, *blocks])


def _fenced(language: str, text: str) -> str:
    """Fence text so that it is shown unchanged and can be copied."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}\n"


def _escaped(text: str) -> str:
    return SPECIAL.sub(r"\\\1", visible(text))
