"""How fast a device answers, without files or frames to decode: batches through the engine, part by part.

python benchmarks/on_card.py                              # LLaVA-NeXT-Video-7B's shapes, bfloat16, on CUDA: 1 minute
python benchmarks/on_card.py --device npu                 # the same on an NPU
python benchmarks/on_card.py --questions 3 --profile      # and which kernels take the time
python benchmarks/on_card.py --device cpu --shape small   # the script itself, anywhere

Random weights and frames. The floor is the time that the arithmetic of one pass over each video and question takes at
the rate of a large matrix product, measured in the same run; the fastest of some repeats counts. `rest` is the time
between the parts: rows, copies, Python.
"""

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

if TYPE_CHECKING:
    from tests.support.random_checkpoint import Shape  # imports transformers, which must come after open_device

from videobench.device.devices import KINDS, LENGTH_MULTIPLES, Device, open_device, peak_memory_bytes, release_memory

NUM_FRAMES = 8
OPTIONS = {"A": "a red ball", "B": "a blue ball", "C": "a green ball", "D": "a white ball"}
PARTS = ("prefix", "suffix", "decode")
COLUMNS = (
    "questions a video", "rows", "videos", "a batch, ms", *PARTS, "rest", "TFLOP/s", "part of the floor", "questions/s",
    "peak, GB",
)  # fmt: skip


def floor_operations(shape: "Shape", num_frames: int, num_videos: int, prefix: int, suffixes: Sequence[int]) -> float:
    """The fewest floating-point operations that answer all questions if each video is encoded once.

    Two for each weight and token, four for each pair of positions and channel of attention (causal: half of the pairs);
    of the vision tower all layers but the last, which nothing reads; of the vocabulary's matrix, one position a
    question and one for the token after it. `suffixes` are the tokens of each question behind the video."""
    text_hidden, text_inner, text_layers, _ = shape.text
    hidden, inner, layers, _ = shape.vision
    tokens = shape.patches + 1
    vision = (layers - 1) * (2 * tokens * (4 * hidden**2 + 2 * hidden * inner) + 4 * tokens**2 * hidden)
    vision += 2 * shape.patches * 3 * 14 * 14 * hidden
    projector = 2 * (shape.patches // 4) * (hidden * text_hidden + text_hidden**2)
    weights = text_layers * (4 * text_hidden**2 + 3 * text_hidden * text_inner)
    per_pair = 4 * text_layers * text_hidden
    videos = num_videos * (2 * weights * prefix + per_pair * prefix**2 / 2 + num_frames * (vision + projector))
    questions = sum(
        2 * weights * (own + 1) + per_pair * ((own + 1) * prefix + own**2 / 2) + 4 * text_hidden * shape.vocabulary
        for own in suffixes
    )
    return videos + questions


def matrix_rate(device: torch.device, dtype: torch.dtype, size: int, seconds: float = 2.0) -> float:
    """Operations per second of a product of square matrices, the fastest of those that fit in `seconds`."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best, end = math.inf, time.monotonic() + seconds
    while time.monotonic() < end or best is math.inf:
        begun = time.monotonic()
        float((left @ right)[0, 0])  # waits for the device
        best = min(best, time.monotonic() - begun)
    return 2 * size**3 / best


def main() -> int:
    args = parse_args()
    device = open_device(args.device)  # before transformers
    bench = Bench(device, args.shape, getattr(torch, args.dtype), args.tokens)
    print(f"{device.name}, torch {torch.__version__}, {args.shape} in {args.dtype}, replies of {args.tokens} tokens")
    print(f"a large matrix product: {bench.rate / 1e12:.1f} TFLOP/s\n\n| {' | '.join(COLUMNS)} |")
    print("|" + "---|" * len(COLUMNS), flush=True)
    for rows in args.rows:
        for questions in args.questions:
            print("| " + " | ".join(bench.row(questions, rows, args.repeats)) + " |", flush=True)
    if args.profile:
        print(bench.profile(args.questions[0], args.rows[0]))
    return 0


def parse_args() -> argparse.Namespace:
    from tests.support.random_checkpoint import SHAPES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=KINDS, default="cuda")
    parser.add_argument("--shape", choices=tuple(SHAPES), default="7b")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="bfloat16")
    parser.add_argument("--questions", type=int, nargs="+", default=[1, 3, 29], help="a video")
    parser.add_argument("--rows", type=int, nargs="+", default=[32], help="questions in a batch, of whole videos")
    parser.add_argument("--tokens", type=int, default=2, help="of each reply; nearly all real ones have two")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="of one batch of the first kind")
    return parser.parse_args()


class Bench:
    def __init__(self, device: Device, shape: str, dtype: torch.dtype, num_tokens: int) -> None:
        from tests.support.random_checkpoint import SHAPES, make_model, write_checkpoint
        from videobench.model.checkpoint import load_checkpoint
        from videobench.model.engine import Engine, drop_unread_layers

        self.device, self.shape = device, SHAPES[shape]
        self.rate = matrix_rate(device.torch_device, dtype, 8192 if shape == "7b" else 512)
        with tempfile.TemporaryDirectory() as folder:
            self.checkpoint = load_checkpoint(write_checkpoint(self.shape, Path(folder) / "checkpoint"))
            model = make_model(self.checkpoint.path, device.torch_device, dtype)
        drop_unread_layers(model)
        release_memory(device)
        self.engine = Engine(model, self.checkpoint, num_tokens, LENGTH_MULTIPLES[device.kind])

    def batch(self, questions: int, videos: int) -> list:
        """VideoQuestions; suffixes as long as real ones, and not all alike."""
        from videobench.data.dataset import build_question_text
        from videobench.model.prompts import VideoQuestions

        builder, side = self.checkpoint.prompt_builder(NUM_FRAMES), self.shape.image_size
        made = []
        for video in range(videos):
            asked = (f"Which colour is the ball in part {video} {number}" for number in range(questions))
            texts = [build_question_text(each + " of it" * (number % 9), OPTIONS) for number, each in enumerate(asked)]
            generator = torch.Generator().manual_seed(video)
            frames = torch.randint(256, (NUM_FRAMES, 3, side, side), dtype=torch.uint8, generator=generator)
            made.append(VideoQuestions(frames, builder.build(texts), [tuple(OPTIONS)] * questions))
        return made

    def row(self, questions: int, rows: int, repeats: int) -> Iterator[str]:
        """The cells of one line of the table."""
        videos = max(1, rows // questions)
        batch = self.batch(questions, videos)
        self.answer(batch, rows)  # libraries take their workspaces
        if self.device.kind != "cpu":
            getattr(torch, self.device.kind).reset_peak_memory_stats()
        self.engine.usage.seconds.clear()
        times = [self.answer(batch, rows) for _ in range(repeats)]
        best, mean = min(times), sum(times) / repeats
        parts = [self.engine.usage.seconds[part] / repeats for part in PARTS]
        prompts = [prompt for each in batch for prompt in each.prompts]
        prefix = len(prompts[0].prefix_ids)
        floor = floor_operations(self.shape, NUM_FRAMES, videos, prefix, [len(each.suffix_ids) for each in prompts])
        yield from (str(questions), str(len(prompts)), str(videos))
        yield from (f"{seconds * 1e3:.0f}" for seconds in (best, *parts, mean - sum(parts)))
        yield from (f"{floor / best / 1e12:.1f}", f"{floor / best / self.rate:.0%}", f"{len(prompts) / best:.1f}")
        peak = peak_memory_bytes(self.device)
        yield f"{peak / 1e9:.1f}" if peak else ""

    def answer(self, batch: list, rows: int) -> float:
        """Seconds, with the copy of the pixels."""
        begun = time.monotonic()
        self.engine.answer(batch, rows)
        return time.monotonic() - begun

    def profile(self, questions: int, rows: int) -> str:
        from torch.profiler import ProfilerActivity, profile

        batch = self.batch(questions, max(1, rows // questions))
        is_cuda = self.device.kind == "cuda"
        with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_cuda else [])]) as profiled:
            self.engine.answer(batch, rows)
        order = "self_device_time_total" if is_cuda else "self_cpu_time_total"
        return str(profiled.key_averages().table(sort_by=order, row_limit=30, max_name_column_width=70))


if __name__ == "__main__":
    sys.exit(main())
