"""LLaVA-NeXT-Video checkpoints with random weights, for timing and for memory: a folder as the runner wants it, and
the model."""

import json
import math
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlavaNextVideoConfig, LlavaNextVideoForConditionalGeneration

from tests.support.checkpoints import write_hollow_weights
from tests.support.paths import ASSETS

SMALL_MODEL = ASSETS / "tiny-llava-next-video"


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
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "linear", "factor": 2.5},  # as the 7B's

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
