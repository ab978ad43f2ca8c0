"""Identify the content of a video: by its hash, and by a stamp that shows quickly if it may have changed."""

import hashlib
import os
import re
from pathlib import Path

from videobench.files import sha256_of_file

# Size in bytes, and times of modification and change in ns since 1970; a folder includes its images.
Stamp = tuple[int, int, int]
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


def stamp_of(video: Path) -> Stamp | None:
    """Return a video's stamp; None if it cannot be accessed."""
    try:
        states = [os.stat(each) for each in (video, *(images_in(video) if video.is_dir() else ()))]
    except OSError:
        return None
    return (
        sum(each.st_size for each in states),
        max(each.st_mtime_ns for each in states),
        max(each.st_ctime_ns for each in states),
    )


def sha256_of_video(video: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes, or of the names and hashes of a folder's images in order."""
    if not video.is_dir():
        return sha256_of_file(video)
    lines = [f"{sha256_of_file(image)}  {image.name}\n" for image in images_in(video)]
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def images_in(folder: Path) -> list[Path]:
    """List a folder's images in natural order, unchecked. Raises OSError."""
    return sorted(filter(_is_image, folder.iterdir()), key=_natural_key)


def _is_image(path: Path) -> bool:
    # Hidden files ("._1.jpg") are other systems' metadata.
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _natural_key(path: Path) -> tuple[list[tuple[bool, int, str]], str]:
    """Sort digits as numbers and before letters; the full name decides between "1.jpg" and "01.jpg"."""
    parts = re.findall(r"[0-9]+|[^0-9]+", path.name)
    return [(False, int(part), "") if part[0] in "0123456789" else (True, 0, part) for part in parts], path.name
