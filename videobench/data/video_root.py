"""Where videos lie, and the check that symbolic links do not lead out of there."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path, PurePosixPath

VIDEOS_NAME = "Eval_video"  # the folder of all sets' videos


@dataclass(frozen=True)
class VideoRoot:
    """A folder of videos.

    Through a link, a stranger's QA file, result file or archive could name any file of the user. Links between folders
    of Eval_video are allowed, since `extract_dataset.py --copy_mode symlink` makes such. In a folder of images, each
    image is checked."""

    folder: Path
    allow_outside_root: bool = False  # follow links that lead out of the folder
    skipped_parts: int = 0  # leading folders of a vid_path that `folder` stands for: 2 where it is the set's own

    def locate(self, vid_path: str) -> Path:
        """The place of `Eval_video/<set>/<file>`; ValueError, with the fix, where it lies outside of the folder."""
        parts = PurePosixPath(vid_path).parts
        if vid_path.startswith("/") or ".." in parts or len(parts) <= self.skipped_parts:
            raise ValueError(f"{vid_path!r} is not a path below {self.folder}")
        video = self.folder.joinpath(*parts[self.skipped_parts :])
        if not self.allow_outside_root:
            self._check_inside(video)
        return video

    def _check_inside(self, video: Path) -> None:
        root = Path(self._real_folder(self.folder))
        boundary = root.parent if root.parent.name == VIDEOS_NAME else root
        for path in (video, *_linked_images(video)):
            place = Path(self._real_folder(path.parent), path.name)
            if os.path.islink(place):  # also False where access is denied; the decoder reports that
                place = Path(os.path.realpath(place))
            if not place.is_relative_to(boundary):
                raise ValueError(
                    f"{path} leads to {place}, out of {boundary}; if you trust whoever made that link, "
                    "--allow_outside_root follows it"
                )

    @cached_property
    def _real_folder(self) -> Callable[[Path], str]:
        return cache(os.path.realpath)  # thousands of videos share few folders


def _linked_images(video: Path) -> list[Path]:
    """Symbolic links in a folder of images; [] where it cannot be read, which the decoder reports."""
    try:
        with os.scandir(video) as entries:
            return [Path(each.path) for each in entries if each.is_symlink()]
    except OSError:
        return []
