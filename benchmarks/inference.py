"""How fast questions are answered, against the original's way and against what the device's arithmetic allows.

python benchmarks/inference.py --device cpu               # a middle-sized model, float32
python benchmarks/inference.py --device cuda --shape 7b   # LLaVA-NeXT-Video-7B's shapes, bfloat16, 500 questions

Makes 720p clips of 10 to 60 s (a minute or two, once: --folder keeps them) and models with random weights, then runs
the original's way (benchmarks/plain_answers.py) and run_gpu.py's own main function one after the other, in turns, and
prints the best of each. The floor is the time that the arithmetic of one pass over each video and question would take
at the rate of a large matrix product, measured in the same run. Replies are of two tokens, as nearly all real ones are
(a letter and the end). Exit status 1 where an answer differs in float32.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

import run_gpu  # noqa: E402
from benchmarks.plain_answers import PlainAnswer, answer_plainly, decode_whole  # noqa: E402
from benchmarks.random_checkpoint import (  # noqa: E402
    SHAPES,
    floor_operations,
    make_model,
    matrix_rate,
    write_checkpoint,
)
from tests.clip_writer import write_clip  # noqa: E402
from videobench.checkpoint import load_checkpoint  # noqa: E402
from videobench.dataset import Question, load_questions, qa_file  # noqa: E402
from videobench.devices import SUFFIX_MULTIPLES  # noqa: E402
from videobench.engine import Engine, VideoQuestions, drop_unread_layers  # noqa: E402
from videobench.prompts import Prompt, build_question_text  # noqa: E402
from videobench.usage import Usage  # noqa: E402

SET = "MSVD"  # any of the 13 names
CLIP_SECONDS = (60, 10, 40, 20, 50, 30)  # so that the first two are as long as all in the mean
NUM_FRAMES = 8
REPLY_TOKENS = 2
OPTIONS = {"A": "a red ball", "B": "a blue ball", "C": "a green ball", "D": "a white ball"}
Asked = list[tuple[Question, Prompt]]


@dataclass(frozen=True)
class Case:
    questions_per_video: int
    num_questions: int
    in_memory: bool = False  # the frames are decoded beforehand, for both ways


def main() -> int:
    args = parse_args()
    is_cpu = args.device == "cpu"
    dtype = getattr(torch, args.dtype or ("float32" if is_cpu else "bfloat16"))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.folder or temporary)
        bench = Bench(folder, args.device, args.shape or ("mid" if is_cpu else "7b"), dtype, args.num_workers)
        bench.make_clips(args.clip_size)
        print(f"{bench.device_name}, {os.cpu_count()} cores, shape {bench.shape_name}")
        print(
            f"{str(dtype).removeprefix('torch.')}, a large matrix product: {bench.measure_rate() / 1e9:,.0f} GFLOP/s\n"
        )
        plain_dtypes = [dtype] if is_cpu else [torch.float32, dtype]
        ways = [f"original, {str(each).removeprefix('torch.')}, s" for each in plain_dtypes]
        print("| questions a video | frames |", " | ".join(ways), "| this suite, s | times as fast", end=" ")
        print("| questions/s | share of the floor | waiting for frames | equal answers |")
        print("|---|---|" + "---|" * (len(ways) + 6))
        equal = [bench.run(case, plain_dtypes, args.repeats, args.plain_questions) for case in cases_of(args)]
    return 0 if all(equal) or dtype is not torch.float32 else 1


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shape", choices=tuple(SHAPES), help="default: mid on cpu, 7b on cuda")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--questions_per_video", type=int, nargs="+", help="default: 3 1 29 on cpu, 1 3 on cuda")
    parser.add_argument("--num_questions", type=int, help="of each row (default: 24 on cpu, 500 on cuda)")
    parser.add_argument("--plain_questions", type=int, help="the original's way answers so many, and is scaled up")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--num_workers", type=int, default=os.cpu_count())
    parser.add_argument("--clip_size", type=int, nargs=2, default=(1280, 720), help="width and height")
    parser.add_argument("--folder", type=Path, help="keeps the clips for the next time")
    return parser.parse_args()


def cases_of(args: argparse.Namespace) -> Iterator[Case]:
    is_cpu = args.device == "cpu"
    for count in args.questions_per_video or ((3, 1, 29) if is_cpu else (1, 3)):
        number = args.num_questions or max(2 * count, 24 if is_cpu else 500)
        yield Case(count, number)
        if count == 3:
            yield Case(count, number, in_memory=True)


class Bench:
    def __init__(self, folder: Path, device: str, shape: str, dtype: torch.dtype, num_workers: int) -> None:
        self.folder = folder
        self.device = device
        self.device_name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
        self.shape_name, self.shape = shape, SHAPES[shape]
        self.dtype = dtype
        self.num_workers = num_workers
        self.rate = 0.0
        folder.mkdir(parents=True, exist_ok=True)
        self.checkpoint = load_checkpoint(write_checkpoint(self.shape, folder / f"checkpoint-{shape}"))

    def make_clips(self, size: tuple[int, int]) -> None:
        for seconds in CLIP_SECONDS:
            path = self.clip(seconds, size)
            if not path.is_file():
                unfinished = path.with_name("unfinished.mp4")
                write_clip(unfinished, "libx264", 25 * seconds, size, gop=250, options={"preset": "veryfast"})
                unfinished.rename(path)
        self.size = size

    def clip(self, seconds: int, size: tuple[int, int]) -> Path:
        return self.folder / f"{seconds} s, {size[0]}x{size[1]}.mp4"

    def make_questions(self, case: Case) -> Asked:
        """A QA file and the videos it names, which are links to the clips."""
        videos = self.folder / "Eval_video" / SET
        videos.mkdir(parents=True, exist_ok=True)
        content = {}
        for number in range(case.num_questions):
            video = number // case.questions_per_video
            name = f"{video}.mp4"
            (videos / name).unlink(missing_ok=True)
            os.link(self.clip(CLIP_SECONDS[video % len(CLIP_SECONDS)], self.size), videos / name)
            content[str(number)] = {
                "video_id": str(video), "vid_path": f"Eval_video/{SET}/{name}", "choices": OPTIONS,
                "question": f"Which color is the ball that moves in part {number} of the video?",
            }  # fmt: skip
        (self.folder / "Eval_QA").mkdir(exist_ok=True)
        path = qa_file(self.folder, SET)
        path.write_text(json.dumps(content))
        questions = load_questions(path, SET, self.folder.joinpath)
        texts = [build_question_text(each.text, each.options) for each in questions]
        return list(zip(questions, self.checkpoint.prompt_builder(NUM_FRAMES).build(texts), strict=True))

    def measure_rate(self) -> float:
        """The best so far: another process may have been at work at the time of one measurement."""
        self.rate = max(self.rate, matrix_rate(self.device, self.dtype))
        return self.rate

    def run(self, case: Case, plain_dtypes: list[torch.dtype], repeats: int, plain_questions: int | None) -> bool:
        """Prints one row; whether all answers were equal."""
        asked = self.make_questions(case)
        suite_s, plain_s = [], {dtype: [] for dtype in plain_dtypes}
        for _ in range(repeats):
            for dtype in plain_dtypes:
                seconds, plain = self.answer_plainly(asked[:plain_questions], dtype, case.in_memory)
                plain_s[dtype].append(seconds * len(asked) / len(plain))
            seconds, texts, usage = self.answer(asked, case)
            suite_s.append(seconds)
        best = min(suite_s)
        tokenizer = self.checkpoint.tokenizer
        expected = [tokenizer.decode(each.token_ids, skip_special_tokens=True).strip() for each in plain]
        num_equal = sum(own == other for own, other in zip(texts, expected, strict=False))
        prefix, suffixes = len(asked[0][1].prefix_ids), [len(prompt.suffix_ids) for _, prompt in asked]
        num_videos = len({question.video for question, _ in asked})
        floor = floor_operations(self.shape, NUM_FRAMES, num_videos, prefix, suffixes) / self.measure_rate()
        cells = [
            str(case.questions_per_video),
            "in memory" if case.in_memory else "decoded",
            *(f"{min(each):.1f}" for each in plain_s.values()),
            f"{best:.1f}",
            " / ".join(f"{min(each) / best:.1f}" for each in plain_s.values()),
            f"{len(asked) / best:.2f}",
            f"{floor / best:.0%}",
            "" if case.in_memory else f"{usage.seconds['frames'] / seconds:.0%}",
            f"{num_equal} of {len(expected)}",
        ]
        print("| " + " | ".join(cells) + " |", flush=True)
        return num_equal == len(expected)

    def answer_plainly(self, asked: Asked, dtype: torch.dtype, in_memory: bool) -> tuple[float, list[PlainAnswer]]:
        spec = self.checkpoint.pixel_spec
        model = make_model(self.checkpoint.path, self.device, dtype)
        read = decode_whole(spec)
        known = {question.video: read(question) for question, _ in (asked if in_memory else asked[:1])}
        answer_plainly(model, spec, asked[:1], lambda question: known[question.video], REPLY_TOKENS)  # warms up
        begun = time.monotonic()
        found = answer_plainly(
            model, spec, asked, (lambda question: known[question.video]) if in_memory else read, REPLY_TOKENS
        )
        return time.monotonic() - begun, found

    def answer(self, asked: Asked, case: Case) -> tuple[float, list[str], Usage]:
        """Seconds, replies in the order of the questions, and where the time went."""
        model = make_model(self.checkpoint.path, self.device, self.dtype)
        drop_unread_layers(model)  # as load_engine does
        engine = Engine(model, self.checkpoint, REPLY_TOKENS, SUFFIX_MULTIPLES[self.device])
        return self.answer_from_memory(engine, asked) if case.in_memory else self.answer_as_a_run(engine)

    def answer_as_a_run(self, engine: Engine) -> tuple[float, list[str], Usage]:
        with tempfile.TemporaryDirectory() as out, mock.patch("videobench.engine.load_engine", return_value=engine):
            flags = [
                f"--model_path={self.checkpoint.path}", f"--Eval_QA_root={self.folder}", f"--device={self.device}",
                f"--Eval_Video_root={self.folder}", f"--dataset_name={SET}", f"--num_frames={NUM_FRAMES}",
                f"--max_new_tokens={REPLY_TOKENS}", f"--num_workers={self.num_workers}",
                f"--dtype={str(self.dtype).removeprefix('torch.')}", f"--chat_conversation_output_folder={out}",
            ]  # fmt: skip
            begun = time.monotonic()
            with contextlib.redirect_stdout(sys.stderr):  # stdout is the table's
                status = run_gpu.main(flags)
            seconds = time.monotonic() - begun
            if status:
                raise SystemExit(f"the run ended with status {status}")
            rows = json.loads((Path(out) / f"{SET}_eval.json").read_text())
        return seconds, [row["output_sequence"][0] for row in rows.values()], engine.usage

    def answer_from_memory(self, engine: Engine, asked: Asked) -> tuple[float, list[str], Usage]:
        read = decode_whole(self.checkpoint.pixel_spec)
        videos: dict[Path, list[tuple[Question, Prompt]]] = {}
        for question, prompt in asked:
            videos.setdefault(question.video, []).append((question, prompt))
        batch = [
            VideoQuestions(read(pairs[0][0]), [prompt for _, prompt in pairs], [tuple(OPTIONS)] * len(pairs))
            for pairs in videos.values()
        ]
        size = 1 if self.device == "cpu" else 32 // len(batch[0].prompts)  # videos at once
        begun = time.monotonic()
        answers = [
            answers
            for start in range(0, len(batch), size)
            for answers in engine.answer(batch[start : start + size], batch_size=32)
        ]
        seconds = time.monotonic() - begun
        return seconds, [answer.text for each in answers for answer in each], engine.usage


if __name__ == "__main__":
    sys.exit(main())
