"""Encode pictures as PNG and JPEG files."""

import av
import numpy as np
from av.video.frame import VideoFrame


def encode_png(picture: np.ndarray) -> bytes:
    """Encode uint8 RGB (height, width, 3) as a PNG file, without loss."""
    return _encode(picture, "png", "rgb24", {})


def encode_jpeg(picture: np.ndarray, quantiser: int) -> bytes:
    """Encode uint8 RGB (height, width, 3) with even sides as a JPEG file. Quantiser 2 is best, 31 smallest."""
    return _encode(picture, "mjpeg", "yuvj420p", {"qmin": str(quantiser), "qmax": str(quantiser)})


def _encode(picture: np.ndarray, encoder: str, pixel_format: str, options: dict[str, str]) -> bytes:
    codec = av.CodecContext.create(encoder, "w")
    codec.height, codec.width = picture.shape[:2]
    codec.pix_fmt = pixel_format
    codec.time_base = 1
    codec.options = options
    frame = VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixel_format)
    return b"".join(bytes(packet) for packet in [*codec.encode(frame), *codec.encode(None)])
