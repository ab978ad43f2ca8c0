"""A folder of numbered images is a video."""

from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame

from videobench.errors import VideoError
from videobench.video import container as container_module
from videobench.video import images as image_folder_module
from videobench.video.frames import sample_frames, sample_frames_plain

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
    np.testing.assert_array_equal(found.pixels, sample_frames_plain(folder, 8).pixels)


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
    assert [path.name for path in image_folder_module.list_images(folder)] == names
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


def test_mixed_sizes_are_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "frames", ["1.png", "2.png", "3.png"])
    write_image(folder / "2.png", 0, size=(96, 32))
    monkeypatch.setattr(image_folder_module, "open_video", None)  # what would decode
    assert_refused(folder, r"2\.png: is 96 x 32, but 1\.png is 48 x 32")


def test_oversized_image_is_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "frames", ["1.png"])
    whole = (folder / "1.png").read_bytes()
    at = whole.index(b"IHDR") + 4
    (folder / "1.png").write_bytes(whole[:at] + (60000).to_bytes(4, "big") * 2 + whole[at + 8 :])
    monkeypatch.setattr(image_folder_module, "open_video", None)
    assert_refused(folder, "60000 x 60000 are larger than")


def test_too_many_images_are_refused_and_none_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "frames", ["1.png", "2.png", "3.png"])
    monkeypatch.setattr(image_folder_module, "MAX_IMAGES", 2)
    assert_refused(folder, "3 images, more than 2")
    assert_refused(tmp_path, "holds no image")


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"])
def test_a_broken_image_is_refused_by_its_name(tmp_path: Path, content: bytes) -> None:
    folder = write_folder(tmp_path / "frames", ["1.png", "2.png"])
    (folder / "2.png").write_bytes(content)
    # imagesize before 2.0.1 reads on where a PNG's header is cut short: a size that cannot be, refused as well.
    assert_refused(folder, r"2\.png: (its header cannot be read|frames of \d+ x \d+ are larger than)")
    write_image(folder / "2.png", 0)
    header = (folder / "2.png").read_bytes()[:33]
    for rest in (b"", b"#EXTM3U\n"):  # a playlist is none
        (folder / "2.png").write_bytes(header + rest)
        assert_refused(folder, r"2\.png: ")
    assert not {"hls", "concat"} & {*container_module.FORMATS}
