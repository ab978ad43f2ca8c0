"""Which bytes a video was when it was read: its hash, and a stamp that shows at once whether it may have changed."""

import hashlib
import os
from pathlib import Path

from videobench.files import sha256_of_file

# Bytes, times of modification and of change in ns since 1970; of a folder, over it and its images.
Stamp = tuple[int, int, int]


def stamp_of(video: Path) -> Stamp | None:
    """None where the video cannot be looked at."""
    try:
        states = [os.stat(each) for each in (video, *_images(video))]
    except OSError:
        return None
    return (
        sum(each.st_size for each in states),
        max(each.st_mtime_ns for each in states),
        max(each.st_ctime_ns for each in states),
    )


def sha256_of_video(video: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes; of a folder, of the names and hashes of its images in their order."""
    if not video.is_dir():
        return sha256_of_file(video)
    lines = [f"{sha256_of_file(image)}  {image.name}\n" for image in _images(video)]
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _images(video: Path) -> list[Path]:
    """None of a file."""
    if not video.is_dir():
        return []
    from videobench.video.image_folder import images_in  # imports av, which --help does not wait for

    return images_in(video)
