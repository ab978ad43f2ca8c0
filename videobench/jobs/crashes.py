"""Which videos were in flight when a process died: one that kills its process must not stop a job.

Before a process works on videos, it writes their paths to a file of its own in `<folder>/journal/`; if it ends in an
orderly way, it removes that file. Each start fails the videos that it finds in such files, and goes on with the others.
A job that comes to its end removes the files, so that the next start asks for those videos again.
"""

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from videobench.errors import InputError

DIED = "a process died while it worked on this video; the same command asks again"


class Attempts:
    """The note of one process, and those that dead ones have left."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder / "journal"
        self._pattern = f"{name}.attempt-*.json"
        self._path = self._folder / self._pattern.replace("*", uuid4().hex)
        self._is_ending = False
        self.in_flight: list[str] = []  # paths

    def read_deaths(self) -> list[str]:
        """The paths of videos that processes died of. For process 0, before any other takes a video."""
        died: set[str] = set()
        for path in self._folder.glob(self._pattern):
            with suppress(ValueError):  # cut short when the machine died
                died.update(json.loads(path.read_bytes()))
        return sorted(died)

    def take(self, videos: Iterable[Path]) -> None:
        """These videos, and no others, are in flight from now on. Not forced to the disk, which would delay the device:
        the note must outlive this process, not the machine. Raises InputError if the disk is full."""
        if self._is_ending:
            return
        self.in_flight = [str(video) for video in videos]
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps(self.in_flight))
        except OSError as error:
            raise InputError(
                f"{self._path}: cannot be written ({error.strerror}); free space, then start again"
            ) from None

    def drop(self) -> None:
        """Nothing is in flight."""
        with suppress(OSError):
            self._path.unlink()

    def end(self) -> None:
        """The process ends on request, or by a fault of something else: no video is to blame. From any thread."""
        self._is_ending = True
        self.drop()

    def remove_all(self) -> None:
        """The job is done, or starts from the beginning."""
        for path in self._folder.glob(self._pattern):
            with suppress(OSError):
                path.unlink()
