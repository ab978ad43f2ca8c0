"""Replies -> one JSON line each, forced to the disk -> the result file.

A run can be stopped at any moment: the next start reads the journals, drops a half-written last line, and answers what
is left. The first line of a journal holds the settings that its replies depend on; other settings are refused.
Each rank writes a journal of its own, `<folder>/journal/<data set>.rank<k>.jsonl`; a start reads those of all ranks.
"""

import fcntl
import json
import os
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from videobench.errors import InputError
from videobench.files import write_json

Row = dict[str, Any]


class Journals:
    """The replies of one data set: those of earlier starts, and this rank's file to add to.

    `settings` are compared with those of every journal that is there; InputError where one differs."""

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any], rank: int) -> None:
        self._folder = folder
        self._name = name
        self._settings = dict(settings)
        self._rank = rank
        self._file: IO[bytes] | None = None
        self._lock: IO[bytes] | None = None

    @property
    def result_path(self) -> Path:
        return self._folder / f"{self._name}_eval.json"

    def read(self) -> dict[str, Row]:
        """Question key -> row of all replies so far; of two for one question, an answer stands before a failure."""
        rows: dict[str, Row] = {}
        for path in self._paths():
            for key, row in self._read_one(path):
                if key not in rows or "error" in rows[key]:
                    rows[key] = row
        return rows

    def lock(self) -> None:
        """Keep other jobs out until close(): taken by rank 0 for all ranks. Raises InputError naming who holds it."""
        path = self._folder / "journal" / f"{self._name}.lock"
        self._lock = _open(path)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            holder = self._lock.read().decode(errors="replace").strip()
            raise InputError(
                f"{path}: held by another run ({holder}); wait for it, or choose another output folder"
            ) from None
        self._lock.truncate(0)
        self._lock.write(f"process {os.getpid()} on {platform.node()}".encode())
        self._lock.flush()

    def open(self) -> None:
        """Take this rank's file for writing, its whole lines kept."""
        self._file = _open(self._path(self._rank))
        self._file.seek(0)
        content = self._file.read()
        self._file.truncate(content.rfind(b"\n") + 1)  # a line cut short by a kill must not swallow the next one
        if b"\n" not in content:
            self._write([json.dumps({"settings": self._settings}, ensure_ascii=False)])

    def append(self, rows: Mapping[str, Row]) -> None:
        """One line per reply; returns when the disk has them."""
        self._write(
            [json.dumps({"key": key, "row": row}, ensure_ascii=False, allow_nan=False) for key, row in rows.items()]
        )

    def write_results(self, keys: Iterable[str]) -> dict[str, Row]:
        """Join the journals into the result file, sorted as `keys`; the rows written."""
        rows = self.read()
        results = {key: rows[key] for key in keys if key in rows}
        write_json(self.result_path, results)
        for path in self._set_aside():
            path.unlink()
        return results

    def set_aside(self) -> None:
        """Keep result and journals under `.old` names until new ones are complete; older `.old` ones stay."""
        for path in [self.result_path, *self._paths()]:
            if not path.exists():
                continue
            old = path.with_name(path.name + ".old")
            if old.exists():
                path.unlink()  # of a start with --overwrite that did not get through: .old is the complete one
            else:
                path.rename(old)

    def close(self) -> None:
        for file in (self._file, self._lock):
            if file:
                file.close()
        self._file = self._lock = None

    def _write(self, lines: Iterable[str]) -> None:
        assert self._file, "open() comes first"
        try:
            self._file.write("".join(line + "\n" for line in lines).encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise InputError(
                f"{self._path(self._rank)}: cannot be written ({error.strerror}); free space, then start again: "
                "what was answered is kept"
            ) from None

    def _read_one(self, path: Path) -> list[tuple[str, Row]]:
        lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last line end was cut short
        if not lines:
            return []
        try:
            first, *rest = (json.loads(line) for line in lines)
            stored = first["settings"]
            replies = [(entry["key"], entry["row"]) for entry in rest]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: damaged ({error!r}); move it away, or start anew with --overwrite") from None
        for setting in {**stored, **self._settings}:
            if stored.get(setting) != self._settings.get(setting):
                raise InputError(
                    f"{path}: was begun with {setting} {stored.get(setting)!r}, now it is "
                    f"{self._settings.get(setting)!r}; use the former, another output folder, or --overwrite"
                )
        return replies

    def _path(self, rank: int) -> Path:
        return self._folder / "journal" / f"{self._name}.rank{rank}.jsonl"

    def _paths(self) -> list[Path]:
        return sorted((self._folder / "journal").glob(f"{self._name}.rank*.jsonl"))

    def _set_aside(self) -> list[Path]:
        journals = (self._folder / "journal").glob(f"{self._name}.rank*.jsonl.old")
        return [
            path for path in [self.result_path.with_name(self.result_path.name + ".old"), *journals] if path.exists()
        ]


def _open(path: Path) -> IO[bytes]:
    """For reading and for appending, with its folder made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+b")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another output folder") from None
