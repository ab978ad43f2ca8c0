"""The attacks of tests/attack.py. Each yields (kind, what did not hold: empty if all did)."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.clip_table import CLIPS
from tests.support.clip_writer import write_clip
from tests.support.fault_tools import SET, Bench
from tests.support.forks import call_script, fork
from tests.support.jobs import Jobs, kill
from tests.support.odd_files import damaged
from videobench.video.pixels import PixelSpec
from videobench.video.pool import DecodePool

Attack = Iterator[tuple[str, str]]
SCRIPTS = ("extract_dataset", "run_gpu", "precision_test")
QUESTIONS = 12
TIMEOUT_S = 300.0
PAGE = 4096  # the smallest step of a file system in memory
FRAMES, EDGE = 8, 32


class Work:
    """One script on a small benchmark of its own, alone or as a job, and what it leaves if nothing disturbs it."""

    def __init__(self, folder: Path, script: str, processes: int = 0) -> None:
        folder.mkdir(parents=True)
        bench = Bench(folder, None).shorten(QUESTIONS)
        bench.write_replies("npu.json")
        bench.write_replies("gpu.json", output_sequence=["B"])
        self.script, self.processes = script, processes
        self.name = f"a job of {processes}" if processes else f"{script}.py"
        self.disk = folder / "disk"
        self.disk.mkdir()
        self.out = self.disk / "written"
        sampled = ["--datasets", SET, "--nums", 6, "--num_workers", 2]
        sampled += ["--sampling_output_folder", self.out, "--json_output_path", self.out]
        compared = ["--eval_npu_path", folder / "npu.json", "--eval_gpu_path", folder / "gpu.json"]
        compared += ["--sampling_answer_path", folder / "qa/ANSWER.json"]
        compared += ["--output_json", self.out / "report.json", "--report_html", self.out / "report.html"]
        argv = {
            "extract_dataset": [*bench.roots, *sampled],
            "run_gpu": bench.run_flags("--chat_conversation_output_folder", self.out),
            "precision_test": compared,
        }
        self.argv = [str(each) for each in argv[script]]
        self.said = folder / "said"
        self.jobs = Jobs(folder / "jobs")
        began = time.monotonic()
        assert self.end(self.start()) == 0, self.words()
        self.seconds = time.monotonic() - began
        self.expected = self.found()
        files = [path for path in self.out.rglob("*") if path.is_file()]
        self.pages = sum(-(-path.stat().st_size // PAGE) for path in files)
        self.inodes = sum(1 for _ in self.out.rglob("*")) + 2
        shutil.rmtree(self.out)

    def start(self):
        """A process of the script, or a job (tests/support/jobs.py)."""
        self.said.unlink(missing_ok=True)
        if self.processes:
            return self.jobs.start(self.argv, self.processes)
        return fork(call_script, self.script, self.argv, err=self.said)

    def end(self, started) -> int | None:
        """The status; None after TIMEOUT_S, or if the processes of a job died too often."""
        if self.processes:
            return started.wait()
        started.join(TIMEOUT_S)
        return started.exitcode

    def words(self) -> str:
        return self.said.read_text("utf-8", "replace")[-400:] if self.said.exists() else ""

    def found(self) -> dict:
        """What a reader sees: a result's replies, or every file. Of the page, which holds the time, only its end."""
        if self.script == "run_gpu":
            rows = json.loads((self.out / f"{SET}_eval.json").read_bytes())
            return {key: row["output_sequence"] for key, row in rows.items()}
        files = [path for path in self.out.rglob("*") if path.is_file() and path.suffix != ".part"]
        return {str(path): path.read_bytes()[-8 if path.suffix == ".html" else 0 :] for path in files}

    def stored(self) -> list[str]:
        """Keys of the answers in the journals, without a last line that was cut short."""
        lines = [
            line for path in self.out.glob("journal/*.rank*.jsonl") for line in path.read_bytes().split(b"\n")[:-1]
        ]
        entries = [json.loads(line) for line in lines]
        return [each["key"] for each in entries if "key" in each and "error" not in each["row"]]

    def fault_after(self) -> str:
        """Goes on after a disturbance: what does not hold of what it left, and of the end."""
        kept = self.stored()
        if self.script != "run_gpu" and not self.found().items() <= self.expected.items():
            return "a file that was not whole had its name"
        status = self.end(self.start())
        if status == 1:  # what was in flight at a death fails once
            status = self.end(self.start())
        stored = self.stored()
        return first_fault(
            (status == 0, f"status {status} of the next start: {self.words()}"),
            (set(kept) <= set(stored), "a stored reply was lost"),
            (len(stored) == len(set(stored)), "a reply was stored twice"),
            (status != 0 or self.found() == self.expected, "another result than undisturbed"),
        )


def first_fault(*checks: tuple[bool, str]) -> str:
    """The words of the first check that is not true."""
    return next((words for is_true, words in checks if not is_true), "")


def kills(folder: Path, number: int, seed: int) -> Attack:
    """kill -9 at random moments: of a script, of one process of a job, its torchrun, or all of it."""
    source = random.Random(seed)
    works = [Work(folder / each, each) for each in SCRIPTS]
    works += [Work(folder / f"job{count}", "run_gpu", count) for count in (1, 2, 3)]
    for index in range(number):
        work = works[index % len(works)]
        started = work.start()
        process = getattr(started, "process", started)
        process.join(source.uniform(0, work.seconds))
        if work.processes:
            ranks = started.ranks()
            victims = source.choice([ranks[:1], [process.pid], [process.pid, *ranks]])
        else:
            victims = [process.pid] if process.is_alive() else []
        for each in victims:
            kill(each, signal.SIGKILL)
        process.join(TIMEOUT_S)
        yield f"kill -9 of {work.name}", work.fault_after()
        shutil.rmtree(work.out)


def disks(folder: Path, number: int, seed: int) -> Attack:
    """File systems that are full at random sizes, by bytes and by inodes; then there is room again."""
    source = random.Random(seed)
    works = [Work(folder / each, each) for each in SCRIPTS]
    for index in range(number):
        work, by_bytes = works[index % len(works)], index // len(works) % 2 == 0
        limit = source.randint(1, work.pages) * PAGE if by_bytes else source.randint(2, work.inodes)
        size = f"{'size' if by_bytes else 'nr_inodes'}={limit}"
        mount(work.disk, size)
        try:
            status, words = work.end(work.start()), work.words()
            subprocess.run(["mount", "-o", "remount,size=64m,nr_inodes=10000", work.disk], check=True)
            yield (
                f"full disk ({size.partition('=')[0]}), {work.name}",
                first_fault(
                    (status in (0, 2), f"{size}: status {status}: {words}"),
                    (words.count("error: ") == (status == 2), f"{size}: status {status} with {words}"),
                )
                or work.fault_after(),
            )
        finally:
            subprocess.run(["umount", "--lazy", work.disk], check=True)


def mount(folder: Path, options: str) -> None:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"no right to mount a file system here ({done.stderr.strip()}); start as root, or with --disks 0")


def videos(folder: Path, number: int, seed: int) -> Attack:
    """Bytes changed, cut off, joined with another clip's, or called by another suffix: frames, or a reason."""
    folder.mkdir()
    clips = [write_clip(folder / f"{name}{suffix}", codec, **arguments) for name, suffix, codec, arguments, _ in CLIPS]
    paths = [damaged_copy(clips, folder, index, random.Random(seed + index)) for index in range(number)]
    spec = PixelSpec(EDGE, EDGE, EDGE, "bilinear", mean=(0, 0, 0), std=(1, 1, 1))
    with DecodePool(spec, FRAMES, num_workers=2) as pool:
        for path, prepared in zip(paths, pool.prepare(paths), strict=True):
            if prepared.error is None:
                shape = tuple(prepared.pixels.shape)
                yield "damaged video, decoded", "" if shape[0] == FRAMES else f"{path}: {shape}"
            else:
                yield "damaged video, refused", "" if str(path) in prepared.error else prepared.error


def damaged_copy(clips: list[Path], folder: Path, index: int, source: random.Random) -> Path:
    clip, other = source.sample(clips, 2)
    whole = clip.read_bytes()
    at, how = source.randrange(len(whole)), index % 4
    changed = [damaged(whole, source.randrange(1 << 30)), whole[:at], whole[:at] + other.read_bytes()[at:], whole][how]
    path = folder / f"{index} {clip.stem}{other.suffix if how == 3 else clip.suffix}"
    path.write_bytes(changed)
    return path
