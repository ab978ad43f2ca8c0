"""The order of a video's frames, read from its packets without decoding one."""

from array import array
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from av.error import FFmpegError

from videobench.video.bits import DamagedError
from videobench.video.container import OpenVideo, VideoPacket, demux
from videobench.video.h264 import H264Order
from videobench.video.mpeg4 import Mpeg4Order

MAX_HELD_BYTES = 64_000_000
PACKET_OVERHEAD_BYTES = 500  # of the objects around a packet's data
# In others the times of a stream with B-frames are missing or guessed.
REORDERING_CONTAINERS = ("mov", "matroska")

PacketOrder: TypeAlias = H264Order | Mpeg4Order
# By FFmpeg's name of the codec: the codecs whose packet headers identify the frames. Left out are those in which damage
# to a part that is not decoded could change the frames elsewhere, unseen: HEVC, VP8 and MPEG-2, whose decoders may end
# a picture early without an error and leave in the rest what the memory held before; and AV1, whose decoder drops a
# picture for damage anywhere in it, and sometimes the ones after it. VP9 gains too little (6 %) to be worth a reader.
PACKET_ORDERS: dict[str, type[PacketOrder]] = {"h264": H264Order, "mpeg4": Mpeg4Order}


class NoTimelineError(Exception):
    """The packets do not identify the frames; only decoding everything does."""


@dataclass(frozen=True)
class Timeline:
    """Every packet of a video stream; each shown one is one frame. Times are in the stream's time base."""

    pts: np.ndarray  # int64, of every packet in decode order
    shown_pts: np.ndarray  # int64, of the shown packets in presentation order
    starts: np.ndarray  # numbers of packets, ascending from 0, at which decoding may start
    packets: list[VideoPacket] | None  # all, in decode order; None where they were not to be held or are too large

    @property
    def total(self) -> int:
        return len(self.shown_pts)


class _Notes:
    """What is noted of each packet, in decode order."""

    def __init__(self) -> None:
        self.pts = array("q")
        self.order = array("q")  # the place in presentation order, by the codec's own headers
        self.is_shown = array("b")
        self.starts: list[int] = []

    def add(self, packet: VideoPacket, packet_order: PacketOrder) -> None:
        if packet.pts is None or packet.is_corrupt:
            raise NoTimelineError(f"packet {len(self.pts)} has no time or is damaged")
        may_start, place = packet_order.read(bytes(packet))
        if packet.is_keyframe and may_start:
            self.starts.append(len(self.pts))
        self.pts.append(packet.pts)
        self.is_shown.append(not packet.is_discard)
        self.order.append(place)


def may_have_timeline(opened: OpenVideo) -> bool:
    """Whether packets of this codec in this container may identify the frames; reads no packet."""
    context = opened.stream.codec_context
    in_known_container = any(name in opened.container.format.name for name in REORDERING_CONTAINERS)
    return context.codec.canonical_name in PACKET_ORDERS and (in_known_container or not context.reorder_depth)


def read_timeline(opened: OpenVideo, hold_packets: bool) -> Timeline:
    """Demux to the end, holding up to MAX_HELD_BYTES of packets; raises NoTimelineError."""
    if not may_have_timeline(opened):
        raise NoTimelineError("packets of this codec in this container do not identify the frames")
    context = opened.stream.codec_context
    notes, held_bytes = _Notes(), 0
    packets: list[VideoPacket] | None = [] if hold_packets else None
    try:
        packet_order = PACKET_ORDERS[context.codec.canonical_name](context.extradata or b"")
        for packet in demux(opened):
            notes.add(packet, packet_order)
            held_bytes += packet.size + PACKET_OVERHEAD_BYTES
            if held_bytes > MAX_HELD_BYTES:
                packets = None
            if packets is not None:
                packets.append(packet)
    except (DamagedError, FFmpegError) as error:
        raise NoTimelineError(f"packet {len(notes.pts)} cannot be read: {error}") from error
    timeline = _build(notes, packets)
    _check_order(timeline, np.array(notes.order, np.int64))
    _check_reordering(timeline, context.reorder_depth)
    return timeline


def _build(notes: _Notes, packets: list[VideoPacket] | None) -> Timeline:
    pts = np.array(notes.pts, np.int64)
    shown_pts = np.sort(pts[np.array(notes.is_shown, bool)])
    if not len(shown_pts):
        raise NoTimelineError("no packet is shown")
    if notes.starts[:1] != [0] or shown_pts[0] < pts[0]:
        raise NoTimelineError("the first packet does not start the video")
    return Timeline(pts, shown_pts, np.array(notes.starts, np.int64), packets)


def _check_order(timeline: Timeline, order: np.ndarray) -> None:
    """Raises NoTimelineError where the times contradict each other, or the order of the codec."""
    if (np.diff(timeline.shown_pts) == 0).any():
        raise NoTimelineError("two packets are shown at one time")
    newest_before = np.maximum.accumulate(timeline.pts)[timeline.starts[1:] - 1]
    if (newest_before >= timeline.pts[timeline.starts[1:]]).any():
        raise NoTimelineError("a group of pictures is shown before the one that precedes it")
    if (np.argsort(order, kind="stable") != np.argsort(timeline.pts, kind="stable")).any():
        raise NoTimelineError("the codec states another order than the times")


def _check_reordering(timeline: Timeline, reorder_depth: int) -> None:
    """Raises NoTimelineError where the times do not fit how far the decoder reorders."""
    in_decode_order = bool((np.diff(timeline.pts) > 0).all())
    if reorder_depth == 0 and not in_decode_order:
        raise NoTimelineError("times go back in a stream without B-frames")
    if reorder_depth > 0 and in_decode_order and len(timeline.pts) > reorder_depth:
        raise NoTimelineError("times are in decode order in a stream with B-frames")
