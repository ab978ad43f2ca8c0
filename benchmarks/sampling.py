"""Time and memory of sampling 1000 of 17,036 questions, and of verifying the sample, with small stand-in videos.

python benchmarks/sampling.py [--video_bytes 65536] [--Eval_QA folder of the real QA files]

Without --Eval_QA (or VIDEO_BENCH_QA in the environment) the questions are made up, with the real numbers of questions
and videos of each set and texts of the usual length. Each row is a process of its own, its start counted in; processor
seconds and peak memory are what the system counts for it.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from videobench.data.dataset import DATASET_NAMES, load_questions, qa_file  # noqa: E402

# Questions and videos of each set. Counted in the real QA files.
SETS = {
    "ActivityNet": (2000, 702), "MSVD": (2000, 486), "MSRVTT": (2000, 1335), "TGIF": (2107, 1899),
    "Youcook2": (2000, 412), "Ucfcrime": (290, 290), "MOT": (18, 18), "TVQA": (2000, 431), "MV": (1117, 107),
    "NBA": (686, 98), "Driving-exam": (36, 36), "Driving-decision-making": (780, 34), "SQA3D": (2002, 69),
}  # fmt: skip


def main() -> int:
    args = parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        benchmark = Path(folder)
        make_benchmark(benchmark, args.Eval_QA, args.video_bytes)
        manifest = benchmark / "copy" / "json" / "sampling_manifest.json"
        rows = [
            ("JSON work alone", lambda: sample_without_videos(benchmark)),
            ("copy", lambda: extract(benchmark, "copy")),
            ("copy again: all is there", lambda: extract(benchmark, "copy")),
            ("hardlink", lambda: extract(benchmark, "hardlink")),
            ("symlink", lambda: extract(benchmark, "symlink")),
            (
                "copy, stratified, one per video",
                lambda: extract(benchmark, "copy", "--strategy=stratified", "--one_per_video"),
            ),
            ("verify", lambda: extract(benchmark, "copy", f"--verify={manifest}")),
        ]
        print(f"1000 of 17036 questions, 5917 videos of {args.video_bytes} bytes, {os.cpu_count()} cores\n")
        print("| what | seconds | of a processor | peak memory, MB |\n|---|---|---|---|")
        for name, work in rows:
            seconds, processor_seconds, peak_bytes = measure(work)
            print(f"| {name} | {seconds:.2f} | {processor_seconds:.2f} | {peak_bytes / 1e6:.0f} |", flush=True)
    return 0


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time and memory of sampling.")
    qa_folder = os.environ.get("VIDEO_BENCH_QA")
    parser.add_argument("--Eval_QA", type=Path, default=qa_folder and Path(qa_folder), help="the real QA files")
    parser.add_argument("--video_bytes", type=int, default=1 << 16, help="of a stand-in video (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where to work (default: the system's temporary folder)")
    return parser.parse_args()


def make_benchmark(folder: Path, real_qa: Path | None, video_bytes: int) -> None:
    qa_root = folder / "Video-Bench"
    (qa_root / "Eval_QA").mkdir(parents=True)
    answers: dict[str, dict[str, Any]] = {}
    for name in DATASET_NAMES:
        path = qa_file(qa_root, name)
        if real_qa:
            shutil.copy(real_qa / path.name, path)
        else:
            path.write_text(json.dumps(made_up_questions(name), indent=1))
        for question in load_questions(path, name, (folder / "VideoBench").joinpath):
            answers.setdefault(name, {})[question.id] = {"answer": next(iter(question.options))}
            if not question.video.exists():
                question.video.parent.mkdir(parents=True, exist_ok=True)
                start = question.vid_path.encode()  # no two alike
                question.video.write_bytes(start + os.urandom(video_bytes - len(start)))
    (qa_root / "ANSWER.json").write_text(json.dumps(answers))


def made_up_questions(name: str) -> dict[str, Any]:
    num_questions, num_videos = SETS[name]
    return {
        str(number): {
            "vid_path": f"Eval_video/{name}/{number % num_videos}.mp4",
            "video_id": str(number % num_videos),
            "question": f"What happens in scene {number}, and who of the persons in it does it to whom?",
            "choices": {letter: f"the person in the {letter} corner does" for letter in "ABCD"},
        }
        for number in range(num_questions)
    }


def measure(work: Callable[[], int]) -> tuple[float, float, int]:
    """Seconds, processor seconds and peak bytes of `work`, which gives a process id and waits for nothing."""
    started = time.monotonic()
    process = work()
    _, status, usage = os.wait4(process, 0)
    seconds = time.monotonic() - started
    if status:
        raise SystemExit(f"a run ended with status {os.waitstatus_to_exitcode(status)}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def extract(folder: Path, mode: str, *flags: str) -> int:
    return start([str(ROOT / "extract_dataset.py"), *flags_of(folder, mode), *flags])


def flags_of(folder: Path, mode: str) -> list[str]:
    return [
        f"--Eval_QA_root={folder}/Video-Bench",
        f"--Eval_Video_root={folder}/VideoBench",
        f"--sampling_output_folder={folder}/{mode}/Eval_video",
        f"--json_output_path={folder}/{mode}/json",
        f"--copy_mode={mode}",
    ]


def sample_without_videos(folder: Path) -> int:
    """Everything but the videos: they are looked up, but neither read nor placed."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import extract_dataset as script\n"
        "from videobench.data.manifest import FileFacts\n"
        "from videobench.sampling import placing, selection\n"
        "settings = script.parse_args(sys.argv[2:])\n"
        "candidates = selection.load_candidates(settings)\n"
        "sample = selection.choose(candidates, settings)\n"
        "facts = {str(selection.sample_path(each)): FileFacts(0, '') for each in sample.questions}\n"
        "placing.write_json_files(sample, candidates, settings, facts)\n"
    )
    return start(["-c", code, str(ROOT), *flags_of(folder, "symlink")])


def start(arguments: list[str]) -> int:
    no_stdout = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    return os.posix_spawn(sys.executable, [sys.executable, *arguments], os.environ, file_actions=no_stdout)


if __name__ == "__main__":
    sys.exit(main())
