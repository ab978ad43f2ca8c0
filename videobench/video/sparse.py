"""Decode only the groups of pictures that hold a wanted frame, bit-equal to decoding everything."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import av.logging
import numpy as np
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from videobench.video.container import OpenVideo, VideoPacket
from videobench.video.timeline import Timeline

# Any damage becomes an error: what the decoder would conceal it with depends on frames that were not decoded.
STRICT_DECODER = {"err_detect": "crccheck+bitstream+buffer+explode"}

# Even so, a picture that ends early raises no error; the decoder only logs that it is "concealing" the rest.
CONCEALMENT = "concealing"


class NotSparseError(Exception):
    """A group did not decode as it should; the frames require decoding everything."""


@dataclass
class Group:
    """A run of packets to decode. Times are in the stream's time base."""

    first: int  # index of a packet in the file, at which decoding may start
    last: int
    wanted_pts: set[int] = field(default_factory=set)  # times of the wanted frames that these packets hold


def plan_groups(timeline: Timeline, wanted_pts: Sequence[int]) -> list[Group]:
    """The groups to decode, in file order. Each starts at the last possible packet that precedes the wanted frame in
    decode order and in presentation order: the first frames of an open group need the group before it."""
    indices = np.flatnonzero(np.isin(timeline.pts, wanted_pts)).tolist()
    index_of_pts = {int(timeline.pts[index]): index for index in indices}
    starts = timeline.starts.tolist()
    groups: dict[int, Group] = {}
    for pts in wanted_pts:
        index = index_of_pts[pts]
        at = bisect_right(starts, index) - 1
        while timeline.pts[starts[at]] > pts:
            at -= 1
        group = groups.setdefault(starts[at], Group(starts[at], index))
        group.last = max(group.last, index)
        group.wanted_pts.add(pts)
    return _merge_overlapping([groups[first] for first in sorted(groups)])


def _merge_overlapping(groups: Sequence[Group]) -> list[Group]:
    """Groups without a common packet: the first frames of an open group come after its first packet."""
    merged: list[Group] = []
    for group in groups:
        if merged and group.first <= merged[-1].last:
            merged[-1].last = max(merged[-1].last, group.last)
            merged[-1].wanted_pts |= group.wanted_pts
        else:
            merged.append(group)
    return merged


def _between(packets: Iterator[tuple[int, VideoPacket]], first: int, last: int) -> Iterator[VideoPacket]:
    for index, packet in packets:
        if index >= first:
            yield packet
        if index >= last:
            return


def decode_groups(opened: OpenVideo, packets: Iterable[VideoPacket], groups: Sequence[Group]) -> dict[int, VideoFrame]:
    """The wanted frames by their times; `packets` are those of the whole file. Raises NotSparseError."""
    decoder = opened.stream.codec_context
    decoder.options = decoder.options | STRICT_DECODER
    found: dict[int, VideoFrame] = {}
    numbered = enumerate(packets)
    try:
        with _decoder_messages() as messages:
            decoder.open(strict=False)  # before skip_frame is set, which opening resets
            for group in groups:
                decoder.flush_buffers()
                in_group = _between(numbered, group.first, group.last)
                found |= _decode_group(opened, decoder, in_group, group)
    except FFmpegError as error:
        raise NotSparseError(f"a group does not decode: {error}") from error
    if any(CONCEALMENT in text for _, _, text in messages):
        raise NotSparseError("a damaged picture was concealed")
    return found


@contextmanager
def _decoder_messages() -> Iterator[list[tuple[int, str, str]]]:
    """FFmpeg's log messages about this thread's decoding, each (level, part, text); nothing is printed."""
    level, skips_repeated = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.INFO)
    av.logging.set_skip_repeated(False)
    try:
        with av.logging.Capture() as messages:
            yield messages
    finally:
        av.logging.set_level(level)
        av.logging.set_skip_repeated(skips_repeated)


def _decode_group(
    opened: OpenVideo, decoder: VideoCodecContext, packets: Iterator[VideoPacket], group: Group
) -> dict[int, VideoFrame]:
    found: dict[int, VideoFrame] = {}
    newest = None
    for frame in _frames_of_group(opened, decoder, packets, group):
        if frame.pts is None or frame.is_corrupt or (newest is not None and frame.pts <= newest):
            raise NotSparseError(f"a frame at {frame.pts} follows one at {newest}")
        newest = frame.pts
        if frame.pts in group.wanted_pts:
            found[frame.pts] = frame
            if len(found) == len(group.wanted_pts):
                return found
    raise NotSparseError(f"{len(group.wanted_pts) - len(found)} wanted frames did not come out")


def _frames_of_group(
    opened: OpenVideo, decoder: VideoCodecContext, packets: Iterator[VideoPacket], group: Group
) -> Iterator[VideoFrame]:
    for packet in packets:
        opened.check_time()
        # Both codecs of timeline.py allow skipping frames that no other frame refers to.
        decoder.skip_frame = "DEFAULT" if packet.pts in group.wanted_pts else "NONREF"
        yield from decoder.decode(packet)
    yield from decoder.decode(None)  # frames held back for reordering
