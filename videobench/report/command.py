"""Run precision_test.py: a comparison, --check_file or --export_leaderboard."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from videobench.compare.scoring import check_scorable, choose_letter
from videobench.compare.settings import ComparisonSettings
from videobench.console import one_line
from videobench.data.dataset import load_answers
from videobench.data.results import load_facts, load_results, read_replies
from videobench.data.rows import Reply
from videobench.errors import InputError
from videobench.files import write_json, write_whole
from videobench.report.options import ExportSettings, Settings, parse_args

# A part of a comparison, the fields that it needs, and a check whether a reply has them.
PARTS: tuple[tuple[str, str, Callable[[Reply], object]], ...] = (
    ("accuracy", "output_sequence", lambda reply: not reply.error),
    ("texts of options as letters", "choices", lambda reply: reply.options),
    ("intervals by video", "vid_path or video_id", lambda reply: reply.vid_path or reply.video_id != ""),
    ("same question?", "question", lambda reply: reply.question),
    ("same prompts?", "prompt_sha256", lambda reply: reply.prompt_sha256),
    ("at least as long?", "prompt_tokens", lambda reply: reply.prompt_tokens is not None),
    ("same pixels?", "pixels_sha256", lambda reply: reply.pixels_sha256),
    ("smoothed accuracy, divergence", "letter_logprobs", lambda reply: reply.logprobs),
    ("what rounding explains", "run.dtype", lambda reply: reply.run.get("dtype")),
    ("which card is broken", "rank", lambda reply: reply.rank is not None),
    ("long videos, large frames", "frames_decoded, resolution", lambda each: each.frames_decoded and each.resolution),
)


def main(argv: Sequence[str] | None) -> int:
    """Return the exit status; with --gate it is the verdict's, after everything is printed."""
    settings = parse_args(argv)
    if settings.check_file:
        print("\n".join(_check_file(settings.check_file)))
        return 0
    if settings.export:
        export_leaderboard(settings.export)
    return _compare(settings.comparison, settings) if settings.comparison else 0


def _compare(compared: ComparisonSettings, settings: Settings) -> int:
    from videobench.compare.comparison import compare_runs  # here, since it imports numpy, which --help does not need
    from videobench.compare.verdict import exit_status
    from videobench.report.build import build_report
    from videobench.report.terminal import build_markdown, build_text

    comparison = compare_runs(compared)
    report = build_report(comparison)
    print(build_text(report))
    if settings.output_json:
        write_json(settings.output_json, report)
        print(f"wrote {settings.output_json}")
    if settings.output_markdown:
        write_whole(settings.output_markdown, build_markdown(report).encode("utf-8", "replace"))
        print(f"wrote {settings.output_markdown}")
    if settings.report_html:
        from videobench.report.page import write_html

        write_html(settings.report_html, comparison, report, settings.video_root)
        print(f"wrote {settings.report_html}")
    return exit_status(comparison.verdict) if settings.gate else 0


def export_leaderboard(export: ExportSettings) -> None:
    """Write one run in Video-Bench's submission format; a reply without a letter gets an empty choice, which is wrong.

    Rows that name no data set are placed by the answers, and lines of another engine by the facts of its requests.
    Raises InputError if a data set is not known, or if the run cannot be scored in this way."""
    answers = load_answers(export.answer_path) if export.answer_path else {}
    facts = load_facts(export.facts_path) if export.facts_path else None
    replies = load_results(export.run_path, answers, asked=facts)
    check_scorable(export.run_path, replies.values(), export.scoring)
    form: dict[str, dict[str, Any]] = {}
    without_letter = 0
    for (dataset, id), reply in replies.items():
        if not dataset:
            fix = "call the file <data set>_eval.json, or give the answers"
            raise InputError(f"{export.run_path}: row {id!r} names no data set; {fix}")
        letter = choose_letter(reply, export.scoring)
        without_letter += letter is None
        form.setdefault(dataset, {})[id] = {
            "video_id": reply.video_id,
            "question": reply.question,
            "output_sequence": [reply.text],
            "output_chatgpt_choice": letter or "",
        }
    write_json(export.path, form)
    print(
        f"wrote {export.path}: {len(replies)} replies of {export.run_path}, letters read by --scoring "
        f"{export.scoring}, {without_letter} without a letter"
    )


def _check_file(path: Path) -> Iterator[str]:
    """Yield lines on how many replies have what each part needs. Raises InputError if it is not a result file."""
    kind, replies = read_replies(path)
    failed = sum(bool(reply.error) for reply in replies)
    yield one_line(f"{path}: {kind}, {len(replies):,} replies, {failed:,} of them failed")
    yield f"  {'part of a comparison':30} {'needs':28} replies that have it"
    answered = [reply for reply in replies if not reply.error] or replies
    for part, fields, has in PARTS:
        count = sum(bool(has(reply)) for reply in answered)
        mark = " " if count == len(answered) else "!"
        yield f"{mark} {part:30} {fields:28} {count:,} of {len(answered):,}"
