"""What a run will cost, from sizes alone: memory in bytes of a question, and the device's time at a stated rate."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from videobench.model.checkpoint import Checkpoint

DTYPE_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
ANSWER_TOKENS = 2  # of most replies: a letter and the end of the text
# Floating-point operations a second of the 7B's shapes, in 16 bits and in float32, by name of the card: measured
# (docs/performance.md; in float32 one question at a time).
MEASURED_RATES = {"NVIDIA H200": (370e12, 39e12)}
# Of other cards, and of one core of a CPU: assumed. A third of the 16-bit peaks in the makers' data sheets (Ascend 910:
# 256 tera; NVIDIA A100: 312 tera), which is modest for prompts of a thousand tokens; for float32 of the A100's 19.5
# tera. One core with torch's own matrix library on a server CPU: 82 to 96 giga, measured with a middle-sized model.
ASSUMED_RATES = {"npu": (85e12, 5e12), "cuda": (100e12, 6.5e12), "cpu": (90e9, 90e9)}


@dataclass(frozen=True)
class Tokens:
    """How many tokens a run computes, for all questions that can be asked."""

    videos: int
    questions: int
    prefix: int  # computed once for each video: its frames and what stands before them
    prefix_alone: int  # what these would be if each question were answered by itself
    suffix: int  # question, options and instruction
    longest_prompt: int


def row_bytes(checkpoint: "Checkpoint", dtype: str, tokens: int, cards: int = 1) -> int:
    """Bytes of the keys and values of one question of that many tokens, in all layers of the text model: on each of
    the cards that share its heads."""
    text = checkpoint.config.text_config
    heads = text.num_key_value_heads or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    per_token = 2 * text.num_hidden_layers * heads * width * DTYPE_BYTES[dtype]
    return int(per_token * tokens) // cards


def question_bytes(
    checkpoint: "Checkpoint", dtype: str, num_frames: int, prefix_length: int, length: int, cards: int = 1
) -> int:
    """Bytes that one question of a batch takes at most, if no other is on its video; `length` counts prompt and reply
    in tokens. Beside those of all its questions a batch takes the keys and values of one more (cache.Prefixes).

    Its video's keys and values become its own layer by layer, so that both are never there whole."""
    keys_and_values = row_bytes(checkpoint, dtype, length, cards)
    return keys_and_values + activation_bytes(checkpoint, dtype, num_frames, prefix_length)


def activation_bytes(checkpoint: "Checkpoint", dtype: str, num_frames: int, prefix_length: int) -> int:
    """Bytes that computing one video's prefix takes beside the keys and values, in the largest layers of both models.

    For each token the residual stream, its norm, queries, keys, values, attention's output and two in between, and of
    the feed-forward part gate, rise and their product (the vision tower has no gate)."""
    text, vision = checkpoint.config.text_config, checkpoint.config.vision_config
    per_text = 8 * text.hidden_size + 3 * text.intermediate_size
    per_patch = 8 * vision.hidden_size + 2 * vision.intermediate_size
    pixels = num_frames * 3 * checkpoint.pixel_spec.crop_height * checkpoint.pixel_spec.crop_width
    numbers: int = per_text * prefix_length + per_patch * num_frames * _patches(checkpoint)
    # As they come, as numbers, and those of a batch that is copied meanwhile (batches.stage_ahead).
    return numbers * DTYPE_BYTES[dtype] + pixels * (DTYPE_BYTES["float32"] + 2)


def device_seconds(checkpoint: "Checkpoint", num_frames: int, tokens: Tokens, rate: float) -> float:
    """Seconds at `rate` operations a second, two for each weight and token: videos through the vision tower, then all
    tokens through the text model. Attention (some percent at this length) and the decoding of videos, which takes place
    meanwhile, are left out."""
    vision_tokens = tokens.videos * num_frames * _patches(checkpoint)
    text_tokens = tokens.prefix + tokens.suffix + tokens.questions * ANSWER_TOKENS
    return float(2 * (checkpoint.weights.in_vision * vision_tokens + checkpoint.weights.in_rest * text_tokens) / rate)


def _patches(checkpoint: "Checkpoint") -> int:
    """Tokens that the vision tower computes for a frame, with the class token."""
    patch, spec = checkpoint.config.vision_config.patch_size, checkpoint.pixel_spec
    return int((spec.crop_height // patch) * (spec.crop_width // patch)) + 1


def rate_of(device: str, name: str, dtype: str) -> tuple[float, bool]:
    """Floating-point operations a second of one card of that name, or one core, and whether it was measured."""
    rates = MEASURED_RATES.get(name, ASSUMED_RATES[device])
    return rates[dtype == "float32"], name in MEASURED_RATES
