"""Decoding only the groups of pictures that hold a wanted frame, bit-equal to decoding everything."""

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

# Any damage becomes an error: what the decoder would paint over it depends on frames that were not decoded.
STRICT_DECODER = {"err_detect": "crccheck+bitstream+buffer+explode"}

# A picture that ends early raises no error even so; the decoder only reports that it "conceals" the rest.
CONCEALMENT = "concealing"


class NotSparseError(Exception):
    """A group did not decode as it should: only decoding everything gives the frames."""


@dataclass
class Group:
    """Packets first to last, counted from the start of the file, hold the frames at these times."""

    first: int
    last: int
    wanted_pts: set[int] = field(default_factory=set)


def plan_groups(timeline: Timeline, wanted_pts: Sequence[int]) -> list[Group]:
    """The groups to decode, in file order. One starts at the last possible packet before the wanted frame in the
    order of decoding and of presentation: of an open group, the first frames need the group before."""
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
    """Groups without a common packet: the first frames of an open group lie behind its first packet."""
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
    """The wanted frames by their times; `packets` come from the start of the file; raises NotSparseError."""
    decoder = opened.stream.codec_context
    decoder.options = decoder.options | STRICT_DECODER
    found: dict[int, VideoFrame] = {}
    numbered = enumerate(packets)
    try:
        with _decoder_messages() as messages:
            decoder.open(strict=False)  # before skip_frame, which opening would reset
            for group in groups:
                decoder.flush_buffers()
                in_group = _between(numbered, group.first, group.last)
                found |= _decode_group(opened, decoder, in_group, group)
    except FFmpegError as error:
        raise NotSparseError(f"a group does not decode: {error}") from error
    if any(CONCEALMENT in text for _, _, text in messages):
        raise NotSparseError("a damaged picture was painted over")
    return found


@contextmanager
def _decoder_messages() -> Iterator[list[tuple[int, str, str]]]:
    """What FFmpeg reports of this thread's decoding: (level, part, text) each. Nothing of it is printed."""
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
    yield from decoder.decode(None)  # what it holds back for reordering
