"""What one packet holds, read from the first bits of its units and without decoding: for codecs where that is sure."""

from collections.abc import Callable
from dataclasses import dataclass

from videobench.video.bits import DamagedError
from videobench.video.h264 import H264Order
from videobench.video.mpeg4 import Mpeg4Order


@dataclass(frozen=True)
class Picture:
    """A packet that holds one picture, which is shown."""

    may_start: bool  # decoding may start here, if the container calls it a key frame too
    order: int = 0  # its place in the order of presentation, where the codec tells that


Reader = Callable[[bytes], Picture | None]  # None: no picture, a hidden one, several, or damage


def content_reader(codec: str, extradata: bytes) -> Reader | None:
    """A reader of the packets, which it takes in decode order, by FFmpeg's name of the codec; None where packets do not
    tell enough.

    Left out are codecs in which damage in a part that is not decoded could change the frames elsewhere, unseen: HEVC,
    VP8 and MPEG-2, whose decoders may end a picture early without an error and leave in the rest what the memory held
    before; and AV1, whose decoder drops a picture for damage anywhere in it, and sometimes the ones after it."""
    try:
        if codec == "h264":
            return _reader_of(H264Order(extradata))
        if codec == "mpeg4":
            return _reader_of(Mpeg4Order(extradata))
    except DamagedError:
        return None
    return _read_vp9 if codec == "vp9" else None


def _reader_of(stream: H264Order | Mpeg4Order) -> Reader:
    def read(packet: bytes) -> Picture | None:
        try:
            return Picture(*stream.read(packet))
        except DamagedError:
            return None

    return read


def _read_vp9(packet: bytes) -> Picture | None:
    shown = sum(_vp9_is_shown(packet[at]) for at in _vp9_frame_starts(packet) if at < len(packet))
    return Picture(True) if shown == 1 else None


def _vp9_frame_starts(packet: bytes) -> list[int]:
    """Where the frames of a packet begin: one, or as many as the index at the end of a "superframe" says."""
    last = packet[-1]
    width = (last >> 3 & 3) + 1
    index_bytes = 2 + width * ((last & 7) + 1)
    if last & 0xE0 != 0xC0 or len(packet) < index_bytes or packet[-index_bytes] != last:
        return [0]
    starts, at = [], 0
    for entry in range(len(packet) - index_bytes + 1, len(packet) - 1, width):
        starts.append(at)
        at += int.from_bytes(packet[entry : entry + width], "little")
    return starts


def _vp9_is_shown(first: int) -> bool:
    """From the first byte of a frame: marker 10, two bits of profile, show existing, frame type, show frame."""
    if first & 0x30 == 0x30:
        first = first << 1 & 0xFF  # profile 3 has a reserved bit more
    return bool(first & 0x08 or first & 0x02)
