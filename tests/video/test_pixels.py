"""Pixels are those of transformers' own video processor, and every form of its configuration is read or refused."""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.expected_pixels import (
    CASES,
    EXPECTED_PATH,
    LLAVA,
    build_frames,
    process,
    sha256_of,
    spec_of,
    write_config,
)
from videobench.errors import InputError
from videobench.video.pixels import PixelSpec, load_pixel_spec, normalise, resize_and_crop

EXPECTED = json.loads(EXPECTED_PATH.read_text())
HAS_TORCHVISION = importlib.util.find_spec("torchvision") is not None


@pytest.mark.parametrize("case", CASES)
def test_equal_to_what_transformers_gave(tmp_path: Path, case: str) -> None:
    """Recorded with torchvision: bit-equal, by torch's AVX2 kernel and by its general one."""
    settings, height, width = CASES[case]
    spec = spec_of(tmp_path, settings)
    pixels = resize_and_crop(build_frames(height, width), spec)
    assert pixels.dtype == torch.uint8
    assert pixels.is_contiguous()
    assert sha256_of(pixels) == EXPECTED[case]["uint8_sha256"]
    normalised = normalise(pixels, spec, torch.float32)
    assert list(normalised.shape) == EXPECTED[case]["shape"]
    assert sha256_of(normalised) == EXPECTED[case]["float32_sha256"]


@pytest.mark.skipif(not HAS_TORCHVISION, reason="transformers' processor needs torchvision")
@pytest.mark.parametrize("case", CASES)
def test_equal_to_what_transformers_gives_here(tmp_path: Path, case: str) -> None:
    settings, height, width = CASES[case]
    frames = build_frames(height, width)
    spec = spec_of(tmp_path, settings)
    cropped, normalised = process(settings, frames)
    pixels = resize_and_crop(frames, spec)
    assert torch.equal(pixels, cropped)
    assert torch.equal(normalise(pixels, spec, torch.float32), normalised)


PRINT_HASHES = """
from pathlib import Path
import sys
from tests.support.expected_pixels import CASES, build_frames, sha256_of, spec_of
from videobench.video.pixels import resize_and_crop
for case in ("272x640", "720p", "odd", "bilinear"):
    settings, height, width = CASES[case]
    print(case, sha256_of(resize_and_crop(build_frames(height, width), spec_of(Path(sys.argv[1]), settings))))
"""


def test_equal_without_the_vector_kernel(tmp_path: Path, run_command: Callable) -> None:
    """Another processor runs torch's general kernel: an Ascend host is often ARM, the GPU host beside it x86."""
    finished = run_command(sys.executable, "-c", PRINT_HASHES, tmp_path, ATEN_CPU_CAPABILITY="default")
    found = dict(line.split() for line in finished.stdout.splitlines())
    assert found == {case: EXPECTED[case]["uint8_sha256"] for case in ("272x640", "720p", "odd", "bilinear")}


def test_crop_begins_at_half_of_the_rest_rounded_down(tmp_path: Path) -> None:
    """336 x 343: 7 columns are too many, 3 go at the left and 4 at the right."""
    columns = np.broadcast_to(np.arange(343, dtype=np.int64)[None, None, :, None] % 251, (1, 336, 343, 3))
    pixels = resize_and_crop(columns.astype(np.uint8), spec_of(tmp_path, LLAVA))
    assert pixels[0, 0, 0].tolist() == [column % 251 for column in range(3, 339)]


def test_pixels_are_normalised_as_worked_by_hand() -> None:
    """(255 - 0.5 * 255) / (0.25 * 255) = 2, (0 - 0.5 * 255) / (0.25 * 255) = -2, and the mean gives 0."""
    spec = PixelSpec(2, 2, 2, "bicubic", mean=(0.5, 0.5, 0.2), std=(0.25, 0.5, 1.0))
    pixels = torch.tensor([[[255, 0], [255, 0]], [[255, 0], [255, 0]], [[51, 51], [51, 51]]], dtype=torch.uint8)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        found = normalise(pixels[None], spec, dtype)
        assert found.dtype == dtype
        assert found[0, 0].tolist() == [[2, -2], [2, -2]]
        assert found[0, 1].tolist() == [[1, -1], [1, -1]]
        assert found[0, 2].abs().max() < 1e-6
    assert pixels[0, 0, 0] == 255  # what was given is left as it was


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once_at_the_end(tmp_path: Path, dtype: torch.dtype) -> None:
    spec = spec_of(tmp_path, LLAVA)
    every_value = torch.arange(256, dtype=torch.uint8).view(1, 1, 256).repeat(3, 1, 1)
    assert torch.equal(normalise(every_value, spec, dtype), normalise(every_value, spec, torch.float32).to(dtype))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({}, (336, 336, 336), id="as-saved-today"),
        pytest.param({"size": 336, "crop_size": 224}, (336, 224, 224), id="whole-numbers"),
        pytest.param({"crop_size": {"shortest_edge": 224}}, (336, 224, 224), id="crop-by-edge"),
        pytest.param({"crop_size": {"height": 224, "width": 320, "longest_edge": None}}, (336, 224, 320), id="oblong"),
        pytest.param({"size": {"shortest_edge": 336, "longest_edge": None}}, (336, 336, 336), id="nulls"),
    ],
)
def test_every_spelling_of_a_size_is_read(tmp_path: Path, changes: dict, expected: tuple) -> None:
    spec = spec_of(tmp_path, LLAVA | changes)
    assert (spec.shortest_edge, spec.crop_height, spec.crop_width) == expected


REFUSED = {
    "no-resize": ({"do_resize": False}, "do_resize: found false"),
    "no-rescale": ({"do_rescale": False}, "do_rescale: found false"),
    "nearest": ({"resample": 0}, "resample: found 0"),
    "true-is-no-number": ({"resample": True}, "resample: found true"),
    "no-size": ({"size": None}, "size: found null"),
    "another-shape": ({"size": {"height": 336, "width": 400}}, "size: found {"),
    "huge-size": ({"size": 10**6}, "size: found 1000000"),
    "crop-above-size": ({"crop_size": 337}, "crop_size: found 337, which is not supported"),
    "mean-of-text": ({"image_mean": ["0.5"] * 3}, "image_mean: found"),
    "zero-std": ({"image_std": [0.5, 0, 0.5]}, "image_std: found"),
}


@pytest.mark.parametrize(("changes", "found"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_supported_is_refused(tmp_path: Path, changes: dict, found: str) -> None:
    with pytest.raises(InputError) as caught:
        spec_of(tmp_path, LLAVA | changes)
    assert str(caught.value).startswith(f"{tmp_path}/video_preprocessor_config.json: {found}")


def test_missing_keys_are_named_or_have_the_defaults_of_transformers(tmp_path: Path) -> None:
    for key in ("size", "crop_size", "image_mean", "image_std"):
        with pytest.raises(InputError, match=f"{key}: found nothing"):
            spec_of(tmp_path, {name: value for name, value in LLAVA.items() if name != key})
    spec = spec_of(tmp_path, {name: value for name, value in LLAVA.items() if name != "resample"})
    assert (spec.resample, spec.rescale_factor) == ("bicubic", 1 / 255)


def test_the_configuration_is_found_in_the_order_of_transformers(tmp_path: Path) -> None:
    def crops(edge: int) -> dict[str, Any]:
        return LLAVA | {"crop_size": edge}

    write_config(tmp_path, "processor_config.json", {"patch_size": 14})
    found = r"none of processor_config\.json, video_preprocessor_config\.json, .* describes how"
    with pytest.raises(InputError, match=found):
        load_pixel_spec(tmp_path)
    write_config(tmp_path, "processor_config.json", {"image_processor": crops(1)})
    assert load_pixel_spec(tmp_path).crop_width == 1
    write_config(tmp_path, "preprocessor_config.json", crops(2))
    assert load_pixel_spec(tmp_path).crop_width == 2
    write_config(tmp_path, "video_preprocessor_config.json", crops(3))
    assert load_pixel_spec(tmp_path).crop_width == 3
    write_config(tmp_path, "processor_config.json", {"image_processor": crops(1), "video_processor": crops(4)})
    assert load_pixel_spec(tmp_path).crop_width == 4
