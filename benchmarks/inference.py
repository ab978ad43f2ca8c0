"""How fast questions are answered, against the original's way and against what the device's arithmetic allows.

python benchmarks/inference.py --device cpu               # a middle-sized model, float32
python benchmarks/inference.py --device cuda --shape 7b   # LLaVA-NeXT-Video-7B's shapes, bfloat16: below 10 minutes
python benchmarks/inference.py --device npu --shape 7b    # the same on an NPU

Makes 720p clips of 10 to 60 s (a minute or two, once: --folder keeps them) and models with random weights, then runs
the original's way (benchmarks/plain_answers.py) and run_gpu.py's own main function one after the other, in turns, and
prints the best of each. The start of a run, until the first frames are there, stands apart. The floor is the time that
the arithmetic of one pass over each video and question would take at the rate of a large matrix product, measured in
the same run. Replies are of two tokens, as nearly all real ones are (a letter and the end). Exit status 1 where an
answer differs in float32.
"""

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

import run_gpu  # noqa: E402
from benchmarks.arithmetic import floor_operations, matrix_rate  # noqa: E402
from benchmarks.clip_questions import OPTIONS, SET, make_clips, make_questions  # noqa: E402
from benchmarks.plain_answers import (  # noqa: E402
    Asked,
    NotingEngine,
    PlainAnswer,
    answer_plainly,
    decode_whole,
    keep_decoded,
)
from tests.support.random_checkpoint import SHAPES, make_model, write_checkpoint  # noqa: E402
from videobench.data.dataset import build_question_text  # noqa: E402
from videobench.device.devices import (  # noqa: E402
    DEFAULT_BATCH_SIZES,
    KINDS,
    LENGTH_MULTIPLES,
    open_device,
    release_memory,
)
from videobench.model.checkpoint import load_checkpoint  # noqa: E402
from videobench.model.engine import drop_unread_layers  # noqa: E402
from videobench.model.prompts import Prompt, VideoQuestions  # noqa: E402

NUM_FRAMES = 8
REPLY_TOKENS = 2


@dataclass(frozen=True)
class Case:
    questions_per_video: int
    num_questions: int
    num_plain: int  # the original's way answers so many of them, and is scaled up
    in_memory: bool  # the frames are decoded beforehand, for both ways
    plain_step: int = 1  # and answers one of so many


def main() -> int:
    args = parse_args()
    is_cpu = args.device == "cpu"
    dtype = getattr(torch, args.dtype or ("float32" if is_cpu else "bfloat16"))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.folder or temporary)
        bench = Bench(args, folder, args.shape or ("mid" if is_cpu else "7b"), dtype)
        print(f"{bench.device.name}, {os.cpu_count()} cores, shape {bench.shape_name}")
        print(f"{_name(dtype)}, a large matrix product: {bench.measure_rate() / 1e9:,.0f} GFLOP/s\n")
        plain_dtypes = [dtype] if is_cpu else [*dict.fromkeys([torch.float32, dtype])]
        columns = ["questions a video", "frames", *(f"original, {_name(each)}, s" for each in plain_dtypes)]
        columns += ["this suite, s", "after a start of, s", "times as fast", "questions/s", "share of the floor"]
        columns += ["waiting for frames", "equal answers"]
        print("|", " | ".join(columns), "|")
        print("|" + "---|" * len(columns))
        equal = [bench.run(case, plain_dtypes, args.repeats or (2 if is_cpu else 1)) for case in cases_of(args)]
    return 0 if all(equal) or dtype is not torch.float32 else 1


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=KINDS, default="cpu")
    parser.add_argument("--shape", choices=tuple(SHAPES), help="default: mid on cpu, else 7b")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--questions_per_video", type=int, nargs="+", help="default: 3 1 29")
    parser.add_argument("--num_questions", type=int, help="of each row (default: of 24 or 12 videos on cpu, else 480)")
    parser.add_argument(
        "--plain_questions",
        type=int,
        help="the original's way answers so many, scaled up (default: 24 or 2 videos on cpu; else one on each of 2 "
        "videos, of 12 in memory)",
    )
    parser.add_argument("--repeats", type=int, help="default: 2 on cpu, else 1")
    parser.add_argument("--num_workers", type=int, default=os.cpu_count())
    parser.add_argument("--clip_size", type=int, nargs=2, default=(1280, 720), help="width and height")
    parser.add_argument("--folder", type=Path, help="keeps the clips for the next time")
    return parser.parse_args()


def cases_of(args: argparse.Namespace) -> Iterator[Case]:
    is_cpu = args.device == "cpu"
    for count in args.questions_per_video or (3, 1, 29):
        number = args.num_questions or (count * (24 if count <= 3 else 12) if is_cpu else 480)
        for in_memory in (False, True):
            num_plain = args.plain_questions or (max(2 * count, 24) if is_cpu else 12 if in_memory else 2)
            yield Case(count, number, num_plain, in_memory, plain_step=1 if is_cpu else count)


class Bench:
    def __init__(self, args: argparse.Namespace, folder: Path, shape: str, dtype: torch.dtype) -> None:
        self.folder = folder
        self.device = open_device(args.device)
        self.shape_name, self.shape = shape, SHAPES[shape]
        self.dtype = dtype
        self.num_workers: int = args.num_workers
        self.rate = 0.0
        folder.mkdir(parents=True, exist_ok=True)
        self.checkpoint = load_checkpoint(write_checkpoint(self.shape, folder / f"checkpoint-{shape}"))
        self.clips = make_clips(folder, args.clip_size)
        self.read = decode_whole(self.checkpoint.pixel_spec, self.clips)
        self.known = keep_decoded(self.read)
        for clip in self.clips:
            self.known(clip)

    def measure_rate(self) -> float:
        """The best so far: another process may have been at work at the time of one measurement."""
        size = 512 if self.shape_name == "small" else 2048 if self.device.kind == "cpu" else 8192
        self.rate = max(self.rate, matrix_rate(self.device.torch_device, self.dtype, size))
        return self.rate

    def run(self, case: Case, plain_dtypes: list[torch.dtype], repeats: int) -> bool:
        """Prints one row; whether all answers were equal."""
        questions = make_questions(self.folder, self.clips, case.num_questions, case.questions_per_video)
        texts = [build_question_text(each.text, each.options) for each in questions]
        asked = list(zip(questions, self.checkpoint.prompt_builder(NUM_FRAMES).build(texts), strict=True))
        plainly_asked = asked[:: case.plain_step][: case.num_plain]
        runs, plain_s = [], {dtype: [] for dtype in plain_dtypes}
        for _ in range(repeats):
            for dtype in plain_dtypes:
                seconds, plain = self.answer_plainly(plainly_asked, dtype, case.in_memory)
                plain_s[dtype].append(seconds * len(asked) / len(plain))
            engine = self.make_engine()
            runs.append(self.answer_from_memory(engine, asked) if case.in_memory else self.answer_as_a_run(engine))
        best, start, waiting = min(runs)
        prefix, suffixes = len(asked[0][1].prefix_ids), [len(prompt.suffix_ids) for _, prompt in asked]
        num_videos = len({question.video for question, _ in asked})
        floor = floor_operations(self.shape, NUM_FRAMES, num_videos, prefix, suffixes) / self.measure_rate()
        is_equal, equal = engine.compare(plainly_asked, plain)
        cells = [
            str(case.questions_per_video),
            "in memory" if case.in_memory else "decoded",
            *(f"{min(each):.1f}" for each in plain_s.values()),
            f"{best:.1f}",
            "" if case.in_memory else f"{start:.1f}",
            " / ".join(f"{min(each) / best:.1f}" for each in plain_s.values()),
            f"{len(asked) / best:.2f}",
            f"{floor / best:.0%}",
            "" if case.in_memory else f"{waiting / best:.0%}",
            equal,
        ]
        print("| " + " | ".join(cells) + " |", flush=True)
        return is_equal

    def answer_plainly(self, asked: Asked, dtype: torch.dtype, in_memory: bool) -> tuple[float, list[PlainAnswer]]:
        spec = self.checkpoint.pixel_spec
        model = self.model if dtype is self.dtype else self.make_model(dtype)
        answer_plainly(model, spec, asked[:2], self.known, REPLY_TOKENS)  # warms up
        begun = time.monotonic()
        found = answer_plainly(model, spec, asked, self.known if in_memory else self.read, REPLY_TOKENS)
        return time.monotonic() - begun, found

    def make_model(self, dtype: torch.dtype) -> torch.nn.Module:
        release_memory(self.device)  # of the model before
        return make_model(self.checkpoint.path, self.device.torch_device, dtype)

    @cached_property
    def model(self) -> torch.nn.Module:
        """What both ways answer with, as load_engine leaves it: without the layer that nothing reads."""
        model = self.make_model(self.dtype)
        drop_unread_layers(model)
        return model

    def make_engine(self) -> NotingEngine:
        return NotingEngine(self.model, self.checkpoint, REPLY_TOKENS, LENGTH_MULTIPLES[self.device.kind])

    def answer_as_a_run(self, engine: NotingEngine) -> tuple[float, float, float]:
        """Seconds from the first frames to the end, those before, and those of waiting for further frames."""
        load = mock.patch("videobench.model.engine.load_engine", new=lambda *_: engine)  # noqa: PT008  # a mock keeps models
        # Of weights that a run reads meanwhile; here there are none to read.
        hashing = mock.patch("videobench.run.loop.start_hashing_weights", new=lambda *_: lambda: "")  # noqa: PT008
        with tempfile.TemporaryDirectory() as out, load, hashing:
            flags = [
                f"--model_path={self.checkpoint.path}", f"--Eval_QA_root={self.folder}", f"--device={self.device.kind}",
                f"--Eval_Video_root={self.folder}", f"--dataset_name={SET}", f"--num_frames={NUM_FRAMES}",
                f"--max_new_tokens={REPLY_TOKENS}", f"--num_workers={self.num_workers}",
                f"--dtype={_name(self.dtype)}", f"--chat_conversation_output_folder={out}",
            ]  # fmt: skip
            begun = time.monotonic()
            with contextlib.redirect_stdout(sys.stderr):  # stdout is the table's
                status = run_gpu.main(flags)
            ended = time.monotonic()
        if status:
            raise SystemExit(f"the run ended with status {status}")
        first, usage = engine.first_call, engine.usage
        return ended - first, first - begun, usage.seconds["frames"] - (first - usage.started)

    def answer_from_memory(self, engine: NotingEngine, asked: Asked) -> tuple[float, float, float]:
        """Seconds, when the first batch has been answered once before; nothing comes before or between."""
        videos: dict[Path, list[Prompt]] = {}
        for question, prompt in asked:
            videos.setdefault(question.video, []).append(prompt)
        batch = [
            VideoQuestions(self.known(video), prompts, [tuple(OPTIONS)] * len(prompts))
            for video, prompts in videos.items()
        ]
        batch_size = DEFAULT_BATCH_SIZES[self.device.kind]
        size = 1 if self.device.kind == "cpu" else max(1, batch_size // len(batch[0].prompts))  # videos at once
        engine.answer(batch[:size], batch_size)  # warms up
        begun = time.monotonic()
        for start in range(0, len(batch), size):
            engine.answer(batch[start : start + size], batch_size)
        return time.monotonic() - begun, 0.0, 0.0


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


if __name__ == "__main__":
    sys.exit(main())
