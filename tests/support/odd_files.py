"""Changes to the bytes of video files that no writer makes."""

import random
import struct


def damaged(whole: bytes, seed: int) -> bytes:
    """Set one to eight bytes at random places to random values."""
    rng = random.Random(seed)
    changed = bytearray(whole)
    for _ in range(rng.choice([1, 1, 1, 3, 8])):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def with_rotation(mp4: bytes) -> bytes:
    """Set the display matrix of the first track to a quarter turn."""
    at = mp4.index(b"tkhd") + 4 + 40  # version 0: the matrix follows 40 bytes of other fields
    one, minus_one, last = 0x10000, -0x10000 & 0xFFFFFFFF, 0x40000000
    matrix = b"".join(each.to_bytes(4, "big") for each in (0, one, 0, minus_one, 0, 0, 0, 0, last))
    return mp4[:at] + matrix + mp4[at + len(matrix) :]


def replaced_once(whole: bytes, packet: bytes, at: int, change: bytes) -> bytes:
    """Write `change` `at` bytes after the start of `packet`, which occurs once."""
    assert whole.count(packet) == 1
    start = whole.index(packet) + at
    return whole[:start] + change + whole[start + len(change) :]


def with_cover_first(mp4: bytes) -> bytes:
    """Move the box with the cover picture before the tracks, so that the cover becomes the first stream."""
    moov, end = _box(mp4, b"moov")
    boxes, at = [], moov + 8
    while at < end:
        length = int.from_bytes(mp4[at : at + 4], "big")
        boxes.append(mp4[at : at + length])
        at += length
    boxes.sort(key=lambda box: (b"mvhd", b"udta").index(box[4:8]) if box[4:8] in (b"mvhd", b"udta") else 2)
    return mp4[: moov + 8] + b"".join(boxes) + mp4[end:]


def with_edits(mp4: bytes, edits: list[tuple[float, float | None]]) -> bytes:
    """Replace the list of edits of the only track: (seconds, where in the media they begin; None shows nothing).

    The boxes behind the track must not be pointed into: `moov` is the last one, or nothing grows."""
    movie, track = _box(mp4, b"moov"), _box(mp4, b"moov", b"trak")
    movie_scale = struct.unpack_from(">I", mp4, _box(mp4, b"moov", b"mvhd")[0] + 20)[0]  # version 0
    media_scale = struct.unpack_from(">I", mp4, _box(mp4, b"moov", b"trak", b"mdia", b"mdhd")[0] + 20)[0]
    entries = b"".join(
        struct.pack(">IiI", round(length * movie_scale), -1 if start is None else round(start * media_scale), 0x10000)
        for length, start in edits
    )
    elst = struct.pack(">I4sII", 16 + len(entries), b"elst", 0, len(edits)) + entries
    edts = struct.pack(">I4s", 8 + len(elst), b"edts") + elst
    start, end = _box(mp4, b"moov", b"trak", b"edts")
    changed = bytearray(mp4[:start] + edts + mp4[end:])
    for at, until in (movie, track):
        struct.pack_into(">I", changed, at, until - at + len(edts) - (end - start))
    return bytes(changed)


def _box(mp4: bytes, *names: bytes) -> tuple[int, int]:
    """Find where the box at this path of names begins and ends."""
    at, end = -8, len(mp4)
    for name in names:
        at += 8
        while mp4[at + 4 : at + 8] != name:
            at += int.from_bytes(mp4[at : at + 4], "big")
        end = at + int.from_bytes(mp4[at : at + 4], "big")
    return at, end
