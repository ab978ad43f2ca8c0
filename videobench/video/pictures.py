"""Pictures as files of an image format: PNG without loss, JPEG by PyAV's encoder."""

import struct
import zlib

import av
import numpy as np
from av.video.frame import VideoFrame

PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_LEVEL = 6  # of zlib; frames of a video hardly become smaller with more


def encode_png(picture: np.ndarray) -> bytes:
    """uint8 RGB (height, width, 3) -> a PNG file that gives the same bytes."""
    height, width, _ = picture.shape
    rows = np.empty((height, 1 + 3 * width), np.uint8)  # before each row its filter
    left = np.zeros_like(picture)
    left[:, 1:] = picture[:, :-1]
    rows[:, 0] = 1  # each byte less that of the pixel to its left
    rows[:, 1:] = (picture - left).reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB, not interlaced
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), PNG_LEVEL)), (b"IEND", b""))
    return PNG_START + b"".join(map(_png_part, *zip(*parts, strict=True)))


def _png_part(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def encode_jpeg(picture: np.ndarray, quantiser: int, pixel_format: str) -> bytes:
    """uint8 RGB (height, width, 3) -> a JPEG file. Quantiser 2 is best, 31 smallest; "yuvj420p", which halves the
    colours' resolution, takes even sides only, "yuvj444p" any."""
    codec = av.CodecContext.create("mjpeg", "w")
    codec.height, codec.width = picture.shape[:2]
    codec.pix_fmt = pixel_format
    codec.time_base = 1
    codec.options = {"qmin": str(quantiser), "qmax": str(quantiser)}
    frame = VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixel_format)
    return b"".join(bytes(packet) for packet in [*codec.encode(frame), *codec.encode(None)])
