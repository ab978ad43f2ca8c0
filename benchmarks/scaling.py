"""Two processes on two cores against one on one core: python benchmarks/scaling.py [--repeat 40] [--runs 3]

One thread each, the small model, its data `--repeat` times over, through torchrun and the script itself as a user
starts them. It reports the seconds in which the processes answer, from the first reply to the last in the journals, and
those of the whole command, start and weights included; of `--runs`, the least. Needs a machine that does nothing else.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EGS = ROOT / "tests/assets/egs"
SET = "MSVD"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=40, help="how often the small data set is asked")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("error: one core is available, two are compared with one; run it on a larger machine")
    with tempfile.TemporaryDirectory() as folder:
        count = make_data(Path(folder), args.repeat)
        measured = {count: [measure(Path(folder), count, cores[:count]) for _ in range(args.runs)] for count in (1, 2)}
    print(f"{count} questions, one thread for each rank, the least of {args.runs} runs")
    answering = {count: min(each[0] for each in runs) for count, runs in measured.items()}
    whole = {count: min(each[1] for each in runs) for count, runs in measured.items()}
    print("| processes | answering | whole command |")
    print("|---|---|---|")
    for count in measured:
        print(f"| {count} | {answering[count]:.1f} s | {whole[count]:.1f} s |")
    print(f"answering: {answering[1] / answering[2]:.2f} times as fast; whole: {whole[1] / whole[2]:.2f} times")


def make_data(folder: Path, repeat: int) -> int:
    """The small data set with `repeat` copies of each video and its questions; the number of questions."""
    rows = json.loads((EGS / f"Video-Bench/Eval_QA/{SET}_QA_new.json").read_text())
    videos = folder / f"videos/Eval_video/{SET}"
    videos.mkdir(parents=True)
    copies = {}
    for number in range(repeat):
        for key, row in rows.items():
            source = Path(row["vid_path"])
            name = f"{source.stem}_{number}{source.suffix}"
            if not (videos / name).exists():
                shutil.copy(EGS / f"VideoBench/Eval_video/{SET}/{source.name}", videos / name)
            copies[f"{key}_{number}"] = row | {
                "vid_path": str(source.with_name(name)),
                "video_id": f"{source.stem}_{number}",
            }
    (folder / "qa/Eval_QA").mkdir(parents=True)
    (folder / f"qa/Eval_QA/{SET}_QA_new.json").write_text(json.dumps(copies))
    return len(copies)


def measure(folder: Path, processes: int, cores: list[int]) -> tuple[float, float]:
    """Seconds from the first reply to the last, and of the whole command."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command += [str(ROOT / "run_gpu.py"), "--model_path", str(ROOT / "tests/assets/tiny-llava-next-video")]
    command += ["--Eval_QA_root", f"{folder}/qa", "--Eval_Video_root", f"{folder}/videos", "--dataset_name", SET]
    command += ["--chat_conversation_output_folder", str(out), "--device", "cpu", "--num_workers", "0"]
    started = time.time()
    process = subprocess.Popen(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    first = None
    while process.poll() is None:
        if first is None and any(path.read_bytes().count(b"\n") > 1 for path in out.glob("journal/*.rank*.jsonl")):
            first = time.time()
        time.sleep(0.01)
    ended = time.time()
    if process.returncode or first is None:
        sys.exit(f"error: the run failed: {process.communicate()[1][-2000:]}")
    last = max(path.stat().st_mtime for path in out.glob("journal/*.rank*.jsonl"))
    return last - first, ended - started


if __name__ == "__main__":
    main()
