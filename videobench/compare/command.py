"""What precision_test.py does."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from videobench.cli import FlagParser
from videobench.compare.settings import SCORINGS, ComparisonSettings, Margin
from videobench.console import one_line


@dataclass(frozen=True)
class ExportSettings:
    """Of --export_leaderboard."""

    path: Path
    run_path: Path  # the NPU run where both are given
    answer_path: Path | None
    scoring: str


@dataclass(frozen=True)
class Settings:
    comparison: ComparisonSettings | None  # None: --export_leaderboard alone
    gate: bool
    output_json: Path | None
    output_markdown: Path | None
    report_html: Path | None
    video_root: Path | None
    export: ExportSettings | None


def main(argv: Sequence[str] | None) -> int:
    """The exit status: with --gate the verdict's, at the very end, after the words."""
    settings = parse_args(argv)
    if settings.export:
        _export_leaderboard(settings.export)
    return _compare(settings.comparison, settings) if settings.comparison else 0


def _compare(compared: ComparisonSettings, settings: Settings) -> int:
    from videobench.compare.comparison import compare_runs  # numpy with it: not for --help
    from videobench.compare.report.as_json import build_report
    from videobench.compare.report.markdown import build_markdown
    from videobench.compare.report.terminal import build_text
    from videobench.compare.verdict import exit_status
    from videobench.files import write_json, write_whole

    comparison = compare_runs(compared)
    report = build_report(comparison)
    print(build_text(report))
    if comparison.inputs.look_exchanged:
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

    counts = write_leaderboard(settings.path, settings.run_path, settings.answer_path, settings.scoring)
    print(
        f"wrote {settings.path}: {counts.replies} replies of {settings.run_path}, letters read by --scoring "
        f"{settings.scoring}, {counts.without_letter} without a letter"
    )


def parse_args(argv: Sequence[str] | None) -> Settings:
    parser = FlagParser(description="Compare an NPU run and a GPU run of Video-Bench and give a verdict.")
    _add_inputs(parser)
    _add_outputs(parser)
    args = parser.parse_args(argv)
    margin = _parse_margin(parser, args.margin, args.one_sided)
    paths = (args.eval_npu_path, args.eval_gpu_path, args.sampling_answer_path)
    if not all(paths) and not (args.export_leaderboard and any(paths[:2])):
        parser.error(
            "--eval_npu_path, --eval_gpu_path and --sampling_answer_path are needed; "
            "--export_leaderboard alone needs one run"
        )
    outputs = (args.output_json, args.output_markdown, args.report_html)
    if not all(paths) and (args.gate or any(outputs) or args.repeat_path):
        parser.error(
            "--gate, --output_json, --output_markdown, --report_html and --repeat_path are of a comparison, which "
            "needs --eval_npu_path, --eval_gpu_path and --sampling_answer_path"
        )
    if args.Eval_Video_root and not args.report_html:
        parser.error("--Eval_Video_root puts frames into the report, which needs --report_html")
    if args.seed < 0:
        parser.error("--seed is 0 or more")
    _check_paths(parser, args)
    npu_path, gpu_path, answer_path = paths
    comparison = export = None
    if all(paths):
        comparison = ComparisonSettings(
            npu_path, gpu_path, answer_path, args.repeat_path, args.requests_facts, args.scoring, margin, args.seed
        )
    if args.export_leaderboard:
        export = ExportSettings(args.export_leaderboard, npu_path or gpu_path, answer_path, args.scoring)
    return Settings(
        comparison, args.gate, args.output_json, args.output_markdown, args.report_html, args.Eval_Video_root, export
    )


def _parse_margin(parser: FlagParser, text: str, one_sided: bool) -> Margin:
    """Points ("1"), or how much of the reference's accuracy must be kept ("99%")."""
    is_relative = text.endswith("%")
    try:
        size = float(text.removesuffix("%"))
    except ValueError:
        size = float("nan")
    if not (50 <= size < 100 if is_relative else 0 < size < 100):
        parser.error(
            "--margin is above 0 and below 100, in points of accuracy, or from 50% to below 100%: so much of the GPU's "
            f"accuracy must be kept; it is {text!r}"
        )
    return Margin(size, is_relative, one_sided)


def _check_paths(parser: FlagParser, args: argparse.Namespace) -> None:
    """No run is compared with itself, and nothing is written over what was read or written before."""
    runs = [path for path in (args.eval_npu_path, args.eval_gpu_path, args.repeat_path) if path]
    taken: set[str] = set()
    for path in runs:
        files = {os.path.realpath(each) for each in (path.glob("*_eval.json") if path.is_dir() else [path])}
        if files & taken:
            parser.error(f"{path}: is given for two runs; name the result file of each")
        taken |= files
    folders = {os.path.realpath(path) for path in runs}  # a new result file there would be read the next time
    inputs = (args.sampling_answer_path, args.requests_facts)
    taken |= {os.path.realpath(path) for path in inputs if path}
    for output in (args.output_json, args.output_markdown, args.report_html, args.export_leaderboard):
        if output is None:
            continue
        path = os.path.realpath(output)
        if path in taken | folders or (os.path.dirname(path) in folders and path.endswith("_eval.json")):
            parser.error(f"{output}: is an input, or another output; choose another name for what is written")
        taken.add(path)


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    def add_path(flag: str, text: str) -> None:
        parser.add_argument(flag, type=Path, metavar="PATH", help=text)

    add_path("--eval_npu_path", "the NPU run: its result file, or the folder of its result files")
    add_path("--eval_gpu_path", "the GPU run: file or folder")
    add_path("--sampling_answer_path", "the right answers: sampling_answer.json or ANSWER.json")
    add_path("--repeat_path", "a second run of either device: does it repeat itself, and within which noise")
    add_path("--requests_facts", "what --export_requests wrote beside the requests that a service answered")
    parser.add_argument(
        "--scoring",
        choices=SCORINGS,
        default=SCORINGS[0],
        help="how a reply becomes a letter: by strict reading (default), the most probable option letter without any "
        "reading, or the original's rule",
    )
    parser.add_argument(
        "--margin",
        default="1",
        metavar="POINTS",
        help="accuracy differences smaller than this count as equal, in points (default: %(default)s); 99%% instead: "
        "at least so much of the GPU's accuracy must be kept",
    )
    parser.add_argument("--one_sided", action="store_true", help="only a loss counts: a better NPU never fails")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: %(default)s)")


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    def add_path(flag: str, text: str) -> None:
        parser.add_argument(flag, type=Path, metavar="PATH", help=text)

    parser.add_argument("--gate", action="store_true", help="exit status 0 on PASS, 1 on FAIL, 3 on INCONCLUSIVE")
    add_path("--output_json", "write everything as JSON to this file")
    add_path("--output_markdown", "write the report as Markdown, for a CI's page or an issue")
    add_path("--report_html", "write a report for the browser to this one file")
    add_path("--Eval_Video_root", "the folder that holds Eval_video/: puts the frames into the report")
    add_path("--export_leaderboard", "write Video-Bench's submission form of the NPU run, or of the one run given")
