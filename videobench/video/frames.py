"""Video -> uint8 RGB frames: always as many as requested, whatever the file is.

Frame k of a sample is number k * total // num_frames, in presentation order, of the `total` frames that the file really
has. Rotation metadata is ignored. Only this folder reads videos with av; report/page.py scales pictures with it.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from videobench.errors import VideoError
from videobench.video.container import (
    OpenVideo,
    decode_tolerantly,
    decoding_bytes,
    demux,
    open_video,
    to_rgb,
)
from videobench.video.image_folder import decode_images, list_images
from videobench.video.sparse import NotSparseError, decode_frames, may_be_sparse, read_timeline


@dataclass(frozen=True)
class Frames:
    """A sample of the frames of one video, in presentation order."""

    pixels: np.ndarray  # uint8 RGB (num_frames, height, width, 3), or what `shrink` made of each frame
    width: int  # of a frame as decoded, in pixels
    height: int
    decoded: int  # how many frames the video really has
    stated: int  # how many its container states; 0 where it states none


@dataclass(frozen=True)
class _Picked:
    """The wanted frames as the decoder returns them, not yet converted to RGB."""

    frames: Iterable[VideoFrame]
    decoded: int
    stated: int


Shrink = Callable[[np.ndarray], np.ndarray]
Reserve = Callable[[int], None]


def spread(total: int, num_frames: int) -> list[int]:
    """The indices of the frames to take of `total`, ascending; some repeat where there are fewer than `num_frames`."""
    return [k * total // num_frames for k in range(num_frames)]


def sample_frames(video: Path, num_frames: int, shrink: Shrink | None = None, reserve: Reserve | None = None) -> Frames:
    """The frames of a video file, or of a folder of images; raises VideoError, naming the file, if it has none.

    `shrink` turns each frame, uint8 RGB (height, width, 3), into a smaller uint8 array, so that only one is in memory
    at its full size. `reserve` is called once, before decoding, with the bytes that it may take; it may wait.

    Bit-equal to `sample_frames_plain`, but if possible only a part of the file is decoded; damage elsewhere goes
    unnoticed then, and its packets count as frames."""
    return _convert(video, _pick(video, num_frames, reserve), num_frames, shrink)


def sample_frames_plain(video: Path, num_frames: int) -> Frames:
    """The reference: decodes everything."""
    picked = _pick_images(list_images(video), num_frames) if video.is_dir() else _pick_plainly(video, num_frames)
    return _convert(video, picked, num_frames, None)


def _convert(video: Path, picked: _Picked, num_frames: int, shrink: Shrink | None) -> Frames:
    reformatter = VideoReformatter()
    size, at, pixels = (0, 0), 0, np.empty(0, np.uint8)
    for frame, repeats in groupby(picked.frames):  # a short video repeats frames
        if at and (frame.width, frame.height) != size:
            raise VideoError(f"{video}: frames change from {size[0]} x {size[1]} to {frame.width} x {frame.height}")
        rgb = to_rgb(video, frame, reformatter)
        shrunk = shrink(rgb) if shrink else rgb
        if not at:
            size, pixels = (frame.width, frame.height), np.empty((num_frames, *shrunk.shape), np.uint8)
        count = sum(1 for _ in repeats)
        pixels[at : at + count] = shrunk
        at += count
    if not at:
        raise VideoError(f"{video}: no frame decodes")
    return Frames(pixels, *size, picked.decoded, picked.stated)


def _pick(video: Path, num_frames: int, reserve: Reserve | None) -> _Picked:
    reserve = reserve or (lambda num_bytes: None)
    if video.is_dir():
        images = list_images(video)
        with open_video(images[0]) as opened:
            reserve(decoding_bytes(opened, num_frames=1))
        return _pick_images(images, num_frames)
    with open_video(video) as opened:
        reserve(decoding_bytes(opened, num_frames))
        if not may_be_sparse(opened):
            return _pick_by_count(opened, num_frames)
        with suppress(NotSparseError):
            return _pick_sparsely(opened, num_frames)
    return _pick_plainly(video, num_frames)


def _pick_plainly(video: Path, num_frames: int) -> _Picked:
    with open_video(video) as opened:
        return _pick_by_count(opened, num_frames)


def _pick_images(images: Sequence[Path], num_frames: int) -> _Picked:
    """Each is decoded only when it is converted."""
    wanted = (images[index] for index in spread(len(images), num_frames))
    return _Picked(decode_images(wanted), len(images), len(images))


def _pick_sparsely(opened: OpenVideo, num_frames: int) -> _Picked:
    """Raises NotSparseError."""
    timeline = read_timeline(opened)
    total = len(timeline.shown)
    frames = decode_frames(opened, timeline, timeline.shown[spread(total, num_frames)])
    return _Picked(frames, total, opened.stream.frames)


def _pick_by_count(opened: OpenVideo, num_frames: int) -> _Picked:
    """Decode everything, and again if the number of frames is not the expected one."""
    expected = opened.stream.frames or _count_packets(opened.video)
    found, total = _frames_at(opened, spread(expected, num_frames))
    if total not in (0, expected):
        found.clear()  # memory was reserved for these frames once
        with open_video(opened.video) as again:
            found, total = _frames_at(again, spread(total, num_frames))
    wanted = spread(total, num_frames) if total else []
    return _Picked([found[index] for index in wanted], total, opened.stream.frames)


def _frames_at(opened: OpenVideo, wanted: Sequence[int]) -> tuple[dict[int, VideoFrame], int]:
    """The frames at these indices, as far as they exist, and how many frames decode."""
    found, total = {}, 0
    for index, frame in enumerate(decode_tolerantly(opened)):
        total = index + 1
        if index in wanted:
            found[index] = frame
    return found, total


def _count_packets(video: Path) -> int:
    """Up to the end of the file, or to where demuxing fails."""
    count = 0
    with open_video(video) as opened, suppress(FFmpegError):
        for _ in demux(opened):
            count += 1
    return count
