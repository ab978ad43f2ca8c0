"""What precision_test.py does."""

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from videobench.compare.settings import ComparisonSettings
from videobench.console import one_line
from videobench.data.results import read_replies
from videobench.data.rows import Reply
from videobench.files import write_json, write_whole
from videobench.report.options import ExportSettings, Settings, parse_args

# Part of a comparison, the fields that it takes, whether a reply has them.
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
    (
        "long videos, large frames",
        "frames_decoded, resolution",
        lambda reply: reply.frames_decoded and reply.resolution,
    ),
)


def main(argv: Sequence[str] | None) -> int:
    """The exit status: with --gate the verdict's, at the very end, after the words."""
    settings = parse_args(argv)
    if settings.check_file:
        print("\n".join(_check_file(settings.check_file)))
        return 0
    if settings.export:
        _export_leaderboard(settings.export)
    return _compare(settings.comparison, settings) if settings.comparison else 0


def _compare(compared: ComparisonSettings, settings: Settings) -> int:
    from videobench.compare.comparison import compare_runs  # numpy with it: not for --help
    from videobench.compare.verdict import exit_status
    from videobench.report.build import build_report
    from videobench.report.terminal import NARROWEST, build_markdown, build_text

    comparison = compare_runs(compared)
    report = build_report(comparison)
    print(build_text(report, shutil.get_terminal_size().columns if sys.stdout.isatty() else NARROWEST))
    if any(each.cause == "swapped" for each in comparison.verdict.evidence.obstacles):
        names = f"{compared.candidate_path} and {compared.reference_path}"
        print(one_line(f"warning: {names} look swapped, judging by their `device` field"), file=sys.stderr)
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


def _export_leaderboard(settings: ExportSettings) -> None:
    from videobench.report.leaderboard import write_leaderboard

    counts = write_leaderboard(
        settings.path, settings.run_path, settings.answer_path, settings.scoring, settings.facts_path
    )
    print(
        f"wrote {settings.path}: {counts.replies} replies of {settings.run_path}, letters read by --scoring "
        f"{settings.scoring}, {counts.without_letter} without a letter"
    )


def _check_file(path: Path) -> Iterator[str]:
    """Lines to print: what the file lacks for which part. InputError, naming file and row, if it is no result file."""
    kind, replies = read_replies(path)
    failed = sum(bool(reply.error) for reply in replies)
    yield one_line(f"{path}: {kind}, {len(replies):,} replies, {failed:,} of them failed")
    yield f"  {'part of a comparison':30} {'takes':28} replies that have it"
    answered = [reply for reply in replies if not reply.error] or replies
    for part, fields, has in PARTS:
        count = sum(bool(has(reply)) for reply in answered)
        mark = " " if count == len(answered) else "!"
        yield f"{mark} {part:30} {fields:28} {count:,} of {len(answered):,}"
