"""The frames that a checkpoint expects: size, crop and normalisation, read from its preprocessor's file."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videobench.errors import InputError
from videobench.files import read_json

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


DEFAULT_NUM_FRAMES = 8  # of each video
