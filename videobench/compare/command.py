"""What precision_test.py does."""

import shutil
import sys
from collections.abc import Sequence

from videobench.compare.check import check_file
from videobench.compare.options import ExportSettings, Settings, parse_args
from videobench.compare.settings import ComparisonSettings
from videobench.console import one_line
from videobench.files import write_json, write_whole


def main(argv: Sequence[str] | None) -> int:
    """The exit status: with --gate the verdict's, at the very end, after the words."""
    settings = parse_args(argv)
    if settings.check_file:
        print("\n".join(check_file(settings.check_file)))
        return 0
    if settings.export:
        _export_leaderboard(settings.export)
    return _compare(settings.comparison, settings) if settings.comparison else 0


def _compare(compared: ComparisonSettings, settings: Settings) -> int:
    from videobench.compare.comparison import compare_runs  # numpy with it: not for --help
    from videobench.compare.report.as_json import build_report
    from videobench.compare.report.markdown import build_markdown
    from videobench.compare.report.terminal import NARROWEST, build_text
    from videobench.compare.verdict import exit_status

    comparison = compare_runs(compared)
    report = build_report(comparison)
    print(build_text(report, shutil.get_terminal_size().columns if sys.stdout.isatty() else NARROWEST))
    if any(each.cause == "swapped" for each in comparison.verdict.evidence.obstacles):
        names = f"{compared.npu_path} and {compared.gpu_path}"
        print(one_line(f"warning: {names} look swapped, judging by their `device` field"), file=sys.stderr)
    if settings.output_json:
        write_json(settings.output_json, report)
        print(f"wrote {settings.output_json}")
    if settings.output_markdown:
        write_whole(settings.output_markdown, build_markdown(report).encode("utf-8", "replace"))
        print(f"wrote {settings.output_markdown}")
    if settings.report_html:
        from videobench.compare.report.page import write_html

        write_html(settings.report_html, comparison, report, settings.video_root)
        print(f"wrote {settings.report_html}")
    return exit_status(comparison.verdict) if settings.gate else 0


def _export_leaderboard(settings: ExportSettings) -> None:
    from videobench.compare.leaderboard import write_leaderboard

    counts = write_leaderboard(
        settings.path, settings.run_path, settings.answer_path, settings.scoring, settings.facts_path
    )
    print(
        f"wrote {settings.path}: {counts.replies} replies of {settings.run_path}, letters read by --scoring "
        f"{settings.scoring}, {counts.without_letter} without a letter"
    )
