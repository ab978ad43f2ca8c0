"""Changes to the bytes of video files that no writer makes."""

import random


def damaged(whole: bytes, seed: int) -> bytes:
    """One to eight bytes at random places set to random values."""
    rng = random.Random(seed)
    changed = bytearray(whole)
    for _ in range(rng.choice([1, 1, 1, 3, 8])):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def with_rotation(mp4: bytes) -> bytes:
    """The display matrix of the first track set to a quarter turn."""
    at = mp4.index(b"tkhd") + 4 + 40  # version 0: the matrix follows 40 bytes of other fields
    one, minus_one, last = 0x10000, -0x10000 & 0xFFFFFFFF, 0x40000000
    matrix = b"".join(each.to_bytes(4, "big") for each in (0, one, 0, minus_one, 0, 0, 0, 0, last))
    return mp4[:at] + matrix + mp4[at + len(matrix) :]


def replaced_once(whole: bytes, packet: bytes, at: int, change: bytes) -> bytes:
    """`change` written `at` bytes after the start of the only place of `packet`."""
    assert whole.count(packet) == 1
    start = whole.index(packet) + at
    return whole[:start] + change + whole[start + len(change) :]


def with_cover_first(mp4: bytes) -> bytes:
    """The box with the cover picture moved before the tracks, so that the cover becomes the first stream."""
    moov = mp4.index(b"moov") - 4
    end = moov + int.from_bytes(mp4[moov : moov + 4], "big")
    boxes, at = [], moov + 8
    while at < end:
        length = int.from_bytes(mp4[at : at + 4], "big")
        boxes.append(mp4[at : at + length])
        at += length
    boxes.sort(key=lambda box: (b"mvhd", b"udta").index(box[4:8]) if box[4:8] in (b"mvhd", b"udta") else 2)
    return mp4[: moov + 8] + b"".join(boxes) + mp4[end:]
