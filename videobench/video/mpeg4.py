"""The few MPEG-4 header fields that show, without decoding, whether each packet is one frame, and in which order.

After ISO/IEC 14496-2: 6.2.3 (video object layer), 6.2.4 (group of pictures), 6.2.5 (picture).
"""

from collections.abc import Iterator

from videobench.video.bits import Bits, DamagedError

START_CODE = b"\0\0\1"
LAYERS, GROUP, PICTURE = range(0x20, 0x30), 0xB3, 0xB6  # the byte after a start code
INTRA, BIDIRECTIONAL = 0, 2
DAY_S = 24 * 3600
HEADER_BYTES = 64  # more than the fields that are read here


def _units(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The byte after each start code, and the HEADER_BYTES that follow it."""
    at = data.find(START_CODE)
    while 0 <= at < len(data) - 3:
        yield data[at + 3], data[at + 4 : at + 4 + HEADER_BYTES]
        at = data.find(START_CODE, at + 3)


def _ticks_per_second(layer: bytes) -> int:
    bits = Bits(layer)
    bits.skip(9)  # random access, type
    if bits.flag():
        bits.skip(7)  # version, priority
    if bits.number(4) == 15:
        bits.skip(16)  # shape of a pixel
    if bits.flag():
        bits.skip(3)  # chroma, delay
        if bits.flag():
            bits.skip(79)  # rate buffer
    if bits.number(2) != 0:
        raise DamagedError("a picture that is not a rectangle")
    bits.marker()
    ticks = bits.number(16)
    bits.marker()
    if not ticks:
        raise DamagedError("time without ticks")
    return ticks


class Mpeg4Order:
    """Takes the packets of a stream in decode order, and returns the time at which each frame is shown."""

    def __init__(self, extradata: bytes):
        """`extradata` is FFmpeg's: units, or nothing; raises DamagedError."""
        self._ticks = 0  # per second
        self._second = self._second_before = 0  # of the two newest pictures that others refer to
        for kind, unit in _units(extradata):
            self._follow(kind, unit)

    def read(self, packet: bytes) -> tuple[bool, int]:
        """(whether it is intra, its time in ticks); raises DamagedError if it is not one coded picture."""
        pictures = []
        for kind, unit in _units(packet):
            self._follow(kind, unit)
            if kind == PICTURE:
                pictures.append(unit)
        if len(pictures) != 1:
            raise DamagedError(f"{len(pictures)} pictures")
        return self._place(pictures[0])

    def _follow(self, kind: int, unit: bytes) -> None:
        if kind in LAYERS:
            self._ticks = _ticks_per_second(unit)
        elif kind == GROUP:
            bits = Bits(unit)
            hours, minutes = bits.number(5), bits.number(6)
            bits.marker()
            second = hours * 3600 + minutes * 60 + bits.number(6)
            # A time of day: the one nearest to the time before, since a clip may run past midnight. FFmpeg writes
            # such times also where an edit list begins before time 0.
            self._second += (second - self._second + DAY_S // 2) % DAY_S - DAY_S // 2

    def _place(self, unit: bytes) -> tuple[bool, int]:
        if not self._ticks:
            raise DamagedError("no video object layer")
        bits = Bits(unit)
        kind, seconds = bits.number(2), bits.ones()
        bits.marker()
        tick = bits.number(max(1, (self._ticks - 1).bit_length()))
        bits.marker()
        if not bits.flag():
            raise DamagedError("a picture that is not coded")
        if kind == BIDIRECTIONAL:
            return False, (self._second_before + seconds) * self._ticks + tick
        self._second, self._second_before = self._second + seconds, self._second
        return kind == INTRA, self._second * self._ticks + tick
