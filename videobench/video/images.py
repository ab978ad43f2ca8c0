"""Read a folder of numbered images as a video, the form in which TVQA and other sets are distributed."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

import av
import imagesize
import numpy as np
from av.video.frame import VideoFrame

from videobench.errors import VideoError
from videobench.video.container import check_size, decode_tolerantly, open_video
from videobench.video.identity import IMAGE_SUFFIXES, images_in

MAX_IMAGES = 200_000  # two hours at 25 frames per second; reading one header takes about 50 microseconds


def list_images(folder: Path) -> list[Path]:
    """List images in natural order ("2.jpg" before "10.jpg") and check their headers; VideoError if there are none, or
    if they differ in size or are over a limit."""
    images = images_in(folder)
    if not images:
        raise VideoError(f"{folder}: the folder holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    if len(images) > MAX_IMAGES:
        raise VideoError(f"{folder}: the folder holds {len(images)} images, more than {MAX_IMAGES}")
    first_size = _image_size(images[0])
    for image in images:
        if (size := _image_size(image)) != first_size:
            found, wanted = ("{} x {}".format(*each) for each in (size, first_size))
            raise VideoError(f"{image}: is {found}, but {images[0].name} is {wanted}")
    return images


def decode_images(images: Iterable[Path]) -> Iterator[VideoFrame]:
    """Decode images as they are requested; repeats are the same object. Raises VideoError, naming the image."""
    for image, repeats in groupby(images):
        with open_video(image) as opened:
            frame = next(decode_tolerantly(opened), None)
            if frame is None:
                raise opened.refuse("the image does not decode")
        yield from (frame for _ in repeats)


def _image_size(image: Path) -> tuple[int, int]:
    """Read (width, height) in pixels from the header; VideoError if it is not an image or over a limit."""
    try:
        width, height = imagesize.get(str(image))
    except Exception as error:  # a hostile header may raise anything
        raise VideoError(f"{image}: its header cannot be read: {type(error).__name__}: {error}") from error
    if width <= 0 or height <= 0:
        raise VideoError(f"{image}: its header cannot be read as that of an image")
    check_size(image, width, height)
    return width, height


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
