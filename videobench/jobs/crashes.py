"""Which videos were in flight when a process died: one that kills its process again and again must not stop a job.

Before a process works on videos, it notes their names in `<folder>/journal/<data set>.attempts<k>.jsonl`, for process
k. The next start, whoever makes it, counts what a process had in flight at its end as a death of those videos. Such a
video is worked on alone from then on, so that the next death shows which one it was, and is set aside at the third. A
process that ends in an orderly way takes its notes back. When a job has come to its end, whatever failed, the notes
are removed: the next start counts from zero.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from videobench.errors import InputError
from videobench.files import open_regular, without_waiting

MOST_DEATHS = 3
MAX_NOTES_BYTES = 1 << 26  # a job of 5,917 videos notes 1 MB
SET_ASIDE = f"killed its process {MOST_DEATHS} times; starting the same command again tries it again"

Begun = dict[str, Any]  # start, and deaths by video; JSON
Each = TypeVar("Each")


class Attempts:
    """The notes of one process, on videos by their paths."""

    def __init__(self, folder: Path, name: str, process: int) -> None:
        self._folder = folder / "journal"
        self._name = name
        self._path = self._folder / f"{name}.attempts{process}.jsonl"
        self._file: FileIO | None = None
        self._begun_bytes = 0  # of the file, before anything was in flight
        self._is_ending = False
        self.in_flight: list[str] = []  # paths
        self._deaths: dict[str, int] = {}

    def count_deaths(self) -> Begun:
        """For process 0, before any other opens its notes.

        Raises InputError where notes cannot be read: without them deaths would not be counted."""
        deaths: set[tuple[str, str]] = set()  # (start, video): the processes of one replica die of one video together
        for path in self._paths():
            for start, in_flight in _read(path):
                deaths |= {(start, video) for video in in_flight}
        return {"start": uuid4().hex, "deaths": dict(Counter(video for _, video in deaths))}

    def open(self, begun: Begun) -> None:
        """Starts this process's notes, with the deaths that process 0 has counted. Raises InputError where it cannot
        write."""
        self._deaths = begun["deaths"]
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = FileIO(self._path, "a", opener=without_waiting)
        except OSError as error:
            raise self._unwritable(error) from None
        self._write({"start": begun["start"]})
        self._begun_bytes = os.fstat(self._file.fileno()).st_size

    def is_set_aside(self, video: Path) -> bool:
        return self._deaths.get(str(video), 0) >= MOST_DEATHS

    def apart(self, batch: Sequence[Each], video_of: Callable[[Each], Path]) -> list[list[Each]]:
        """The batch in parts: what was in flight at a death goes alone."""
        alone = [each for each in batch if str(video_of(each)) in self._deaths]
        together = [each for each in batch if str(video_of(each)) not in self._deaths]
        return [*([together] if together else []), *([each] for each in alone)]

    def take(self, videos: Iterable[Path]) -> None:
        """These, and no others, are in flight from now on. Written, but not forced to the disk, which would delay the
        device: a note must outlive this process, not the machine. Raises InputError where the disk is full."""
        if self._is_ending:
            return
        self.in_flight = [str(video) for video in videos]
        self._write({"in_flight": self.in_flight})

    def drop(self) -> None:
        """Nothing is in flight: the notes are taken back, which needs no room on a full disk. From any thread."""
        with suppress(OSError, ValueError):  # ValueError: the main thread has closed the file meanwhile
            if file := self._file:
                file.truncate(self._begun_bytes)

    def end(self) -> None:
        """The process ends on request, or by a fault of something else: no video is to blame."""
        self._is_ending = True
        self.drop()

    def close(self) -> None:
        if self._file:
            self._file.close()
        self._file = None

    def remove_all(self) -> None:
        """The job is done, or starts from the beginning."""
        for path in self._paths():
            with suppress(OSError):
                path.unlink()

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob(f"{self._name}.attempts*.jsonl"))

    def _write(self, entry: dict[str, object]) -> None:
        assert self._file, "open() comes first"
        try:
            self._file.write(json.dumps(entry).encode() + b"\n")
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(f"{self._path}: cannot be written ({error.strerror}); free space, then start again")


def _read(path: Path) -> list[tuple[str, list[str]]]:
    """For each start of a process its name, and what the process had in flight at its end."""
    try:
        with open_regular(path) as file:
            lines = file.read(MAX_NOTES_BYTES).split(b"\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); remove it and start again") from None
    starts: list[tuple[str, list[str]]] = []
    for line in lines:
        with suppress(ValueError, TypeError, KeyError, RecursionError):  # a line cut short, or not ours
            entry = json.loads(line)
            if isinstance(entry, dict) and "start" in entry:
                starts.append((str(entry["start"]), []))
            elif starts:
                starts[-1][1][:] = map(str, entry["in_flight"])
    return starts
