"""Parse the flags of precision_test.py into one settings object."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from videobench.cli import FlagParser
from videobench.commands import COMPARISON
from videobench.compare.settings import (
    EVALUATED_RUN,
    NPU_AND_GPU,
    REFERENCE_RUN,
    SCORINGS,
    ComparisonSettings,
    Margin,
    Name,
    Names,
    Tolerance,
)
from videobench.data.eval_logs import holds_logs, logs_in
from videobench.errors import InputError
from videobench.files import check_writable

LEAST_MARGIN = 0.01  # points; Video-Bench has too few questions for less
MOST_TOLERANCE = 20.0  # nats; log-probabilities are clipped there, so no difference is larger
LONGEST_NAME = 24  # characters of each of --names


@dataclass(frozen=True)
class ExportSettings:
    """Settings of --export_leaderboard."""

    path: Path
    run_path: Path  # the candidate's file if both are given
    answer_path: Path | None
    facts_path: Path | None
    scoring: str


@dataclass(frozen=True)
class Settings:
    comparison: ComparisonSettings | None = None  # None: --export_leaderboard alone
    check_file: Path | None = None  # with --check_file nothing else is done
    gate: bool = False
    output_json: Path | None = None
    output_markdown: Path | None = None
    report_html: Path | None = None
    video_root: Path | None = None
    export: ExportSettings | None = None


def parse_args(argv: Sequence[str] | None) -> Settings:
    text = "Compare two runs of one benchmark, e.g. on an NPU and on a GPU, and give a verdict."
    parser = FlagParser(prog=COMPARISON, description=text)
    _add_flags(parser)
    args = parser.parse_args(argv)
    if args.check_file:
        return Settings(check_file=args.check_file)
    margin = _parse_margin(parser, args.margin, args.one_sided)
    runs = (args.eval_npu_path or args.eval_path, args.eval_gpu_path or args.reference_path)
    logs = _check_logs(parser, args, [path for path in runs if path])
    paths = (*runs, args.sampling_answer_path)
    is_whole = all(runs) and (logs or args.sampling_answer_path)
    if not is_whole and not (args.export_leaderboard and any(runs)):
        flags = ("--eval_npu_path (or --eval_path)", "--eval_gpu_path (or --reference_path)", "--sampling_answer_path")
        lacking = " and ".join(flag for flag, path in zip(flags[: 2 if logs else 3], paths, strict=False) if not path)
        parser.error(f"missing: {lacking}; --export_leaderboard alone needs one run")
    outputs = (args.output_json, args.output_markdown, args.report_html)
    if not is_whole and (args.gate or any(outputs) or args.repeat_path):
        parser.error(
            "--gate, --output_json, --output_markdown, --report_html and --repeat_path belong to a comparison, which "
            "needs two runs and the right answers"
        )
    if args.Eval_Video_root and not args.report_html:
        parser.error("--Eval_Video_root puts frames into the page, so it needs --report_html")
    if args.Eval_Video_root and not args.Eval_Video_root.is_dir():
        raise InputError(f"{args.Eval_Video_root}: no such folder of videos; check --Eval_Video_root")
    names = _names(parser, args)
    _check_paths(parser, args, [path for path in (*runs, args.repeat_path) if path])
    comparison = export = None
    if is_whole:
        comparison = ComparisonSettings(
            *paths,
            repeat_path=args.repeat_path,
            facts_path=args.requests_facts,
            scoring=args.scoring or SCORINGS[0],
            margin=margin,
            tolerance=_parse_tolerance(parser, args.tolerance) if args.tolerance else Tolerance(),
            names=replace(names, cluster=args.cluster_by or "document") if logs else names,
            command=parser.command(argv),
            log_filter=args.filter or "",
            cluster_by=args.cluster_by or "",
        )
    if path := args.export_leaderboard:
        scoring = args.scoring or SCORINGS[0]
        export = ExportSettings(path, paths[0] or paths[1], paths[2], args.requests_facts, scoring)
    return Settings(comparison, None, args.gate, *outputs, args.Eval_Video_root, export)


def _check_logs(parser: FlagParser, args: argparse.Namespace, runs: Sequence[Path]) -> bool:
    """Tell whether the runs are logs of lm-eval or lmms-eval, which hold their own right answers and scores."""
    logs = [path for path in runs if holds_logs(path)]
    if logs and len(logs) < len(runs):
        other = next(path for path in runs if path not in logs)
        parser.error(f"{logs[0]} is a log of lm-eval or lmms-eval, {other} is not; compare two such logs")
    for flag in ("sampling_answer_path", "requests_facts", "scoring", "export_leaderboard"):
        if logs and getattr(args, flag):
            parser.error(f"--{flag} does not apply to logs, which hold right answers and scores; leave it out")
    for flag in ("filter", "cluster_by"):
        if not logs and getattr(args, flag):
            parser.error(f"--{flag} is for logs of lm-eval or lmms-eval; leave it out")
    return bool(logs)


def _parse_margin(parser: FlagParser, text: str, one_sided: bool) -> Margin:
    """Parse a margin in points ("1"), or how much of the reference's accuracy must be kept ("99%")."""
    is_relative = text.endswith("%")
    try:
        size = float(text.removesuffix("%"))
    except ValueError:
        size = float("nan")
    if not (50 <= size < 100 if is_relative else LEAST_MARGIN <= size < 100):
        parser.error(
            f"--margin must be from {LEAST_MARGIN} to below 100, in points of accuracy, or from 50% to below 100%, the "
            f"share of the reference's accuracy that must be kept; it is {text!r}"
        )
    return Margin(size, is_relative, one_sided)


def _parse_tolerance(parser: FlagParser, text: str) -> Tolerance:
    try:
        if text != "none" and not 0 < float(text) <= MOST_TOLERANCE:
            raise ValueError
    except ValueError:
        parser.error(f"--tolerance must be above 0 and at most {MOST_TOLERANCE:g} nats, or none; it is {text!r}")
    return Tolerance(is_judged=False) if text == "none" else Tolerance(float(text))


def _names(parser: FlagParser, args: argparse.Namespace) -> Names:
    """Name the runs by --names, or else by the flags that give their files."""
    candidate = EVALUATED_RUN if args.eval_path else NPU_AND_GPU.candidate
    reference = REFERENCE_RUN if args.reference_path else NPU_AND_GPU.reference
    if args.names is not None:
        given = [each.strip() for each in args.names.split(",")]
        are_fit = [0 < len(each) <= LONGEST_NAME and each.isprintable() for each in given]
        if are_fit != [True, True] or given[0] == given[1]:
            parser.error(f"--names takes two different names of 1 to {LONGEST_NAME} characters, e.g. vllm,ours")
        candidate, reference = (Name(each, each, each) for each in given)
    return Names(candidate, reference, are_devices=not (args.eval_path or args.reference_path))


def _check_paths(parser: FlagParser, args: argparse.Namespace, runs: Sequence[Path]) -> None:
    """Refuse to compare a run with itself, or to overwrite an input or another output."""
    taken: set[str] = set()
    for path in runs:
        files = {
            os.path.realpath(each)
            for each in ((*path.glob("*_eval.json"), *logs_in(path)) if path.is_dir() else [path])
        }
        if files & taken:
            parser.error(f"{path}: is used twice; give each run's own result file")
        taken |= files
    folders = {os.path.realpath(path) for path in runs}  # a new file there would be read as a result next time
    inputs = (args.sampling_answer_path, args.requests_facts)
    taken |= {os.path.realpath(path) for path in inputs if path}
    for output in (args.output_json, args.output_markdown, args.report_html, args.export_leaderboard):
        if output is None:
            continue
        path = os.path.realpath(output)
        if path in taken | folders or (os.path.dirname(path) in folders and path.endswith("_eval.json")):
            parser.error(f"{output}: is an input, or another output; choose another name for what is written")
        taken.add(path)
        check_writable(output)


def _add_path(place: argparse._ActionsContainer, flag: str, text: str) -> None:
    place.add_argument(*flag.split(), type=Path, metavar="PATH", help=text)


def _add_flags(parser: FlagParser) -> None:
    _add_runs(parser.add_argument_group("runs"))
    _add_rule(parser.add_argument_group("verdict"))
    output = parser.add_argument_group("output")
    output.add_argument("--names", metavar="A,B", help="what the report calls the two runs, e.g. vllm,ours")
    _add_path(output, "--output_json", "write everything as JSON to this file")
    _add_path(output, "--output_markdown", "write the report as Markdown, for a CI page or an issue")
    _add_path(output, "--report_html --output_html", "write a page for the browser to this file")
    _add_path(output, "--Eval_Video_root", "folder that holds Eval_video/: shows the flips' frames in the page")
    other = parser.add_argument_group("other modes")
    _add_path(other, "--check_file", "show what one result file, of any engine, lacks for a full comparison")
    submission = "write Video-Bench's submission form of the NPU run, or of the only run given"
    _add_path(other, "--export_leaderboard", submission)


def _add_runs(group: argparse._ArgumentGroup) -> None:
    evaluated, reference = group.add_mutually_exclusive_group(), group.add_mutually_exclusive_group()
    _add_path(evaluated, "--eval_npu_path", "the NPU run: its result file, or the folder of its result files")
    other = "instead, any run to judge: of this suite, of another engine, or a log of lm-eval or lmms-eval"
    _add_path(evaluated, "--eval_path", other)
    _add_path(reference, "--eval_gpu_path", "the GPU run: file or folder")
    other = "instead, any run to compare with"
    _add_path(reference, "--reference_path", other)
    _add_path(group, "--sampling_answer_path", "the right answers: sampling_answer.json or ANSWER.json; logs need none")
    repeat = "a second run of either device, to see whether it repeats itself and how much noise there is"
    _add_path(group, "--repeat_path", repeat)
    _add_path(group, "--requests_facts", "the facts that --export_requests wrote beside the requests")
    first = "which filter to compare if a log's tasks have several, e.g. strict-match (default: the first)"
    group.add_argument("--filter", metavar="NAME", help=first)
    alone = "field that related documents of a log share, e.g. a video (default: each document counts alone)"
    group.add_argument("--cluster_by", metavar="FIELD", help=alone)


def _add_rule(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--scoring",
        choices=SCORINGS,
        help="how to get a letter from a reply: read the text strictly (default), take the most probable option, or "
        "follow the original script",
    )
    add(
        "--margin",
        default="1",
        metavar="POINTS",
        help="difference in accuracy that counts as equal, in points (default: %(default)s), or with %% the share of "
        "the reference's accuracy that must be kept, e.g. 99%%",
    )
    add("--one_sided", action="store_true", help="only a loss counts: a better run does not fail")
    add(
        "--tolerance",
        metavar="NATS",
        help="how much log-probabilities may differ, in nats (default: what rounding in the dtype explains); none: "
        "judge accuracy only, and let checkpoint and dtype differ, e.g. for a quantised port",
    )
    add("--gate", action="store_true", help="exit status 0 on PASS, 1 on FAIL, 3 on INCONCLUSIVE (default: 0)")
