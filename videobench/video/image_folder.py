"""A folder of numbered images as a video: TVQA and other sets are distributed so."""

import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

import imagesize
from av.video.frame import VideoFrame

from videobench.errors import VideoError
from videobench.video.container import check_size, decode_tolerantly, open_video

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
MAX_IMAGES = 200_000  # two hours at 25 frames per second; reading one header takes about 50 microseconds


def list_images(folder: Path) -> list[Path]:
    """The images in natural order ("2.jpg" before "10.jpg"); reads only their headers.

    Raises VideoError where there is none, or they differ in size or are over a limit."""
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


def images_in(folder: Path) -> list[Path]:
    """The images in natural order, unchecked. Raises OSError."""
    return sorted(filter(_is_image, folder.iterdir()), key=_natural_key)


def decode_images(images: Iterable[Path]) -> Iterator[VideoFrame]:
    """Decodes each image when it is requested; repeats are the same object. Raises VideoError, naming the image."""
    for image, repeats in groupby(images):
        with open_video(image) as opened:
            frame = next(decode_tolerantly(opened), None)
            if frame is None:
                raise opened.refuse("the image does not decode")
        yield from (frame for _ in repeats)


def _is_image(path: Path) -> bool:
    # Hidden files ("._1.jpg") are other systems' metadata.
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _natural_key(path: Path) -> tuple[list[tuple[bool, int, str]], str]:
    """Digits count as numbers and come first; the whole name decides between "1.jpg" and "01.jpg"."""
    parts = re.findall(r"[0-9]+|[^0-9]+", path.name)
    return [(False, int(part), "") if part[0] in "0123456789" else (True, 0, part) for part in parts], path.name


def _image_size(image: Path) -> tuple[int, int]:
    """(width, height) in pixels, from the header; raises VideoError for what is not an image or over a limit."""
    try:
        width, height = imagesize.get(str(image))
    except Exception as error:  # whatever a hostile header makes of the reader
        raise VideoError(f"{image}: its header cannot be read: {type(error).__name__}: {error}") from error
    if width <= 0 or height <= 0:
        raise VideoError(f"{image}: its header cannot be read as that of an image")
    check_size(image, width, height)
    return width, height
