"""Turn frames into model input as a checkpoint's preprocessor config says: resize and crop as uint8 on the host, then
rescale and normalise on the device.

Bit-equal to LlavaNextVideoVideoProcessor of transformers (test_pixels.py), without torchvision. torch is imported only
inside functions, because the config is read before a device is opened.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from videobench.errors import InputError
from videobench.files import read_json

if TYPE_CHECKING:
    import torch

DEFAULT_NUM_FRAMES = 8  # per video
T = TypeVar("T")

# Where a checkpoint may store the config, in transformers' order: (file, key of the part, or None for the whole file).
CONFIG_PLACES = (
    ("processor_config.json", "video_processor"),
    ("video_preprocessor_config.json", None),
    ("preprocessor_config.json", None),
    ("processor_config.json", "image_processor"),
)
RESAMPLES = {2: "bilinear", 3: "bicubic"}  # the numbers are PIL's
MAX_EDGE = 4096  # a larger number is a damaged file
NEEDED_STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")


@dataclass(frozen=True)
class PixelSpec:
    """Frame format of a checkpoint. Lengths are in pixels."""

    shortest_edge: int  # 336: the frame's shorter edge after the resize, which keeps its shape
    crop_height: int  # 336
    crop_width: int  # 336
    resample: str  # "bicubic" or "bilinear"
    mean: tuple[float, ...]  # of red, green and blue, from 0 to 1
    std: tuple[float, ...]  # of red, green and blue, above 0
    rescale_factor: float = 1 / 255

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Size (height, width) in pixels of such a frame after the resize and before the crop."""
        # Rounded down, as transformers does: for 272 x 640 the nearest number would be one more.
        long_edge = int(self.shortest_edge * max(height, width) / min(height, width))
        return (self.shortest_edge, long_edge) if height < width else (long_edge, self.shortest_edge)


def load_pixel_spec(model_path: Path) -> PixelSpec:
    """Read the frame format of the checkpoint in this folder; InputError, naming file and key, if not supported."""
    path, values = _find_config(model_path)

    def read(key: str, parse: Callable[[Any], T], default: Any = None) -> T:
        try:
            return parse(values.get(key, default))
        except (AttributeError, KeyError, TypeError, ValueError):
            found = json.dumps(values[key]) if key in values else "nothing"
            raise InputError(
                f"{path}: {key}: found {found}, which is not supported; use the checkpoint's own file"
            ) from None

    for key in NEEDED_STEPS:
        read(key, _require_true, True)
    shortest_edge = read("size", _parse_edge)
    return PixelSpec(
        shortest_edge,
        *read("crop_size", lambda value: _parse_crop(value, shortest_edge)),
        resample=read("resample", lambda value: RESAMPLES[value], 3),
        mean=read("image_mean", _parse_three),
        std=read("image_std", lambda value: tuple(map(_parse_positive, _parse_three(value)))),
        rescale_factor=read("rescale_factor", _parse_positive, 1 / 255),
    )


def _find_config(model_path: Path) -> tuple[Path, Mapping[str, Any]]:
    for name, part in CONFIG_PLACES:
        path = model_path / name
        if not path.is_file():
            continue
        values = read_json(path)
        if not isinstance(values, dict):
            raise InputError(f"{path}: not an object of settings; use the checkpoint's own file")
        if part is None or isinstance(values.get(part), dict):
            return path, values if part is None else values[part]
    names = ", ".join(dict.fromkeys(name for name, _ in CONFIG_PLACES))
    raise InputError(f"{model_path}: none of {names} describes how frames are prepared; download the whole checkpoint")


def _require_true(value: Any) -> None:
    if value is not True:
        raise ValueError


def _lengths(value: Any) -> dict[str, int]:
    """Parse {"shortest_edge": n}, {"height": h, "width": w}, or n alone, which means the former; nulls are left out."""
    sides = value if isinstance(value, dict) else {"shortest_edge": value}
    lengths = {name: length for name, length in sides.items() if length is not None}
    for length in lengths.values():
        if isinstance(length, bool) or not isinstance(length, int) or not 0 < length <= MAX_EDGE:
            raise ValueError
    return lengths


def _parse_edge(value: Any) -> int:
    lengths = _lengths(value)
    if lengths.keys() != {"shortest_edge"}:
        raise ValueError
    return lengths["shortest_edge"]


def _parse_crop(value: Any, shortest_edge: int) -> tuple[int, int]:
    lengths = _lengths(value)
    edge = lengths.get("shortest_edge")
    crop = (edge, edge) if edge else (lengths["height"], lengths["width"])
    if max(crop) > shortest_edge:
        raise ValueError
    return crop


def _parse_three(value: Any) -> tuple[float, ...]:
    if len(value) != 3 or not all(isinstance(each, int | float) for each in value):
        raise ValueError
    return tuple(map(float, value))


def _parse_positive(value: Any) -> float:
    if not value > 0:
        raise ValueError
    return float(value)


def resize_and_crop(frames: np.ndarray, spec: PixelSpec) -> "torch.Tensor":
    """Turn uint8 (F, height, width, 3) into contiguous uint8 (F, 3, crop_height, crop_width) on the host."""
    import torch
    import torch.nn.functional as F

    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)  # a view in channels-last layout, which torch resizes fastest
    height, width = spec.resized(*frames.shape[1:3])
    if (height, width) != frames.shape[1:3]:
        pixels = F.interpolate(pixels, size=(height, width), mode=spec.resample, align_corners=False, antialias=True)
    # Half of the rest, rounded down: torchvision's center_crop differs if the rest is 3 mod 4.
    top, left = (height - spec.crop_height) // 2, (width - spec.crop_width) // 2
    return pixels[:, :, top : top + spec.crop_height, left : left + spec.crop_width].contiguous()


def normalise(pixels: "torch.Tensor", spec: PixelSpec, dtype: "torch.dtype") -> "torch.Tensor":
    """Compute (x - mean * 255) / (std * 255) from uint8 (..., 3, h, w) there, in float32, and cast last."""
    import torch

    # The factor is applied to mean and std; another order of operations would differ in the last bits.
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=pixels.device).view(3, 1, 1) * (1.0 / spec.rescale_factor)
        for values in (spec.mean, spec.std)
    )
    return pixels.float().sub_(mean).div_(std).to(dtype)
