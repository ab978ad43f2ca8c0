"""Which videos were in hand when a process died: one that kills its process again and again must not stop a job.

Before videos are worked on, their names are written down, in `<folder>/journal/<data set>.attempts<k>.jsonl` of
process k. When torchrun has restarted the processes, what a process had in hand at its end is counted as a death of
those videos. Such a video is worked on alone from then on, so that the next death tells it from those that were in
hand with it, and is set aside at the third. A process that is asked to end writes that it has nothing in hand, and a
job that somebody starts anew counts from zero.
"""

import json
import os
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from videobench.errors import InputError

MOST_DEATHS = 3
SET_ASIDE = f"killed its process {MOST_DEATHS} times; starting the same command again tries it again"

Begun = dict[str, Any]  # job, start, is_restart (by torchrun), and deaths by video; JSON
Each = TypeVar("Each")


class Attempts:
    """The notes of one process, on videos by their paths."""

    def __init__(self, folder: Path, name: str, process: int) -> None:
        self._folder = folder / "journal"
        self._name = name
        self._path = self._folder / f"{name}.attempts{process}.jsonl"
        self._file: FileIO | None = None
        self._is_ending = False
        self.in_hand: list[str] = []
        self._deaths: dict[str, int] = {}

    def begin(self) -> Begun:
        """For the first process, before any other opens its notes. Removes those of other jobs.

        Raises InputError where notes cannot be read: without them a restart looks like a new job."""
        job = _job()
        is_restart = False
        deaths: set[tuple[str, str]] = set()  # starts and videos: two processes of one group die of one video
        for path in self._folder.glob(f"{self._name}.attempts*.jsonl"):
            for head, in_hand in _read(path):
                if head.get("job") != job:
                    with suppress(OSError):
                        path.unlink()
                    break
                is_restart = True
                deaths |= {(str(head.get("start")), video) for video in in_hand}
        counted = dict(Counter(video for _, video in deaths))
        return {"job": job, "start": uuid4().hex, "is_restart": is_restart, "deaths": counted}

    def open(self, begun: Begun) -> None:
        """Begins to take notes, with what the first process has found. Raises InputError where it cannot write."""
        self._deaths = begun["deaths"]
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = FileIO(self._path, "a")
        except OSError as error:
            raise self._unwritable(error) from None
        self._write({"job": begun["job"], "start": begun["start"]})

    def is_set_aside(self, video: Path) -> bool:
        return self._deaths.get(str(video), 0) >= MOST_DEATHS

    def apart(self, batch: Sequence[Each], video_of: Callable[[Each], Path]) -> list[list[Each]]:
        """The batch in parts: what was in hand at a death goes alone."""
        alone = [each for each in batch if str(video_of(each)) in self._deaths]
        together = [each for each in batch if str(video_of(each)) not in self._deaths]
        return [*([together] if together else []), *([each] for each in alone)]

    def take(self, videos: Iterable[Path]) -> None:
        """These, and no others, are in hand from now on. Written, but not forced to the disk, which the device would
        wait for: a note must outlive this process, not the machine. Raises InputError where the disk is full."""
        assert self._file, "open() comes first"
        if self._is_ending:
            return
        self.in_hand = [str(video) for video in videos]
        self._write({"in_hand": self.in_hand})

    def drop(self) -> None:
        """Nothing is in hand. Raises InputError where the disk is full."""
        if self._file:
            self._write({"in_hand": []})

    def end(self) -> None:
        """The process was asked to end: what it has in hand is not to blame. From any thread."""
        self._is_ending = True
        with suppress(InputError, ValueError):  # the second where the file has been closed meanwhile
            self.drop()

    def close(self) -> None:
        if self._file:
            self._file.close()
        self._file = None

    def remove_all(self) -> None:
        """The job is done."""
        for path in self._folder.glob(f"{self._name}.attempts*.jsonl"):
            with suppress(OSError):
                path.unlink()

    def _write(self, entry: dict[str, object]) -> None:
        if not self._file:
            return
        try:
            self._file.write(json.dumps(entry).encode() + b"\n")
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(f"{self._path}: cannot be written ({error.strerror}); free space, then start again")


def _read(path: Path) -> list[tuple[dict[str, Any], list[str]]]:
    """For each start of a process the line that it began with, and what it had in hand at its end."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); remove it and start again") from None
    starts: list[tuple[dict[str, Any], list[str]]] = []
    for line in lines:
        with suppress(ValueError, TypeError, KeyError, RecursionError):  # a line that was cut short, or is none of ours
            entry = json.loads(line)
            if isinstance(entry, dict) and "job" in entry:
                starts.append((entry, []))
            elif starts:
                starts[-1][1][:] = map(str, entry["in_hand"])
    return starts


def _job() -> list[str]:
    """What stays the same over torchrun's restarts, and is new when somebody starts it anew: torchrun itself, by the
    machine, its number, and the moment of its start in clock ticks. Without torchrun it is this process."""
    process = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else os.getpid()
    try:
        started = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        started = "unknown"
    return [platform.node(), str(process), started]
