"""Parse the flags of run_npu.py and run_gpu.py into one frozen settings object. All defaults are defined here."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from videobench.cli import FlagParser
from videobench.commands import Command
from videobench.data.dataset import SAMPLE_NAME, VideoRoot, canonical_name, is_known, qa_file, resolve_names
from videobench.data.missing import unpacking
from videobench.device.devices import DEFAULT_BATCH_SIZES, DEFAULT_DTYPES, KINDS
from videobench.errors import InputError
from videobench.files import check_writable, read_json
from videobench.model.checkpoint import check_folder
from videobench.video.pixels import DEFAULT_NUM_FRAMES

DEFAULT_NEW_TOKENS = 60
DECODING_STEPS = 2  # of --check_model
DTYPES = ("float16", "bfloat16", "float32")


@dataclass(frozen=True)
class QaSource:
    """One data set to answer."""

    name: str  # "MSVD" or "sampling_data": names the result file
    qa_path: Path
    videos: VideoRoot


@dataclass(frozen=True)
class RunSettings:
    sources: tuple[QaSource, ...]
    model_path: Path
    output_folder: Path
    device: str  # "npu", "cuda" or "cpu"
    may_use_cpu: bool  # run_gpu.py without --device: on a machine without CUDA it runs on the CPU, and says so
    dtype: str  # "float16", "bfloat16", "float32"; "" until the device is open: its default
    num_frames: int
    max_new_tokens: int
    max_input_length: int | None  # tokens; None: the positions of the checkpoint, less those of the reply
    batch_size: int | None  # questions; None: what fits, see loop.py
    num_workers: int  # processes that decode
    tensor_parallel: int  # cards that share one copy of the weights
    limit: int | None  # questions of each set
    answer_path: Path | None  # right answers, for the progress line alone
    overwrite: bool
    dry_run: bool
    deterministic: bool
    export_requests: Path | None  # instead of a run: OpenAI batch requests go to this file
    verbose: bool
    command: Command  # what was typed


@dataclass(frozen=True)
class CheckSettings:
    """What --check_device needs."""

    device: str
    may_use_cpu: bool  # as in RunSettings
    deterministic: bool


@dataclass(frozen=True)
class ModelCheckSettings:
    """What --check_model needs."""

    run: RunSettings
    questions: tuple[str, ...]  # "MSVD/40810"; none: the check chooses
    decoding_steps: int
    output_json: Path | None
    output_csv: Path | None


def parse_args(argv: Sequence[str] | None, device: str) -> RunSettings | CheckSettings | ModelCheckSettings:
    """Parse the command line; `device` is the script's own, used if --device is not given."""
    parser = _build_parser(device)
    args = parser.parse_args(argv)
    if args.check_device:
        return CheckSettings(args.device or device, _may_use_cpu(args, device), args.deterministic)
    if args.model_path is None:
        parser.error("--model_path is needed")
    for name in ("num_frames", "max_new_tokens", "max_input_length", "batch_size", "limit", "tensor_parallel"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if args.num_workers < 0:
        parser.error("--num_workers must be at least 0")
    if (args.check_questions or args.output_json or args.output_csv) and not args.check_model:
        parser.error("--check_questions, --output_json and --output_csv need --check_model")
    if args.check_model and args.tensor_parallel > 1:
        parser.error(
            "--check_model uses one card, even for a model that does not fit on it: leave --tensor_parallel out"
        )
    check_folder(args.model_path)
    command = parser.command(argv)
    decoding_steps = args.max_new_tokens or DECODING_STEPS
    args.max_new_tokens = args.max_new_tokens or DEFAULT_NEW_TOKENS
    if not args.check_model:
        return _run_settings(args, device, command)
    for path in filter(None, (args.output_json, args.output_csv)):
        check_writable(path)  # before the minutes that the check takes
    run = _run_settings(args, device, command)
    return ModelCheckSettings(
        run, _named_questions(args.check_questions), decoding_steps, args.output_json, args.output_csv
    )


def _named_questions(text: str | None) -> tuple[str, ...]:
    """Read keys separated by commas, or those in a report of precision_test.py."""
    if not text or not (text.lower().endswith(".json") or os.path.isfile(text)):
        return tuple(filter(None, (text or "").split(",")))
    report = read_json(Path(text))
    found = report.get("most_different") if isinstance(report, dict) else None
    if not isinstance(found, list) or not found or not all(isinstance(each, str) for each in found):
        raise InputError(
            f"{text}: no report of precision_test.py --output_json with log-probabilities of both sides; name the "
            "questions by key, as MSVD/40810"
        )
    return tuple(found)


def _run_settings(args: argparse.Namespace, device: str, command: Command) -> RunSettings:
    flags = {each.name: getattr(args, each.name) for each in fields(RunSettings) if hasattr(args, each.name)}
    return RunSettings(
        **flags
        | {
            "sources": _sources(args),
            "output_folder": args.chat_conversation_output_folder,
            "device": "cpu" if args.export_requests else args.device or device,
            "may_use_cpu": _may_use_cpu(args, device),
            "dtype": args.dtype or "",
            "command": command,
        }
    )


def _may_use_cpu(args: argparse.Namespace, device: str) -> bool:
    return args.device is None and device == "cuda" and not args.export_requests


def _build_parser(device: str) -> FlagParser:
    text = f"Answer Video-Bench with LLaVA-NeXT-Video on {device}."
    parser = FlagParser(prog="run_npu.py" if device == "npu" else "run_gpu.py", description=text)
    _add_data(parser.add_argument_group("data"))
    _add_model(parser.add_argument_group("model"), device)
    _add_speed(parser.add_argument_group("speed"))
    _add_output(parser.add_argument_group("output"))
    _add_modes(parser.add_argument_group("checks and other modes, which answer nothing"))
    return parser


def _add_data(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    root = "folder that holds {} (default: %(default)s)"
    add("--Eval_QA_root", type=Path, default=Path("egs/Video-Bench"), help=root.format("Eval_QA/"))
    videos = group.add_mutually_exclusive_group()
    videos.add_argument("--Eval_Video_root", type=Path, default=Path("egs/VideoBench"), help=root.format("Eval_video/"))
    videos.add_argument(
        "--image_or_video_path",
        type=Path,
        help="instead: folder of one set, as Eval_video/sampling_data, or with --dataset_name the folder of the sets",
    )
    add(
        "--dataset_name",
        help="a set, several with commas, or all (default: what --image_or_video_path names, else sampling_data)",
    )
    add("--limit", type=int, help="answer only the first N questions of each set (default: all)")
    add("--answer_path", type=Path, help="the right answers: progress and last line then show the accuracy")
    add("--allow_outside_root", action="store_true", help="follow symbolic links that lead out of the videos' folder")


def _add_model(group: argparse._ArgumentGroup, device: str) -> None:
    add = group.add_argument
    add("--model_path", type=Path, help="folder of the checkpoint, as LLaVA-NeXT-Video-7B-hf")
    add("--device", choices=KINDS, help=f"where the model computes (default: {device})")
    defaults = ", ".join(f"{dtype} on {kind}" for kind, dtype in DEFAULT_DTYPES.items())
    add("--dtype", choices=DTYPES, help=f"dtype of weights and activations (default: {defaults})")
    add("--num_frames", type=int, default=DEFAULT_NUM_FRAMES, help="frames of each video (default: %(default)s)")
    steps = f"for --check_model: decoding steps (default: {DECODING_STEPS})"
    longest = f"longest reply in tokens (default: {DEFAULT_NEW_TOKENS}); {steps}"
    add("--max_new_tokens", type=int, help=longest)
    add(
        "--max_input_length",
        type=int,
        help="longest prompt in tokens (default: the checkpoint's positions less the reply's)",
    )
    add("--deterministic", action="store_true", help="the same numbers in every run on this device; slower")


def _add_speed(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    sizes = ", ".join(f"{size} on {kind}" for kind, size in DEFAULT_BATCH_SIZES.items())
    add("--batch_size", type=int, help=f"questions answered together (default: {sizes}, or what fits)")
    add(
        "--num_workers", type=int, default=_default_workers(), help="decoding processes, 0: none (default: %(default)s)"
    )
    add(
        "--tensor_parallel", type=int, default=1, help="cards that share one copy of the weights (default: %(default)s)"
    )


def _add_output(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    results = "folder of the result files (default: %(default)s)"
    add("--chat_conversation_output_folder", type=Path, default=Path("Chat_results"), help=results)
    add("--overwrite", action="store_true", help="start over; the old result is kept until the new one is complete")
    add("--verbose", action="store_true", help="each process says at its end what it spent its time and memory on")


def _add_modes(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add_mode = group.add_mutually_exclusive_group().add_argument
    add_mode(
        "--dry_run", action="store_true", help="check all inputs, print the plan and the first prompt; load no weights"
    )
    add_mode("--check_device", action="store_true", help="check the device and the software it needs")
    add_mode("--check_model", action="store_true", help="name the modules whose results deviate from the CPU's")
    requests = "write the questions with their frames as OpenAI batch requests; no device, no weights"
    add_mode("--export_requests", type=Path, metavar="FILE", help=requests)
    keys = "for --check_model: as MSVD/1,MSVD/2, or precision_test.py's JSON report (default: four that it chooses)"
    add("--check_questions", metavar="KEYS", help=keys)
    calls = "for --check_model: write a row for each module call, with msprobe's columns"
    add("--output_csv", type=Path, metavar="PATH", help=calls)
    add("--output_json", type=Path, metavar="PATH", help="for --check_model: write its findings as JSON")


def _default_workers() -> int:
    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")  # jobs/job.py reports it if it is no number
    return max(1, len(os.sched_getaffinity(0)) // max(1, int(processes) if processes.isdecimal() else 1))


def _sources(args: argparse.Namespace) -> tuple[QaSource, ...]:
    path: Path | None = args.image_or_video_path
    if path and not args.dataset_name and not is_known(_real_name(path)):
        raise InputError(
            f"--image_or_video_path {path}: its name, {_real_name(path)!r}, is no set's; name the folder of one "
            "set, as .../Eval_video/MSVD, or give --dataset_name"
        )
    names = resolve_names(args.dataset_name or (_real_name(path) if path else SAMPLE_NAME), args.Eval_QA_root)
    return tuple(QaSource(name, qa_file(args.Eval_QA_root, name), _video_root(name, args)) for name in names)


def _real_name(path: Path) -> str:
    return os.path.basename(os.path.realpath(path))  # Path.resolve fails if links form a loop


def _video_root(name: str, args: argparse.Namespace) -> VideoRoot:
    """Find the folder with the videos of a set."""
    path: Path | None = args.image_or_video_path
    if path is None:
        root, skipped = args.Eval_Video_root, 0
    elif not is_known(_real_name(path)) or canonical_name(_real_name(path)) != name:
        if path.is_dir():
            return VideoRoot(path / name, args.allow_outside_root, 2)  # a missing set fails only its own questions
        root, skipped = path, 2
    else:
        # The benchmark's README writes Driving_exam, but the folder is called Driving-exam.
        root, skipped = (path if path.is_dir() else path.with_name(name)), 2
    if not root.is_dir():
        fix = unpacking(root / "video") or f"check {'--image_or_video_path' if path else '--Eval_Video_root'}"
        raise InputError(f"{root}: no such folder of videos; {fix}")
    return VideoRoot(root, args.allow_outside_root, skipped)
