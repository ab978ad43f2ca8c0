"""The file of one replica's replies, a JSON line each: whole lines only, forced to the disk by a thread while others
append, and brought back where it is deleted."""

import errno
import os
import stat
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

from videobench.errors import InputError
from videobench.files import encode_json, open_regular, parse_json, without_waiting, write_whole

MAX_JOURNAL_BYTES = 1 << 30  # of a journal; all 17,036 replies take 40 MB


class JournalFile:
    """Opened for writing with its whole lines kept; a new one begins with the line `first`.

    Raises InputError where the folder refuses or the disk is full."""

    def __init__(self, path: Path, first: Mapping[str, Any]) -> None:
        self._path = path
        self._file = open_to_append(path)
        self._in_use = threading.RLock()  # the file: a thread forces what another one adds to
        self._file.seek(0)
        self._forced = self._file.readall().rfind(b"\n") + 1  # bytes that the disk has
        self._file.truncate(self._forced)  # a line cut short by a kill must not swallow the next one
        if self._forced == 0:
            self.append([first])
            # Never removed again: by then replies may follow it.
            self._forced = os.fstat(self._file.fileno()).st_size

    def append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """When it returns the lines outlive this process, but only `force` makes them outlive the machine.

        Raises InputError where the disk takes no more: the file then ends where it ended before."""
        content = b"".join(encode_json(line) + b"\n" for line in lines)
        with self._in_use:
            self.bring_back()
            end = self._file.seek(0, os.SEEK_END)
            try:
                while content:  # unbuffered: what a full disk takes is known, and close() has nothing left to write
                    content = content[self._file.write(content) :]
            except OSError as error:
                raise self._cut_off(end, error) from None

    def force(self) -> None:
        """Returns when the disk has all that was appended before. From any thread: others append meanwhile.

        Raises InputError where the disk fails: what it may not have is then removed from the file."""
        with self._in_use:
            if (end := os.fstat(self._file.fileno()).st_size) == self._forced:
                return
            descriptor = os.dup(self._file.fileno())  # bring_back() may close the file meanwhile
        try:
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)  # on NFS it may fail, too, for what was appended since
        except OSError as error:
            raise self._cut_off(self._forced, error) from None
        self._forced = end

    def bring_back(self) -> None:
        """Restores the file where it was deleted during the run: its content is there until the file is closed.

        Raises InputError where another file has taken its place."""
        with self._in_use:
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._file.fileno()), self._path.stat()):
                    return
                raise InputError(
                    f"{self._path}: was replaced while this run wrote to it; let one run at a time use the folder"
                )
            self._file.seek(0)
            content = self._file.readall()
            write_whole(self._path, content)
            deleted, self._file = self._file, open_to_append(self._path)
            deleted.close()

    def close(self) -> None:
        """Forces what a run that ends early has appended; where that fails, the run's own error says enough."""
        with suppress(InputError):
            self.force()
        with suppress(OSError):
            self._file.close()

    def _cut_off(self, end: int, error: OSError) -> InputError:
        with self._in_use, suppress(OSError):
            self._file.truncate(end)
        return InputError(
            f"{self._path}: cannot be written ({error.strerror}); free space, then start again: "
            "what was answered is kept"
        )


def open_to_append(path: Path) -> FileIO:
    """For reading too, unbuffered; creates its folder. Raises InputError where the folder refuses."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = FileIO(path, "a+", opener=without_waiting)
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return file
        file.close()
        raise OSError(errno.EINVAL, "Not a regular file")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another output folder") from None


def read_entries(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a journal: its settings, then its replies. Raises InputError, naming the line, at the first
    that this suite does not write."""
    try:
        with open_regular(path) as file:
            lines = file.read(MAX_JOURNAL_BYTES).split(b"\n")[:-1]  # what follows the last line end was cut short
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); choose another output folder") from None
    entries = []
    for number, line in enumerate(lines, start=1):
        try:
            entries.append(_checked(parse_json(line.decode()), number))
        except ValueError as error:
            raise InputError(
                f"{path}: damaged at line {number} ({error}); repair or remove that line (the file, if it is line 1), "
                "then start again: what the others hold is kept"
            ) from None
    return entries


def _checked(entry: Any, number: int) -> dict[str, Any]:
    if number == 1:
        if not isinstance(entry, dict) or not isinstance(entry.get("settings"), dict):
            raise ValueError("it holds no settings")
        return entry
    row = entry.get("row") if isinstance(entry, dict) else None
    if not isinstance(row, dict) or not isinstance(entry.get("key"), str):
        raise ValueError("it holds no reply")
    if isinstance(entry.get("at", 0.0), bool) or not isinstance(entry.get("at", 0.0), int | float):
        raise ValueError("its time is not a number")
    if not isinstance(row.get("output_sequence"), list) or not isinstance(row.get("error", ""), str):
        raise ValueError("its reply is not one of a run")
    return dict(entry)
