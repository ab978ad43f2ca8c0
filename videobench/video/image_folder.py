"""A folder of numbered images as a video: TVQA and others are handed round so."""

import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

import imagesize
from av.video.frame import VideoFrame

from videobench.errors import VideoError
from videobench.video.container import check_size, decode_tolerantly, open_video

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
MAX_IMAGES = 200_000  # two hours at 25 frames a second; reading the header of each takes some 50 microseconds


def list_images(folder: Path) -> list[Path]:
    """The images in natural order ("2.jpg" before "10.jpg"); raises VideoError unless all are of one allowed size.

    Only their headers are read."""
    images = images_in(folder)
    if not images:
        raise VideoError(f"{folder}: the folder holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    if len(images) > MAX_IMAGES:
        raise VideoError(f"{folder}: the folder holds {len(images)} images, more than {MAX_IMAGES}")
    first_size = _image_size(images[0])
    for image in images:
        if _image_size(image) != first_size:
            raise VideoError(
                f"{image}: is {_as_text(_image_size(image))}, but {images[0].name} is {_as_text(first_size)}"
            )
    return images


def images_in(folder: Path) -> list[Path]:
    """The images in natural order, unchecked. Raises OSError."""
    return sorted(filter(_is_image, folder.iterdir()), key=_natural_key)


def decode_images(images: Iterable[Path]) -> Iterator[VideoFrame]:
    """Each image as it is asked for; repeats of one are the same frame. Raises VideoError, naming the image."""
    for image, repeats in groupby(images):
        with open_video(image) as opened:
            frame = next(decode_tolerantly(opened), None)
            if frame is None:
                raise opened.refuse("the image does not decode")
        yield from (frame for _ in repeats)


def _is_image(path: Path) -> bool:
    # Hidden files are other systems' notes on the images ("._1.jpg"), not images.
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _natural_key(path: Path) -> tuple[list[tuple[bool, int, str]], str]:
    """Digits count as numbers and come first; the name itself decides between "1.jpg" and "01.jpg"."""
    parts = re.findall(r"[0-9]+|[^0-9]+", path.name)
    return [(False, int(part), "") if part[0] in "0123456789" else (True, 0, part) for part in parts], path.name


def _image_size(image: Path) -> tuple[int, int]:
    """(width, height) from the header, within the limits."""
    try:
        width, height = imagesize.get(str(image))
    except Exception as error:  # whatever a hostile header makes of the reader
        raise VideoError(f"{image}: its header cannot be read: {type(error).__name__}: {error}") from error
    if width <= 0 or height <= 0:
        raise VideoError(f"{image}: its header cannot be read as an image's")
    check_size(image, width, height)
    return width, height


def _as_text(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
