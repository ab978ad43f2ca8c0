"""The order of a video's frames, told from its packets without decoding one."""

from array import array
from dataclasses import dataclass

import numpy as np
from av.error import FFmpegError

from videobench.video.container import OpenVideo, VideoPacket, demux
from videobench.video.packets import Reader, content_reader

MAX_HELD_BYTES = 64_000_000
PACKET_OVERHEAD_BYTES = 500  # of the objects around a packet's data
# In others the times of a stream with B-frames are missing or guessed.
REORDERING_CONTAINERS = ("mov", "matroska")


class NoTimelineError(Exception):
    """The packets do not tell the frames: only decoding everything does."""


@dataclass(frozen=True)
class Timeline:
    """Each shown packet is one frame; times are in the units of the stream."""

    pts: np.ndarray  # int64, of every packet in decode order
    shown_pts: np.ndarray  # int64, of the shown packets in presentation order
    starts: np.ndarray  # numbers of packets, ascending from 0, at which decoding may start
    packets: list[VideoPacket] | None  # all of them, None where they are not to be held or are too many

    @property
    def total(self) -> int:
        return len(self.shown_pts)


class _Notes:
    """What is noted of each packet, in decode order."""

    def __init__(self) -> None:
        self.pts = array("q")
        self.order = array("q")  # of presentation, where the codec tells it, else 0
        self.is_shown = array("b")
        self.starts: list[int] = []

    def add(self, packet: VideoPacket, read_picture: Reader) -> None:
        picture = read_picture(bytes(packet))
        if picture is None or packet.pts is None or packet.is_corrupt:
            raise NoTimelineError(f"packet {len(self.pts)} does not tell its frame")
        if packet.is_keyframe and picture.may_start:
            self.starts.append(len(self.pts))
        self.pts.append(packet.pts)
        self.is_shown.append(not packet.is_discard)
        self.order.append(picture.order)


def codec_of(opened: OpenVideo) -> str:
    """FFmpeg's name of the codec, whichever of its decoders is used."""
    return str(opened.stream.codec_context.codec.canonical_name)


def tells_frames(opened: OpenVideo) -> bool:
    """Whether packets of this codec in this container tell their frames, as far as is known without reading one."""
    reorders = opened.stream.codec_context.reorder_depth > 0
    in_known_container = any(name in opened.container.format.name for name in REORDERING_CONTAINERS)
    return _reader(opened) is not None and (in_known_container or not reorders)


def _reader(opened: OpenVideo) -> Reader | None:
    return content_reader(codec_of(opened), opened.stream.codec_context.extradata or b"")


def read_timeline(opened: OpenVideo, hold_packets: bool) -> Timeline:
    """Demuxes to the end, holding up to MAX_HELD_BYTES of packets; raises NoTimelineError."""
    read_picture = _reader(opened)
    if read_picture is None or not tells_frames(opened):
        raise NoTimelineError(f"packets of {codec_of(opened)} in this container do not tell their frames")
    notes, held_bytes = _Notes(), 0
    packets: list[VideoPacket] | None = [] if hold_packets else None
    try:
        for packet in demux(opened):
            notes.add(packet, read_picture)
            held_bytes += packet.size + PACKET_OVERHEAD_BYTES
            if held_bytes > MAX_HELD_BYTES:
                packets = None
            if packets is not None:
                packets.append(packet)
    except FFmpegError as error:
        raise NoTimelineError(f"demuxing fails: {error}") from error
    timeline = _build(notes, packets)
    _check_order(timeline, np.array(notes.order, np.int64))
    _check_reordering(timeline, opened.stream.codec_context.reorder_depth)
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
    if order.any() and (np.argsort(order, kind="stable") != np.argsort(timeline.pts, kind="stable")).any():
        raise NoTimelineError("the codec states another order than the times")


def _check_reordering(timeline: Timeline, reorder_depth: int) -> None:
    """Raises NoTimelineError where the times do not fit to how far the decoder reorders."""
    in_decode_order = bool((np.diff(timeline.pts) > 0).all())
    if reorder_depth == 0 and not in_decode_order:
        raise NoTimelineError("times go back in a stream without B-frames")
    if reorder_depth > 0 and in_decode_order and len(timeline.pts) > reorder_depth:
        raise NoTimelineError("times follow the order of decoding in a stream with B-frames")
