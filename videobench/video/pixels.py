"""Frames -> model input, as a checkpoint's preprocessor describes it: resized and cropped as uint8 on the host, then
rescaled and normalised on the device.

Bit-equal to LlavaNextVideoVideoProcessor of transformers (test_pixels.py), without torchvision. torch is imported in
functions alone: a checkpoint's description is read before any device is open.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from videobench.errors import InputError
from videobench.files import read_json

if TYPE_CHECKING:
    import torch

DEFAULT_NUM_FRAMES = 8  # of each video

# Where a checkpoint stores them, in the order in which transformers looks: (file, key of the part or None for all).
CONFIG_PLACES = (
    ("processor_config.json", "video_processor"),
    ("video_preprocessor_config.json", None),
    ("preprocessor_config.json", None),
    ("processor_config.json", "image_processor"),
)
RESAMPLES = {2: "bilinear", 3: "bicubic"}  # the numbers are PIL's
NEEDED_STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")


@dataclass(frozen=True)
class PixelSpec:
    """The frames that a checkpoint expects. Lengths are in pixels; either shortest_edge or exact_size is set."""

    crop_height: int  # 336
    crop_width: int  # 336
    resample: str  # "bicubic" or "bilinear"
    mean: tuple[float, ...]  # of red, green and blue, in values from 0 to 1
    std: tuple[float, ...]  # likewise, above 0
    shortest_edge: int | None = None  # 336: length of the frame's shorter edge after the resize, which keeps its shape
    exact_size: tuple[int, int] | None = None  # (height, width) after a resize that does not keep the shape
    rescale_factor: float = 1 / 255

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """(height, width), in pixels, of a frame of that size after the resize and before the crop."""
        if self.exact_size is not None:
            return self.exact_size
        assert self.shortest_edge is not None
        # Rounded down, as transformers does: for 272 x 640 the nearest number would be one more.
        long_edge = int(self.shortest_edge * max(height, width) / min(height, width))
        return (self.shortest_edge, long_edge) if height < width else (long_edge, self.shortest_edge)


class _Config:
    """One part of one configuration file. Its errors name file and key."""

    def __init__(self, path: Path, values: Mapping[str, Any]):
        self.path = path
        self.values = values

    def refuse(self, key: str, wanted: str) -> InputError:
        found = json.dumps(self.values[key]) if key in self.values else "nothing"
        return InputError(f"{self.path}: {key}: found {found}, but {wanted}; use the checkpoint's own file")

    def edge(self, key: str) -> tuple[int | None, tuple[int, int] | None]:
        """(shortest edge, None) or (None, (height, width)), from any spelling of a size."""
        value = self.values.get(key)
        if _is_length(value):
            return value, None
        if isinstance(value, Mapping):
            value = {name: length for name, length in value.items() if length is not None}
            if set(value) == {"shortest_edge"} and _is_length(value["shortest_edge"]):
                return value["shortest_edge"], None
            if set(value) == {"height", "width"} and all(_is_length(value[k]) for k in ("height", "width")):
                return None, (value["height"], value["width"])
        raise self.refuse(key, 'a length, {"shortest_edge": length} or {"height": length, "width": length} is needed')

    def box(self, key: str) -> tuple[int, int]:
        edge, exact = self.edge(key)
        return exact or (edge or 0, edge or 0)  # one of them is set

    def resample(self) -> str:
        value = self.values.get("resample", 3)
        if not _is_number(value) or value not in RESAMPLES:
            raise self.refuse("resample", "only 2 (bilinear) and 3 (bicubic) are supported")
        return RESAMPLES[value]

    def three(self, key: str) -> tuple[float, ...]:
        value = self.values.get(key)
        if not isinstance(value, list) or len(value) != 3 or not all(_is_number(v) for v in value):
            raise self.refuse(key, "three numbers are needed")
        if key == "image_std" and min(value) <= 0:
            raise self.refuse(key, "deviations above 0 are needed")
        return tuple(float(v) for v in value)

    def factor(self) -> float:
        value = self.values.get("rescale_factor", 1 / 255)
        if not _is_number(value) or not value > 0:
            raise self.refuse("rescale_factor", "a number above 0 is needed")
        return float(value)


def _is_length(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 4096


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _find_config(model_path: Path) -> _Config:
    for name, part in CONFIG_PLACES:
        path = model_path / name
        if not path.is_file():
            continue
        values = read_json(path)
        if not isinstance(values, dict):
            raise InputError(
                f"{path}: found {type(values).__name__}, but an object is needed; use the checkpoint's own file"
            )
        if part is None:
            return _Config(path, values)
        if isinstance(values.get(part), dict):
            return _Config(path, values[part])
    names = ", ".join(dict.fromkeys(name for name, _ in CONFIG_PLACES))
    raise InputError(f"{model_path}: none of {names} describes how frames are prepared; download the whole checkpoint")


def load_pixel_spec(model_path: Path) -> PixelSpec:
    """The frames that the checkpoint in this folder expects; InputError, naming file and key, if not supported."""
    config = _find_config(model_path)
    for key in NEEDED_STEPS:
        if config.values.get(key, True) is not True:
            raise config.refuse(key, "only true is supported")
    shortest_edge, exact_size = config.edge("size")
    crop_height, crop_width = config.box("crop_size")
    height, width = exact_size or config.box("size")
    if crop_height > height or crop_width > width:
        raise config.refuse("crop_size", f"no more than the size, {height} x {width}, is supported")
    return PixelSpec(
        crop_height=crop_height,
        crop_width=crop_width,
        resample=config.resample(),
        mean=config.three("image_mean"),
        std=config.three("image_std"),
        shortest_edge=shortest_edge,
        exact_size=exact_size,
        rescale_factor=config.factor(),
    )


def resize_and_crop(frames: np.ndarray, spec: PixelSpec) -> "torch.Tensor":
    """uint8 (F, height, width, 3) -> contiguous uint8 (F, 3, crop_height, crop_width) on the host."""
    import torch
    import torch.nn.functional as F

    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)  # a view in channels-last layout, which torch resizes fastest
    height, width = spec.resized(*frames.shape[1:3])
    if (height, width) != frames.shape[1:3]:
        pixels = F.interpolate(pixels, size=(height, width), mode=spec.resample, align_corners=False, antialias=True)
    # Half of the rest, rounded down: torchvision's center_crop differs where the rest is 3 mod 4.
    top, left = (height - spec.crop_height) // 2, (width - spec.crop_width) // 2
    return pixels[:, :, top : top + spec.crop_height, left : left + spec.crop_width].contiguous()


def normalise(pixels: "torch.Tensor", spec: PixelSpec, dtype: "torch.dtype") -> "torch.Tensor":
    """uint8 (..., 3, h, w) on any device -> (x - mean * 255) / (std * 255) there, computed in float32, cast last."""
    import torch

    # Mean and deviation carry the factor; subtract, then divide. Any other order differs in the last bits.
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=pixels.device).view(3, 1, 1) * (1.0 / spec.rescale_factor)
        for values in (spec.mean, spec.std)
    )
    return pixels.float().sub_(mean).div_(std).to(dtype)
