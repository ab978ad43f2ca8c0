"""Read the headers of a video's packets bit by bit."""


class DamagedError(Exception):
    """A field of a header is missing, impossible, or of a kind that this suite does not read."""


class Bits:
    """Reads `data` from its first bit; raises DamagedError where it ends."""

    def __init__(self, data: bytes):
        self._bits = bin(int.from_bytes(b"\1" + data, "big"))[3:]
        self._at = 0

    def number(self, width: int) -> int:
        """An unsigned number of `width` bits."""
        field = self._bits[self._at : self._at + width]
        self._at += width
        if len(field) < width:
            raise DamagedError("a header ends early")
        return int(field, 2) if width else 0

    def flag(self) -> bool:
        return self.number(1) == 1

    def skip(self, width: int) -> None:
        self._at += width

    def marker(self) -> None:
        """A bit that is always 1."""
        if not self.flag():
            raise DamagedError("a marker is missing")

    def ones(self) -> int:
        """How many 1 come before the next 0, which is skipped."""
        zero = self._bits.find("0", self._at)
        if zero < 0:
            raise DamagedError("a header ends early")
        count, self._at = zero - self._at, zero + 1
        return count

    def exp_golomb(self) -> int:
        """An unsigned Exp-Golomb code, ue(v) in ITU-T H.264, 9.1."""
        zeros = self._bits.find("1", self._at) - self._at
        if not 0 <= zeros < 32:
            raise DamagedError("a number of more than 32 bits")
        self._at += zeros
        return self.number(zeros + 1) - 1

    def signed_exp_golomb(self) -> int:
        """A signed one, se(v)."""
        value = self.exp_golomb()
        return (value + 1) // 2 if value % 2 else -(value // 2)
