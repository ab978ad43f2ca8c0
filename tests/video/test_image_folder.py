"""A folder of numbered images is a video."""

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame

from videobench.errors import VideoError
from videobench.video import container as container_module
from videobench.video.frames import sample_frames
from videobench.video.identity import images_in

ENCODERS = {
    ".jpg": ("mjpeg", "yuvj444p"),
    ".png": ("png", "rgb24"),
    ".bmp": ("bmp", "bgr24"),
    ".webp": ("libwebp", "bgra"),
}


def write_image(path: Path, grey: int, size: tuple[int, int] = (48, 32)) -> None:
    codec, pix_fmt = ENCODERS[path.suffix.lower()]
    with av.open(str(path), "w", format="image2", options={"update": "1"}) as container:
        stream = container.add_stream(codec, rate=1, options={"lossless": "1"} if codec == "libwebp" else {})
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        pixels = np.full((size[1], size[0], 3), grey, np.uint8)
        container.mux(stream.encode(VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pix_fmt)))
        container.mux(stream.encode(None))


def write_folder(folder: Path, names: list[str]) -> Path:
    """Image k is of grey 10 * k."""
    folder.mkdir()
    for index, name in enumerate(names):
        write_image(folder / name, 10 * index)
    return folder


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".webp", ".JPG"])
def test_each_format_is_read_in_natural_order(tmp_path: Path, suffix: str) -> None:
    folder = write_folder(tmp_path / "frames", [f"{number}{suffix}" for number in range(1, 21)])
    found = sample_frames(folder, 8)
    assert (found.decoded, found.stated) == (20, 20)
    assert found.pixels.shape == (8, 32, 48, 3)
    greys = [10 * (k * 20 // 8) for k in range(8)]
    assert np.abs(found.pixels.astype(int) - np.reshape(greys, (8, 1, 1, 1))).max() <= 2  # JPEG loses a little


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(["1.png", "2.png", "10.png"], id="numbers"),
        pytest.param(["frame_9_1.png", "frame_9_2.png", "frame_10_1.png"], id="two-numbers"),
        pytest.param(["00001.png", "00002.png", "00010.png"], id="padded"),
        pytest.param(["a2.png", "a10.png", "b1.png"], id="letters-first"),
        pytest.param(["1.png", "a.png", "b.png"], id="number-or-none"),
        pytest.param(["01.png", "1.png", "2.png"], id="same-number"),
    ],
)
def test_images_are_ordered_by_their_numbers(tmp_path: Path, names: list[str]) -> None:
    folder = write_folder(tmp_path / "frames", names)
    assert [path.name for path in images_in(folder)] == names
    assert sample_frames(folder, 3).pixels[:, 0, 0, 0].tolist() == [0, 10, 20]


def test_what_is_no_image_is_passed_over(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "frames", ["1.png", "2.png"])
    for name in ("Thumbs.db", "._1.png", ".hidden.png", "notes.txt"):
        (folder / name).write_bytes(b"no image")
    (folder / "3.png").mkdir()
    assert sample_frames(folder, 8).decoded == 2


def assert_refused(folder: Path, reason: str) -> None:
    with pytest.raises(VideoError, match=reason) as caught:
        sample_frames(folder, 8)
    assert str(folder) in str(caught.value)


def test_mixed_sizes_are_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "frames", ["1.png", "2.png", "3.png"])
    write_image(folder / "2.png", 0, size=(96, 32))
    assert_refused(folder, "frames change from 48 x 32 to 96 x 32")


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path, "holds no image")


def oversized(png: bytes) -> bytes:
    at = png.index(b"IHDR") + 4
    return png[:at] + (60000).to_bytes(4, "big") * 2 + png[at + 8 :]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda png: b"", id="empty"),
        pytest.param(lambda png: b"no image at all", id="text"),
        pytest.param(lambda png: b"\xff\xd8\xff", id="start-of-a-jpeg"),
        pytest.param(lambda png: png[:16], id="header-cut-short"),
        pytest.param(lambda png: png[:33], id="header-alone"),
        pytest.param(lambda png: png[:33] + b"#EXTM3U\n", id="playlist"),
        pytest.param(oversized, id="60000-x-60000"),
    ],
)
def test_a_broken_image_is_refused_by_its_name(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    folder = write_folder(tmp_path / "frames", ["1.png", "2.png"])
    (folder / "2.png").write_bytes(damage((folder / "2.png").read_bytes()))
    assert_refused(folder, r"2\.png: ")
    assert not {"hls", "concat"} & {*container_module.FORMATS}
