"""The cost of a run: memory and time estimated from sizes, and time as measured (Usage)."""

import math
import re
import resource
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from videobench.console import in_bytes
from videobench.device.devices import peak_memory_bytes
from videobench.errors import InputError

if TYPE_CHECKING:
    from videobench.device.devices import Device
    from videobench.model.checkpoint import Checkpoint, WeightFiles
    from videobench.model.prompts import Prompt

DTYPE_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
ANSWER_TOKENS = 2  # most replies are a letter and the end-of-text token
# Measured floating-point operations per second at the sizes of the 7B model, in 16 bits and in float32, by card name
# (benchmarks/on_card.py; 16 bits with three questions on each video, float32 with one question at a time).
MEASURED_RATES = {"NVIDIA H200": (370e12, 39e12)}
# Assumed rates of other cards, and of one CPU core. Cards: a third of the 16-bit peak in the data sheet (Ascend 910:
# 256 tera; NVIDIA A100: 312 tera), a cautious value for prompts of a thousand tokens; in float32 a third of the A100's
# 19.5 tera. A core of a server CPU reached 82 to 96 giga with torch's own matrix library and a medium-sized model.
ASSUMED_RATES = {"npu": (85e12, 5e12), "cuda": (100e12, 6.5e12), "cpu": (90e9, 90e9)}


@dataclass(frozen=True)
class Tokens:
    """Number of tokens that a run computes, for all questions that can be asked."""

    videos: int
    questions: int
    prefix: int  # computed once per video: its frames and the text before them
    suffix: int  # question, options and instruction
    longest_prompt: int


def row_bytes(checkpoint: "Checkpoint", dtype: str, tokens: int, cards: int = 1) -> int:
    """Bytes of keys and values for one question of `tokens` tokens in all layers of the text model, on each of `cards`
    that share them."""
    text = checkpoint.config.text_config
    heads = text.num_key_value_heads or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    per_token = 2 * text.num_hidden_layers * heads * width * DTYPE_BYTES[dtype]
    return int(per_token * tokens) // cards


def question_bytes(
    checkpoint: "Checkpoint", dtype: str, num_frames: int, prefix_length: int, length: int, cards: int = 1
) -> int:
    """Most bytes for one question of a batch whose video it does not share; `length` is prompt plus reply in tokens. A
    batch also needs the keys and values of one more question.

    The video's keys and values are copied layer by layer (cache.select_rows), so there are never two complete
    copies."""
    keys_and_values = row_bytes(checkpoint, dtype, length, cards)
    return keys_and_values + activation_bytes(checkpoint, dtype, num_frames, prefix_length)


def activation_bytes(checkpoint: "Checkpoint", dtype: str, num_frames: int, prefix_length: int) -> int:
    """Bytes for computing one video's prefix, without keys and values, in the largest layers of both models.

    Per token: the residual stream, its norm, queries, keys, values, attention's output and two intermediate results,
    and in the feed-forward part gate, up projection and their product (the vision tower has no gate)."""
    text, vision = checkpoint.config.text_config, checkpoint.config.vision_config
    per_text = 8 * text.hidden_size + 3 * text.intermediate_size
    per_patch = 8 * vision.hidden_size + 2 * vision.intermediate_size
    pixels = num_frames * 3 * checkpoint.pixel_spec.crop_height * checkpoint.pixel_spec.crop_width
    numbers: int = per_text * prefix_length + per_patch * num_frames * _patches(checkpoint)
    # Pixels as uint8, as float32, and as uint8 of the next batch, which is copied meanwhile (loop.stage_ahead).
    return numbers * DTYPE_BYTES[dtype] + pixels * (DTYPE_BYTES["float32"] + 2)


# Weights that transformers splits over cards: the text model's projections and the head. Every card holds the others.
SHARDED = re.compile(r"(?!.*vision_tower).*(\.(q|k|v|o|gate|up|down)_proj\.|lm_head\.)")


def check_tensor_parallel(checkpoint: "Checkpoint", cards: int) -> None:
    """Raise InputError if the weights cannot be split into `cards` equal parts."""
    text = checkpoint.config.text_config
    sizes = {
        "attention heads": text.num_attention_heads,
        "key-value heads": text.num_key_value_heads or text.num_attention_heads,
        "intermediate size": text.intermediate_size,
    }
    common = math.gcd(*sizes.values())
    if common % cards:
        name, size = next((name, size) for name, size in sizes.items() if size % cards)
        fitting = [str(number) for number in range(1, common + 1) if common % number == 0]
        raise InputError(
            f"--tensor_parallel {cards}: {checkpoint.path} has {size} {name}, not divisible by {cards}; "
            f"use one of {', '.join(fitting)}"
        )


def weights_per_card(weights: "WeightFiles", cards: int) -> int:
    """Number of weight elements on every card of a group."""
    return sum(-(-size // cards) if SHARDED.match(name) else size for name, size in weights.sizes.items())


def device_seconds(checkpoint: "Checkpoint", num_frames: int, tokens: Tokens, rate: float) -> float:
    """Estimate seconds at `rate` operations per second, with two operations per weight and token: videos through the
    vision tower, all tokens through the text model. Leaves out attention (a few percent at this length) and the
    decoding of videos, which runs at the same time."""
    vision_tokens = tokens.videos * num_frames * _patches(checkpoint)
    text_tokens = tokens.prefix + tokens.suffix + tokens.questions * ANSWER_TOKENS
    return float(2 * (checkpoint.weights.in_vision * vision_tokens + checkpoint.weights.in_rest * text_tokens) / rate)


def _patches(checkpoint: "Checkpoint") -> int:
    """Tokens per frame in the vision tower, including the class token."""
    patch, spec = checkpoint.config.vision_config.patch_size, checkpoint.pixel_spec
    return int((spec.crop_height // patch) * (spec.crop_width // patch)) + 1


def rate_of(device: str, name: str, dtype: str) -> tuple[float, bool]:
    """Return operations per second of one card of that name, or of one core, and whether they were measured."""
    rates = MEASURED_RATES.get(name, ASSUMED_RATES[device])
    return rates[dtype == "float32"], name in MEASURED_RATES


# How the time is spent: waiting, or computing prompts up to the end of the video, the rest of them, or replies.
PARTS = {
    "frames": "waiting for frames",
    "prefix": "prefixes with the video",
    "suffix": "suffixes with the question",
    "decode": "decoding replies",
    "write": "waiting for the disk",
}


@dataclass
class Usage:
    """What one process did and how long it took, from its first batch on."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))  # by the names in PARTS
    questions: int = 0  # asked; counted once even if asked again after an error of the device
    again: int = 0  # of these, how many were computed again with their videos though already answered
    prefix_tokens: int = 0  # computed
    prefix_tokens_alone: int = 0  # the same if every question were answered separately
    started: float = field(default_factory=time.monotonic)  # in seconds of the monotonic clock
    total_s: float = 0.0  # known after stop()

    def start(self) -> None:
        """Start the clock, after the weights have been read."""
        self.started = time.monotonic()
        self.seconds.clear()

    def stop(self) -> None:
        self.total_s = time.monotonic() - self.started

    def count(self, prompts_of_videos: "Iterable[Sequence[Prompt]]") -> None:
        """Count the questions about to be asked, video by video."""
        for prompts in prompts_of_videos:
            self.questions += len(prompts)
            self.prefix_tokens_alone += sum(len(prompt.prefix_ids) for prompt in prompts)

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Add the time of the `with` body to a part of PARTS. `generate` ends with a copy to the host, so by then the
        device has finished."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.seconds[part] += time.monotonic() - begun

    def lines(self, device: "Device") -> Iterator[str]:
        """Describe time, shared prefixes and memory for people, after stop()."""
        rate = self.questions / self.total_s if self.total_s else 0.0
        parts = [f"{self.seconds[part]:.1f} s {words}" for part, words in PARTS.items()]
        other = self.total_s - sum(self.seconds.values())
        again = f", {self.again} of them again with their videos," if self.again else ""
        yield f"{self.questions} questions{again} in {self.total_s:.1f} s ({rate:.2f}/s)"
        yield f"{', '.join(parts)}, {other:.1f} s other"
        saved = self.prefix_tokens_alone - self.prefix_tokens
        yield f"{self.prefix_tokens:,} prefix tokens computed, {saved:,} saved by sharing them among questions"
        peak = peak_memory_bytes(device)
        on_device = f"{in_bytes(peak)} for tensors on the device, " if peak else ""
        host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # of this process; Linux counts in KiB
        yield f"peak memory: {on_device}{in_bytes(host)} on the host"
