"""What extract_dataset.py does."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from videobench.cli import FlagParser
from videobench.commands import SAMPLE_COMMAND_FILE, SAMPLER, Command, keep_command
from videobench.data.dataset import (
    DATASET_NAMES,
    SAMPLE_ANSWER_FILE,
    SAMPLE_NAME,
    SAMPLE_QA_FILE,
    VideoRoot,
    folded,
    resolve_names,
)
from videobench.errors import InputError
from videobench.files import check_writable
from videobench.sampling.placing import check_free_space, clear_others, place_videos, write_json_files
from videobench.sampling.selection import STRATEGIES, SampleSettings, choose, load_candidates, warn_of_lacking
from videobench.sampling.verify import choose_decodable, verify_sample


def main(argv: Sequence[str] | None) -> int:
    """Return the exit status."""
    parser = _build_parser()
    args = parser.parse_args(argv)
    for name in ("nums", "num_workers"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if args.verify is not None:
        return verify_sample(args.verify, args.sampling_output_folder, args.num_workers)
    settings = _settings(args, parser.command(argv))
    candidates = load_candidates(settings)
    sample = choose(candidates, settings)
    warn_of_lacking(candidates, settings)
    check_free_space(sample, candidates, settings)
    check_writable(settings.json_folder / SAMPLE_QA_FILE)  # before the videos are read
    if settings.check_videos:
        sample = choose_decodable(candidates, settings)
    videos = place_videos(sample, candidates, settings)
    clear_others(sample, candidates, settings)
    for path in write_json_files(sample, candidates, settings, videos):
        print(path)
    keep_command(settings.json_folder / SAMPLE_COMMAND_FILE, replace(settings.command, available=sample.available))
    folder = settings.output_folder / SAMPLE_NAME
    replaced = f", {len(sample.undecodable)} undecodable videos replaced" if sample.undecodable else ""
    print(f"sampled {len(sample.questions)} questions on {len(videos)} videos into {folder}{replaced}")
    return 0


def _settings(args: argparse.Namespace, command: Command) -> SampleSettings:
    if folded(SAMPLE_NAME) in map(folded, args.datasets.split(",")):
        raise InputError("--datasets: cannot draw a sample from a sample; name sets of Video-Bench, or all")
    names = resolve_names(args.datasets, args.Eval_QA_root)
    if not args.Eval_Video_root.is_dir():
        raise InputError(f"{args.Eval_Video_root}: no such folder of videos; check --Eval_Video_root")
    answer_path = args.correct_answer_file or args.Eval_QA_root / "ANSWER.json"
    if not answer_path.exists():
        fix = "download it (README.md, get the data), or name it by --correct_answer_file"
        raise InputError(f"{answer_path}: missing; {fix}")
    return SampleSettings(
        qa_root=args.Eval_QA_root,
        videos=VideoRoot(args.Eval_Video_root, args.allow_outside_root),
        answer_path=answer_path,
        output_folder=args.sampling_output_folder or args.Eval_Video_root / "Eval_video",
        json_folder=_json_folder(args),
        names=tuple(sorted(names, key=DATASET_NAMES.index)),
        exclude_path=args.exclude,
        command=command,
        # The other fields have the names of their flags.
        **{each.name: getattr(args, each.name) for each in fields(SampleSettings) if hasattr(args, each.name)},
    )


def _json_folder(args: argparse.Namespace) -> Path:
    """Choose the folder of the JSON files; refuse to overwrite an input: a second start would draw another sample."""
    folder: Path = args.json_output_path or args.Eval_QA_root / "Eval_QA"
    outputs = {os.path.realpath(folder / name) for name in (SAMPLE_QA_FILE, SAMPLE_ANSWER_FILE)}
    for flag, path in (("--exclude", args.exclude), ("--correct_answer_file", args.correct_answer_file)):
        if path is not None and os.path.realpath(path) in outputs:
            raise InputError(f"{path}: {flag} names a file that would be overwritten; choose --json_output_path")
    return folder


def _build_parser() -> FlagParser:
    text = "Sample questions of Video-Bench with their videos and answers, or verify one."
    parser = FlagParser(prog=SAMPLER, description=text)
    add = parser.add_argument_group("data").add_argument
    root = "folder that holds {} (default: %(default)s)"
    add("--Eval_QA_root", type=Path, default=Path("egs/Video-Bench"), help=root.format("Eval_QA/"))
    add("--Eval_Video_root", type=Path, default=Path("egs/VideoBench"), help=root.format("Eval_video/"))
    add("--correct_answer_file", type=Path, help="the right answers (default: ANSWER.json in Eval_QA_root)")
    add("--allow_outside_root", action="store_true", help="follow symbolic links that lead out of --Eval_Video_root")
    add = parser.add_argument_group("sample").add_argument
    add("--nums", type=int, default=1000, help="number of questions (default: %(default)s)")
    add("--seed", type=int, default=0, help="the same seed gives the same sample (default: %(default)s)")
    add("--datasets", default="all", help="sets to draw from, separated by commas (default: %(default)s)")
    add(
        "--strategy",
        choices=STRATEGIES,
        default="uniform",
        help="uniform: each question equally likely; stratified: equal numbers from each set, the rest by size; "
        "proportional: from each set in proportion to its size (default: %(default)s)",
    )
    add("--one_per_video", action="store_true", help="no two questions on one video")
    add("--exclude", type=Path, metavar="FILE", help="questions not to draw: a sample's JSON, or <dataset>/<id> lines")
    add = parser.add_argument_group("output").add_argument
    add(
        "--sampling_output_folder",
        type=Path,
        help="the videos go to sampling_data/ in this folder (default: Eval_video in Eval_Video_root)",
    )
    add("--json_output_path", type=Path, help="the three JSON files go here (default: Eval_QA in Eval_QA_root)")
    copied = "how videos get into the sample (default: %(default)s)"
    add("--copy_mode", choices=("copy", "hardlink", "symlink"), default="copy", help=copied)
    add("--overwrite", action="store_true", help="remove files from sampling_data/ that are not of this sample")
    add = parser.add_argument_group("checks and speed").add_argument
    add("--check_videos", action="store_true", help="decode 8 frames of each chosen video, replace videos that fail")
    add("--verify", type=Path, metavar="MANIFEST", help="check a sample by its sampling_manifest.json instead")
    add(
        "--num_workers",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="videos copied, verified or decoded at once (default: %(default)s)",
    )
    return parser
