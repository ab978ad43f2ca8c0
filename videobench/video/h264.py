"""The few H.264 header fields that show, without decoding, whether each packet is one frame, and in which order.

After ITU-T H.264: 7.3.2.1 (sequence parameter set), 7.3.3 (slice header), 8.2.1 (picture order count).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from videobench.video.bits import Bits, DamagedError

SLICE, IDR_SLICE, PARAMETERS = 1, 5, 7  # types of units
START_CODE = b"\0\0\1"
PROFILES_WITH_CHROMA = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}
HEADER_BYTES = 24  # of a slice: the fields that are read here take fewer than 16
PARAMETER_BYTES = 4096  # of a sequence parameter set: all its scaling lists take about 1000
PERIOD = 1 << 40  # above any picture order count


def _bits_of(unit: bytes) -> Bits:
    """Without the byte 3 that, after two zeros, prevents start codes within the data."""
    return Bits(unit.replace(b"\0\0\3", b"\0\0"))


@dataclass(frozen=True)
class SequenceParameters:
    """The fields that are needed to read a slice header."""

    frame_num_bits: int
    poc_type: int  # 0: the order is stated; 2: the order of decoding
    poc_bits: int
    separate_planes: bool
    frames_only: bool


def parse_sequence_parameters(unit: bytes) -> SequenceParameters:
    """From a unit of type 7, including its first byte; raises DamagedError, also for what is not supported here."""
    bits = _bits_of(unit[1:PARAMETER_BYTES])
    profile = bits.number(8)
    bits.number(16)  # constraints, level
    bits.exp_golomb()  # its number
    separate_planes = False
    if profile in PROFILES_WITH_CHROMA:
        chroma_format = bits.exp_golomb()
        separate_planes = chroma_format == 3 and bits.flag()
        bits.exp_golomb(), bits.exp_golomb(), bits.flag()  # depths, bypass
        if bits.flag():
            _skip_scaling_lists(bits, 12 if chroma_format == 3 else 8)
    frame_num_bits = bits.exp_golomb() + 4
    poc_type = bits.exp_golomb()
    poc_bits = bits.exp_golomb() + 4 if poc_type == 0 else 0
    if poc_type not in (0, 2) or frame_num_bits > 16 or poc_bits > 16:
        raise DamagedError("an order of pictures that is not supported")
    bits.exp_golomb()  # reference frames
    if bits.flag():
        raise DamagedError("frame numbers may have gaps")
    bits.exp_golomb(), bits.exp_golomb()  # width, height
    return SequenceParameters(frame_num_bits, poc_type, poc_bits, separate_planes, bits.flag())


def _skip_scaling_lists(bits: Bits, count: int) -> None:
    for index in range(count):
        last = following = 8
        for _ in range((16 if index < 6 else 64) if bits.flag() else 0):
            if following:
                following = (last + bits.signed_exp_golomb()) % 256
            last = following or last


class H264Order:
    """Takes the packets of a stream in decode order, and returns the place in presentation order of each frame."""

    def __init__(self, extradata: bytes):
        """`extradata` is FFmpeg's: an "avcC" box, or units between start codes, or nothing; raises DamagedError."""
        self._parameters: SequenceParameters | None = None
        self._parameters_unit = b""
        self._length_bytes = 0
        if len(extradata) > 8 and extradata[0] == 1:
            if extradata[5] & 31 != 1:
                raise DamagedError("several sequence parameter sets")
            self._length_bytes = (extradata[4] & 3) + 1
            length = int.from_bytes(extradata[6:8], "big")
            self._take_parameters(extradata[8 : 8 + length])
        self._period = -1  # counts the IDR pictures
        self._frame_num = 0  # of the newest frame that others refer to
        self._poc = 0  # picture order count of the same
        self._decoded = 0  # in this period

    def read(self, packet: bytes) -> tuple[bool, int]:
        """(whether it is an IDR picture, its place in the order); raises DamagedError if it is not one whole frame."""
        picture = b""
        for unit in self._units(packet):
            kind = unit[0] & 31
            if kind == PARAMETERS:
                self._take_parameters(unit)
            elif kind in (SLICE, IDR_SLICE):
                starts_picture = unit[1:2] >= b"\x80"  # the first bit: begins at macroblock 0
                if starts_picture == bool(picture):
                    raise DamagedError("a picture without a start, or two of them")
                picture = picture or unit
        if not picture:
            raise DamagedError("no picture")
        return picture[0] & 31 == IDR_SLICE, self._place(picture)

    def _take_parameters(self, unit: bytes) -> None:
        if unit != self._parameters_unit:
            self._parameters, self._parameters_unit = parse_sequence_parameters(unit), unit

    def _units(self, packet: bytes) -> Iterator[bytes]:
        """The units, by their stated lengths or between start codes; raises DamagedError."""
        at = 0 if self._length_bytes else packet.find(START_CODE)
        while 0 <= at < len(packet):
            if self._length_bytes:
                start = at + self._length_bytes
                at = end = start + int.from_bytes(packet[at:start], "big")
            else:
                start, at = at + 3, packet.find(START_CODE, at + 3)
                end = at if at >= 0 else len(packet)
            if not start < end <= len(packet) or packet[start] & 0x80:
                raise DamagedError("a unit without an end or a type")
            yield packet[start:end]

    def _place(self, unit: bytes) -> int:
        known = self._parameters
        if known is None:
            raise DamagedError("no sequence parameters")
        is_idr, is_reference = unit[0] & 31 == IDR_SLICE, unit[0] & 0x60 != 0
        bits = _bits_of(unit[1:HEADER_BYTES])
        bits.exp_golomb()  # first macroblock
        if bits.exp_golomb() > 9 or bits.exp_golomb() > 255:
            raise DamagedError("no such slice type or picture parameters")
        bits.number(2 if known.separate_planes else 0)
        frame_num = bits.number(known.frame_num_bits)
        if not known.frames_only and bits.flag():
            raise DamagedError("fields are not supported")
        if is_idr:
            bits.exp_golomb()  # its number
            self._period, self._decoded, self._poc = self._period + 1, 0, 0
        expected = 0 if is_idr else (self._frame_num + 1) % (1 << known.frame_num_bits)
        if frame_num != expected:
            raise DamagedError("a frame number is not the next one")
        poc = self._next_poc(bits.number(known.poc_bits), known)
        self._decoded += 1
        if is_reference:
            self._frame_num, self._poc = frame_num, poc
        return self._period * PERIOD + poc

    def _next_poc(self, low_bits: int, known: SequenceParameters) -> int:
        """The picture order count nearest to the one before that has the stated low bits (8.2.1.1)."""
        if known.poc_type == 2:
            return self._decoded
        half = 1 << known.poc_bits >> 1
        return self._poc + half - (self._poc + half - low_bits) % (2 * half)
