"""Video -> uint8 RGB frames: always as many as asked, whatever the file is.

Frame k of a sample is number k * total // num_frames, in presentation order, of the `total` frames that the file really
has. Rotation that the file asks for is not applied. Videos are read with av in this folder only; the report's
thumbnails.py writes its pictures with it.
"""

from bisect import bisect_left
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from av.video.frame import VideoFrame

from videobench.video.container import OpenVideo, count_packets, decode_tolerantly, demux, open_video, to_rgb
from videobench.video.image_folder import decode_images, list_images
from videobench.video.sparse import NotSparseError, decode_groups, plan_groups
from videobench.video.timeline import NoTimelineError, Timeline, may_have_timeline, read_timeline


@dataclass(frozen=True)
class Frames:
    """A sample of the frames of one video, in presentation order."""

    pixels: np.ndarray  # uint8 RGB (num_frames, height, width, 3)
    decoded: int  # how many frames the video really has
    stated: int  # how many its container states; 0 where it states none


def spread(total: int, num_frames: int) -> list[int]:
    """The numbers of the frames to take of `total`; some come twice where there are fewer."""
    return [k * total // num_frames for k in range(num_frames)]


def sample_frames(video: Path, num_frames: int) -> Frames:
    """The frames of a video file, or of a folder of images; raises VideoError, naming the file, where it has none.

    Equal, bit by bit, to `sample_frames_plain`, of which it decodes only a part where it can."""
    if video.is_dir():
        return _sample_folder(video, num_frames)
    with open_video(video) as opened:
        if not may_have_timeline(opened):
            return _pick_by_count(opened, num_frames)
        with suppress(NoTimelineError, NotSparseError):
            return _pick_sparsely(opened, num_frames)
    return sample_frames_plain(video, num_frames)


def sample_frames_plain(video: Path, num_frames: int) -> Frames:
    """The same by decoding everything: the reference."""
    if video.is_dir():
        return _sample_folder(video, num_frames)
    timeline = None
    with open_video(video) as opened, suppress(NoTimelineError):
        timeline = read_timeline(opened, hold_packets=False)
    with open_video(video) as opened:
        return _pick_by_time(opened, timeline, num_frames) if timeline else _pick_by_count(opened, num_frames)


def _sample_folder(folder: Path, num_frames: int) -> Frames:
    images = list_images(folder)
    pixels = decode_images([images[index] for index in spread(len(images), num_frames)])
    return Frames(pixels, len(images), len(images))


def _pick_sparsely(opened: OpenVideo, num_frames: int) -> Frames:
    """Raises NoTimelineError or NotSparseError where only decoding everything gives the frames."""
    timeline = read_timeline(opened, hold_packets=True)
    wanted = [int(timeline.shown_pts[index]) for index in spread(timeline.total, num_frames)]
    groups = plan_groups(timeline, wanted)
    if timeline.packets is not None:
        found = decode_groups(opened, timeline.packets, groups)
    else:
        with open_video(opened.video) as again:
            found = decode_groups(again, demux(again), groups)
    return _as_frames(opened, [found[pts] for pts in wanted], timeline.total)


def _pick_by_time(opened: OpenVideo, timeline: Timeline, num_frames: int) -> Frames:
    """Each packet is a frame: where one does not decode, the frame before it stays, as in a player."""
    wanted = [int(timeline.shown_pts[index]) for index in spread(timeline.total, num_frames)]
    picker = _Picker(wanted)
    for frame in decode_tolerantly(opened):
        if frame.pts is not None:
            picker.offer(frame.pts, frame)
            if frame.pts == wanted[-1]:
                break
    return _as_frames(opened, picker.picked(wanted), timeline.total)


def _pick_by_count(opened: OpenVideo, num_frames: int) -> Frames:
    """Where packets do not tell the frames: those that decode are counted, and decoded again if their number is not
    the one that was expected."""
    expected = opened.stream.frames or _count_packets_of(opened.video)
    found, total = _frames_at(opened, spread(expected, num_frames))
    if total not in (0, expected):
        with open_video(opened.video) as again:
            found, total = _frames_at(again, spread(total, num_frames))
    wanted = spread(total, num_frames) if total else []
    return _as_frames(opened, [found[index] for index in wanted], total)


def _frames_at(opened: OpenVideo, wanted: Sequence[int]) -> tuple[dict[int, VideoFrame], int]:
    """The frames of these numbers, as far as there are any, and how many frames decode."""
    found, total = {}, 0
    for index, frame in enumerate(decode_tolerantly(opened)):
        total = index + 1
        if index in wanted:
            found[index] = frame
    return found, total


def _count_packets_of(video: Path) -> int:
    with open_video(video) as opened:
        return count_packets(opened)


def _as_frames(opened: OpenVideo, picked: Sequence[VideoFrame], total: int) -> Frames:
    if not picked:
        raise opened.refuse("no frame decodes")
    return Frames(to_rgb(opened.video, picked), total, opened.stream.frames)


class _Picker:
    """Keeps, of the frames that pass by, the newest one at or before each wanted position."""

    def __init__(self, wanted: Sequence[int]):
        self._wanted = sorted(set(wanted))
        # Of the frames after one wanted position and up to the next: its position and itself.
        self._newest: list[tuple[int, VideoFrame] | None] = [None] * len(self._wanted)
        self._first: VideoFrame | None = None

    def offer(self, position: int, frame: VideoFrame) -> None:
        self._first = self._first or frame
        interval = bisect_left(self._wanted, position)
        if interval < len(self._wanted):
            newest = self._newest[interval]
            if newest is None or newest[0] < position:
                self._newest[interval] = (position, frame)

    def picked(self, wanted: Sequence[int]) -> list[VideoFrame]:
        """A frame for each position: the first of all where none came before it, and none where there was none."""
        if self._first is None:
            return []
        current, frames = self._first, {}
        for position, newest in zip(self._wanted, self._newest, strict=True):
            current = newest[1] if newest else current
            frames[position] = current
        return [frames[position] for position in wanted]
