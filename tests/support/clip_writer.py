"""Writes the video files that tests and benchmarks need: the same frames from the same arguments, each frame unlike the
others, with motion and texture, so that encoders use what they have."""

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from os import environ
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame

environ.setdefault("SVT_LOG", "1")  # the AV1 encoder's greeting, on stderr, is no error
RATE = 25  # frames per second
QUIET_X265 = "log-level=none:pools=1:frame-threads=1"


@lru_cache(maxsize=2)
def _texture(height: int, width: int) -> np.ndarray:
    """uint8 (height, width): smooth noise, which panned looks to an encoder like a film of grass and walls."""
    rng = np.random.default_rng(1)
    texture = np.zeros((height, width))
    for scale in (64, 16, 4):
        coarse = rng.normal(size=(height // scale + 2, width // scale + 2))
        texture += scale**0.5 * np.kron(coarse, np.ones((scale, scale)))[:height, :width]
    low, high = texture.min(), texture.max()
    return ((texture - low) * (219 / (high - low)) + 16).astype(np.uint8)


def picture(index: int, width: int, height: int) -> np.ndarray:
    """Frame `index` as yuv420p, uint8 (height * 3 // 2, width): a panned texture, a moving box, its number in bits."""
    texture = _texture(height * 2, width * 2)
    top, left = (index * 3 // 2) % height, (index * 5 // 2) % width
    frame = np.empty((height * 3 // 2, width), np.uint8)
    frame[:height] = texture[top : top + height, left : left + width]
    frame[height:] = 128 + (texture[: height // 2, left : left + width] // 8)
    box = max(8, height // 6)
    at = index * 7 % max(1, width - box)
    frame[height // 3 : height // 3 + box, at : at + box] = 235 - index % 200
    for bit in range(8):  # the frame's number, so that no two are alike
        frame[:8, bit * 8 : bit * 8 + 8] = 235 if index >> bit & 1 else 16
    return frame


def write_clip(
    path: Path,
    codec: str,
    num_frames: int = 60,
    size: tuple[int, int] = (96, 64),
    *,
    pix_fmt: str = "yuv420p",
    gop: int | None = None,
    b_frames: int | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    pts: Sequence[int] | None = None,
) -> Path:
    """`size` is (width, height), both even; `pts` are in units of 1 / RATE second; the container follows the suffix."""
    width, height = size
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=RATE, options={"threads": "1", **(options or {})})
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.time_base = Fraction(1, RATE)
        if gop is not None:
            stream.codec_context.gop_size = gop
        if b_frames is not None:
            stream.codec_context.max_b_frames = b_frames
        for index in range(num_frames):
            frame = VideoFrame.from_ndarray(picture(index, width, height), format="yuv420p").reformat(format=pix_fmt)
            frame.pts = pts[index] if pts else index
            frame.time_base = Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
