"""What transformers' own video processor makes of a handful of frames; it needs torchvision, which this suite does not.

With torchvision installed, `python -m tests.support.expected_pixels` records it again in
assets/expected/pixels.json."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.support.paths import ASSETS
from videobench.video.pixels import PixelSpec, load_pixel_spec

EXPECTED_PATH = ASSETS / "expected" / "pixels.json"
CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
LLAVA = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}, "resample": 3, **CLIP}
SMALL = {"size": {"shortest_edge": 36}, "crop_size": {"height": 36, "width": 36}, "resample": 3, **CLIP}
BILINEAR = {**LLAVA, "resample": 2}
OBLONG = {**LLAVA, "crop_size": {"height": 224, "width": 320}}

# Name: (the processor's settings, height, width). The long edge after the resize, less the crop, is noted as d.
CASES = {
    "272x640": (LLAVA, 272, 640),  # 790 and not 791: rounded down; d = 454
    "720p": (LLAVA, 720, 1280),  # d = 261
    "portrait": (LLAVA, 1280, 720),
    "96x96": (LLAVA, 96, 96),  # enlarged; d = 0
    "as-it-is": (LLAVA, 336, 336),  # not resized
    "only-cropped": (LLAVA, 336, 341),  # not resized; d = 5
    "d-is-3": (LLAVA, 100, 101),  # torchvision's own crop would begin one pixel later
    "d-is-3-portrait": (LLAVA, 101, 100),
    "d-is-7": (LLAVA, 336, 343),
    "odd": (LLAVA, 101, 77),
    "one-more": (LLAVA, 337, 336),
    "320x240": (LLAVA, 240, 320),
    "1080p": (LLAVA, 1080, 1920),
    "tiny": (LLAVA, 5, 7),
    "small-model": (SMALL, 240, 426),
    "bilinear": (BILINEAR, 360, 640),
    "oblong-crop": (OBLONG, 360, 640),
}
NUM_FRAMES = 2


def write_config(folder: Path, name: str, values: object) -> Path:
    (folder / name).write_text(json.dumps(values))
    return folder


def spec_of(folder: Path, settings: dict[str, Any]) -> PixelSpec:
    return load_pixel_spec(write_config(folder, "video_preprocessor_config.json", settings))


def build_frames(height: int, width: int) -> np.ndarray:
    """uint8 (NUM_FRAMES, height, width, 3): gradients, edges and noise, from whole numbers only."""
    frame, y, x, channel = np.ogrid[:NUM_FRAMES, :height, :width, :3]
    noise = (x * 7919 ^ y * 104729 ^ channel * 1299709 ^ frame * 15485863) * 2654435761 >> 13 & 127
    edges = ((x // 9 + y // 5 + frame) % 2) * 64
    return ((x * (channel + 1) + y * 2 + frame * 31) % 97 + edges + noise).clip(0, 255).astype(np.uint8)


def sha256_of(pixels: torch.Tensor) -> str:
    return hashlib.sha256(pixels.contiguous().numpy().tobytes()).hexdigest()


def process(settings: dict[str, Any], frames: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """(uint8 cropped, float32 normalised), each (NUM_FRAMES, 3, h, w), by transformers' processor."""
    from transformers import LlavaNextVideoVideoProcessor

    processor = LlavaNextVideoVideoProcessor(**settings)
    normalised = processor(videos=[frames], return_tensors="pt")["pixel_values_videos"][0]
    cropped = processor(videos=[frames], return_tensors="pt", do_rescale=False, do_normalize=False)
    return cropped["pixel_values_videos"][0], normalised


def record() -> None:
    import torchvision
    import transformers

    expected: dict[str, Any] = {
        "made_with": {
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "transformers": transformers.__version__,
        }
    }
    for name, (settings, height, width) in CASES.items():
        cropped, normalised = process(settings, build_frames(height, width))
        expected[name] = {
            "shape": list(normalised.shape),
            "uint8_sha256": sha256_of(cropped),
            "float32_sha256": sha256_of(normalised),
        }
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(each)}" for name, each in expected.items())
    EXPECTED_PATH.write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    record()
