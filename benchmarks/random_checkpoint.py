"""LLaVA-NeXT-Video checkpoints with random weights, for timing: a folder as the runner wants it, and the model."""

import json
import math
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlavaNextVideoConfig, LlavaNextVideoForConditionalGeneration

from tests.support.checkpoints import write_hollow_weights

SMALL_MODEL = Path(__file__).resolve().parents[1] / "tests" / "assets" / "tiny-llava-next-video"


# Standard deviation of weights, times the root of a layer's width: with the usual 0.5 to 1 a random model says the same
# whatever it sees, and that two ways agree would mean nothing.
SPREAD = 2.0


@dataclass(frozen=True)
class Shape:
    text: tuple[int, int, int, int]  # hidden size, feed-forward size, layers, heads
    vision: tuple[int, int, int, int]  # the same
    vocabulary: int
    image_size: int  # pixels; patches of 14

    @property
    def patches(self) -> int:
        return (self.image_size // 14) ** 2


SHAPES = {
    "7b": Shape((4096, 11008, 32, 32), (1024, 4096, 24, 16), 32064, 336),  # LLaVA-NeXT-Video-7B-hf
    "mid": Shape((512, 1376, 8, 8), (256, 1024, 6, 4), 2048, 336),
    "small": Shape((64, 128, 2, 2), (32, 64, 3, 2), 512, 196),
}


def write_checkpoint(shape: Shape, folder: Path) -> Path:
    """Everything but the weights: their file has a true header, and a hole for content, which takes no room."""
    folder.mkdir(exist_ok=True)
    for path in SMALL_MODEL.glob("*.json"):
        shutil.copy(path, folder)
    config = json.loads((SMALL_MODEL / "config.json").read_text())
    config["text_config"] |= _sizes(shape.text) | {
        "vocab_size": shape.vocabulary, "num_key_value_heads": shape.text[3], "max_position_embeddings": 4096,
        "head_dim": shape.text[0] // shape.text[3],
    }  # fmt: skip
    config["vision_config"] |= _sizes(shape.vision) | {"image_size": shape.image_size, "patch_size": 14}
    for part in ("text_config", "vision_config"):
        config[part]["initializer_range"] = SPREAD / math.sqrt(config[part]["hidden_size"])
    config["image_grid_pinpoints"] = [[shape.image_size, shape.image_size]]
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        values = json.loads((SMALL_MODEL / name).read_text())
        values |= {"crop_size": {"height": shape.image_size, "width": shape.image_size}}
        values |= {"size": {"shortest_edge": shape.image_size}}
        (folder / name).write_text(json.dumps(values))
    write_hollow_weights(folder)
    return folder


def _sizes(sizes: tuple[int, int, int, int]) -> dict[str, int]:
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return dict(zip(names, sizes, strict=True))


def make_model(folder: Path, device: torch.device, dtype: torch.dtype) -> LlavaNextVideoForConditionalGeneration:
    """With random weights, made where they are used; the same in every process of one version of torch."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = LlavaNextVideoForConditionalGeneration(LlavaNextVideoConfig.from_pretrained(folder))
    finally:
        torch.set_default_dtype(before)
    return model.eval()


def save_checkpoint(folder: Path, to: Path, model: LlavaNextVideoForConditionalGeneration) -> None:
    """With its weights, for a program that makes none. Those of the vision tower are named as in the five checkpoints;
    transformers 5 leaves out `vision_model`, and vLLM does not know them so."""
    to.mkdir(exist_ok=True)
    named = {
        re.sub(r"vision_tower\.(?!vision_model)", "vision_tower.vision_model.", name): weight
        for name, weight in model.state_dict().items()
    }
    save_file(named, to / "model.safetensors", metadata={"format": "pt"})
    for path in folder.glob("*.json"):
        shutil.copy(path, to)


def floor_operations(shape: Shape, num_frames: int, num_videos: int, prefix: int, suffixes: Sequence[int]) -> float:
    """Floating-point operations that cannot be done without when each video is encoded once.

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
    """Operations a second of a product of square matrices, the best of those that fit in so much time."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best, end = math.inf, time.monotonic() + seconds
    while time.monotonic() < end or best is math.inf:
        begun = time.monotonic()
        float((left @ right)[0, 0])  # waits for the device
        best = min(best, time.monotonic() - begun)
    return 2 * size**3 / best
