"""Append replies to a journal as JSON lines, and join the journals into the result file.

A run can be stopped at any moment: the next start reads the journals, drops a half-written last line, and answers the
remaining questions. The first line of a journal has the settings that its replies depend on; a start with different
settings is refused. Every reply includes its question: if the question has changed since, it is asked again, so a
sample can also be enlarged. Every replica writes its own `<folder>/journal/<data set>.rank<k>.jsonl`; a start reads all
of them.
"""

import fcntl
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

from videobench.console import one_line
from videobench.data.rows import Row, is_of_a_run
from videobench.errors import InputError
from videobench.files import JsonLines, check_writable, open_to_append, parse_json, read_bytes, read_json, write_json

QUESTION_CHANGED = "the question has changed since it was answered; it is asked again"
VIDEO_CHANGED = "the video has changed since the question was answered; it is asked again"
UNFIT = "the stored row is invalid; the question is asked again"
PROMPT_CHANGED = "its prompt has other token ids now (tokenizer, template or transformers); it is asked again"
VIDEO_GONE = "the video cannot be read, so the stored reply cannot be checked; it is kept"
VOID = (QUESTION_CHANGED, VIDEO_CHANGED, PROMPT_CHANGED, UNFIT)  # reasons to discard a stored reply
FULL_DISK = "free space, then start again without --overwrite: what was answered is kept"
HASH = "checkpoint_sha256"
MAX_JOURNAL_BYTES = 1 << 30  # all 17,036 replies take 40 MB

# (question key, video_sha256 of its row, stamp) -> whether the video is unchanged; None if that is unknown.
IsSeenVideo = Callable[[str, str, Any], bool | None]


@dataclass
class Journal:
    """The rows of one data set from earlier starts, and the file that this replica appends to."""

    folder: Path
    name: str
    settings: Mapping[str, Any]  # InputError if an existing journal has different ones
    replica: int
    asked: Mapping[str, Row]  # question key -> fields that a stored row must match; other questions are ignored
    is_seen_video: IsSeenVideo  # checks the video of replies that include its hash
    prompt_sha256: Callable[[str], str | None] = lambda key: None  # question key -> hash of its prompt, if known
    others: int = field(default=0, init=False)  # set by read(): answered questions that are not in `asked`
    _file: JsonLines | None = field(default=None, init=False)
    _lock: FileIO | None = field(default=None, init=False)

    @property
    def result_path(self) -> Path:
        return self.folder / f"{self.name}_eval.json"

    @property
    def command_path(self) -> Path:
        return self.folder / "journal" / f"{self.name}.command.json"

    def read(self, report: bool = False) -> dict[str, Row]:
        """Return question key -> row for all replies so far: the newest answer that still fits question and video,
        otherwise the newest entry.

        A reply that no longer counts becomes a failed row with a reason from VOID. A reply whose video cannot be read
        is kept unless there is a newer entry: the video may have been replaced. With `report`, prints to stderr how
        many questions each reason affects."""
        rows: dict[str, Row] = {}
        reasons: dict[str, str | None] = {}
        others: set[str] = set()
        stored = [each for path in self._paths() for each in self._read_file(path)]
        for entry in sorted(stored, key=lambda each: float(each.get("at", 0.0))):
            key, row = entry["key"], entry["row"]
            if key not in self.asked:
                others |= {key} if "error" not in row else set()
                continue
            reason = self._why_void(key, row, entry.get("stamp"))
            is_answered = key in rows and reasons[key] is None and "error" not in rows[key]
            if is_answered and (reason or "error" in row):
                continue
            reasons[key] = reason
            is_void = reason in VOID
            rows[key] = {**self.asked[key], "output_sequence": [""], "error": reason} if is_void else row
        self.others = len(others)
        for reason in (*VOID, VIDEO_GONE) if report else ():
            if keys := [key for key, found in reasons.items() if found == reason]:
                print(one_line(f"{self.name}: {len(keys)} questions, first {keys[0]}: {reason}"), file=sys.stderr)
        return rows

    def _why_void(self, key: str, row: Row, stamp: Any) -> str | None:
        """Return a reason from VOID, VIDEO_GONE if the video cannot be read, or None if the stored row counts."""
        if any(row.get(name) != value for name, value in self.asked[key].items()):
            return QUESTION_CHANGED
        if not is_of_a_run(row):
            return UNFIT
        prompt = self.prompt_sha256(key) if "prompt_sha256" in row else None
        if prompt and prompt != row["prompt_sha256"]:
            return PROMPT_CHANGED
        seen = row.get("video_sha256")
        is_same = self.is_seen_video(key, seen, stamp) if seen else True
        return VIDEO_GONE if is_same is None else None if is_same else VIDEO_CHANGED

    def lock(self) -> None:
        """Lock out other jobs until close(); process 0 does this for its job. Raises InputError naming the holder."""
        path = self.folder / "journal" / f"{self.name}.lock"
        self._lock = open_to_append(path)
        self._lock.seek(0)
        holder = self._lock.read().decode(errors="replace").strip()
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{path}: held by another run ({holder}); wait for it, or choose another folder") from None
        except OSError as error:
            raise InputError(f"{path}: cannot be locked ({error.strerror}); choose another output folder") from None
        with suppress(OSError):  # a full disk: the holder's name is optional, and writing replies will report it
            self._lock.truncate(0)
            self._lock.write(f"process {os.getpid()} on {platform.node()}".encode())

    def open(self) -> None:
        """Open this replica's file for appending."""
        self._file = JsonLines(self._path(self.replica), FULL_DISK, {"settings": self.settings})

    def append(self, rows: Mapping[str, Row], stamps: Mapping[str, Any] | None = None) -> None:
        """Write one line per reply, with its video's stamp if there is one; see JsonLines.append."""
        assert self._file, "open() comes first"
        now = round(time.time(), 3)
        self._file.append(
            {"key": key, "at": now, "row": row} | ({"stamp": stamps[key]} if stamps and key in stamps else {})
            for key, row in rows.items()
        )

    def force(self) -> None:
        """See JsonLines.force."""
        if self._file:
            self._file.force()

    def bring_back(self) -> None:
        """See JsonLines.bring_back."""
        if self._file:
            self._file.bring_back()

    def check_result(self) -> None:
        """Raises InputError if the result could not be written at the end, or would overwrite one without a journal."""
        if self.result_path.is_dir():
            raise InputError(f"{self.result_path}: is a folder; move it away, or choose another output folder")
        check_writable(self.result_path)
        if self.result_path.is_file() and not self._paths():
            raise InputError(
                f"{self.result_path}: its journal is gone, so this run would overwrite it; choose another output "
                "folder, or --overwrite"
            )

    def write_results(self) -> dict[str, Row]:
        """Join the journals into the result file, in question order; returns the rows written."""
        self.bring_back()
        rows = self.read()
        results = {key: rows[key] for key in self.asked if key in rows}
        write_json(self.result_path, results)
        self._keep_if_better()
        for path in (_with_old(self.result_path), *self._paths(".old")):
            with suppress(OSError):  # they stay if the folder has just become read-only
                path.unlink()
        return results

    def set_aside(self) -> None:
        """Rename result and journals to `.old` until new ones are complete; existing `.old` files stay."""
        for path in [self.result_path, *self._paths()]:
            if not path.exists():
                continue
            old = _with_old(path)
            try:
                if old.exists():
                    path.unlink()  # left by an unfinished --overwrite: the complete one is .old
                else:
                    path.rename(old)
            except OSError as error:
                raise InputError(
                    f"{path}: cannot be set aside ({error.strerror}); choose another output folder"
                ) from None

    def close(self) -> None:
        for file in (self._file, self._lock):
            if file:
                file.close()
        self._file = self._lock = None

    def _keep_if_better(self) -> None:
        """Keep the `.old` result, under another name, if it has more answers than the new one."""
        old, kept = _with_old(self.result_path), self.result_path.with_name(self.result_path.name + ".kept")
        if old.exists() and _answered(old) > max(_answered(self.result_path), _answered(kept)):
            with suppress(OSError):
                old.replace(kept)
                print(f"{kept}: the former result, which has more answers than the new one", file=sys.stderr)

    def _read_file(self, path: Path) -> list[dict[str, Any]]:
        """Read a journal's replies: `key`, `row`, `at` in seconds since 1970, `stamp`. Raises InputError if the
        settings differ, or at the first invalid complete line."""
        lines = read_bytes(path, MAX_JOURNAL_BYTES).split(b"\n")[:-1]  # an incomplete last line is dropped
        entries: list[dict[str, Any]] = []
        for number, line in enumerate(lines, start=1):
            try:
                entries.append(_parse_entry(line, is_first=number == 1))
            except ValueError as error:
                fix = "repair or remove that line, then start again: the other replies are kept"
                if number == 1:  # without its settings no reply of the file counts
                    result = self.result_path.name
                    fix = f"repair that line, or remove this file and {result}: its questions are then asked again"
                raise InputError(f"{path}: damaged at line {number} ({error}); {fix}") from None
        stored = entries[0]["settings"] if entries else self.settings
        for setting in {**stored, **self.settings}:
            was, now = stored.get(setting), self.settings.get(setting)
            if was != now:
                release = " (release 0.1.0 computed another one for the same files)" if setting == HASH else ""
                raise InputError(
                    f"{path}: was begun with {setting} {was!r}, now it is {now!r}{release}; use the former, another "
                    "output folder, or --overwrite"
                )
        return entries[1:]

    def _path(self, replica: int) -> Path:
        return self.folder / "journal" / f"{self.name}.rank{replica}.jsonl"

    def _paths(self, suffix: str = "") -> list[Path]:
        return sorted((self.folder / "journal").glob(f"{self.name}.rank*.jsonl{suffix}"))


def _with_old(path: Path) -> Path:
    return path.with_name(path.name + ".old")


def _answered(path: Path) -> int:
    """Count the answered questions in a result file; 0 if there is no file."""
    rows = None
    with suppress(InputError):
        rows = read_json(path)
    return sum(isinstance(row, dict) and "error" not in row for row in rows.values()) if isinstance(rows, dict) else 0


def _parse_entry(line: bytes, is_first: bool) -> dict[str, Any]:
    entry = parse_json(line.decode())
    if not isinstance(entry, dict):
        raise ValueError("it is not an object")
    if is_first and not isinstance(entry.get("settings"), dict):
        raise ValueError("it holds no settings")
    is_reply = isinstance(entry.get("row"), dict) and isinstance(entry.get("key"), str)
    if not is_first and not (is_reply and isinstance(entry.get("at", 0.0), int | float)):
        raise ValueError("it holds no reply")
    return entry
