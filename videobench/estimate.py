"""What a run will cost, from sizes alone: memory of a question's row, and the device's time at a stated rate."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from videobench.checkpoint import Checkpoint

DTYPE_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
ANSWER_TOKENS = 2  # of most replies: a letter and the end of the text
# Floating-point operations a second that one card, or one core of a CPU, is taken to keep up: assumptions, not measured
# here. A third of the 16-bit peaks in the makers' data sheets (Ascend 910: 256 tera; NVIDIA A100: 312 tera), which is
# modest for prompts of a thousand tokens; for float32 of the A100's 19.5 tera. One core with torch's own matrix library
# on a server CPU: 82 to 96 giga, measured with a middle-sized model of this kind.
RATES = {"npu": 85e12, "cuda": 100e12, "cpu": 90e9}
FLOAT32_RATES = {"npu": 5e12, "cuda": 6.5e12, "cpu": 90e9}


@dataclass(frozen=True)
class Tokens:
    """Of all questions that can be asked."""

    videos: int
    questions: int
    prefix: int  # computed once for each video: its frames and what stands before them
    prefix_alone: int  # what these would be if each question were answered by itself
    suffix: int  # question, options and instruction
    longest_prompt: int


def row_bytes(checkpoint: "Checkpoint", dtype: str, tokens: int) -> int:
    """Keys and values that the text model keeps for one question of that many tokens, in all its layers."""
    text = checkpoint.config.text_config
    heads = text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    per_token = 2 * text.num_hidden_layers * (text.num_key_value_heads or heads) * width * DTYPE_BYTES[dtype]
    return int(per_token * tokens)


def device_seconds(checkpoint: "Checkpoint", num_frames: int, tokens: Tokens, rate: float) -> float:
    """Two operations for each weight and token: videos through the vision tower, then all tokens through the text
    model. Decoding of videos, which goes on beside it, and attention (some percent at this length) are left out."""
    patch = checkpoint.config.vision_config.patch_size
    spec = checkpoint.pixel_spec
    patches = (spec.crop_height // patch) * (spec.crop_width // patch) + 1  # and the class token
    vision_tokens = tokens.videos * num_frames * patches
    text_tokens = tokens.prefix + tokens.suffix + tokens.questions * ANSWER_TOKENS
    return float(2 * (checkpoint.weights.in_vision * vision_tokens + checkpoint.weights.in_rest * text_tokens) / rate)


def rate_of(device: str, dtype: str) -> float:
    return (FLOAT32_RATES if dtype == "float32" else RATES)[device]


def in_bytes(count: float) -> str:
    """`0.61 GB`, `9.44 MB`."""
    unit, size = ("GB", 1e9) if count >= 1e8 else ("MB", 1e6)
    return f"{count / size:.2f} {unit}"


def in_time(seconds: float) -> str:
    """`2.3 h`, `5 min`, `12 s`."""
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
