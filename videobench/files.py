"""Files read whole or refused, written whole or not at all; files of JSON lines to append to; a lock."""

import errno
import fcntl
import hashlib
import json
import math
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

from videobench.errors import InputError

HASH_BLOCK_BYTES = 1 << 20
MAX_JSON_BYTES = 1 << 28  # a result file of all 17,036 questions takes about 40 MB
MOST_DIGITS = 308  # of a whole number; a float ends at 1.8e308
MOST_BLANKS = 1000  # characters before the first tag of a web page
GZIP_MAGIC = b"\x1f\x8b"


def without_waiting(path: str, flags: int) -> int:
    """An opener for `open`: without it, opening a pipe would wait for its other end."""
    return os.open(path, flags | os.O_NONBLOCK, 0o666)


def open_regular(path: Path) -> BinaryIO:
    """The file, to be read; OSError if it is missing or no regular file.

    Does not wait for the writer of a pipe. A device might be read for ever."""
    file = open(path, "rb", opener=without_waiting)  # noqa: SIM115
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise OSError(errno.EINVAL, "Not a regular file", str(path))


def read_bytes(path: Path, most_bytes: int) -> bytes:
    """The content of a regular file.

    Raises InputError, naming the file, where it is missing, no regular file, or larger than `most_bytes`."""
    try:
        with open_regular(path) as file:
            content = file.read(most_bytes + 1) or b""  # None if a file of /proc has nothing yet
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    if len(content) > most_bytes:
        raise InputError(f"{path}: larger than {most_bytes} bytes, so not a file of this benchmark; check the path")
    return content


def read_json(path: Path) -> Any:
    """The content of a UTF-8 JSON file.

    Raises InputError, naming the file, for what `read_bytes` and `parse_json` refuse, and where it is not UTF-8."""
    text = decode_utf8(read_bytes(path, MAX_JSON_BYTES), path)
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        if error.pos == 0:  # nothing of it is JSON
            begins = f"it begins with {text[:20]!r}" if text.strip() else "it is empty"
            raise InputError(f"{path}: not JSON: {begins}; check the path, or get the file again") from None
        raise InputError(f"{path}: not JSON: {error}; was it cut short? get the file again") from None
    except ValueError as error:
        raise InputError(f"{path}: {error}; get the file again or fix it by hand") from None


def decode_utf8(content: bytes, place: object) -> str:
    """Raises InputError, naming the file or line that is `place`, for a web page and for what is no UTF-8."""
    try:
        text = content.decode("utf-8")
        if text[:MOST_BLANKS].lstrip("\ufeff \t\r\n").startswith("<"):
            raise InputError(f"{place}: a web page in place of the file (to log in, or an error?); download it again")
        return text
    except UnicodeDecodeError as error:
        if content.startswith(GZIP_MAGIC):
            raise InputError(f"{place}: compressed by gzip; unpack it (gunzip)") from None
        raise InputError(f"{place}: not UTF-8 at byte {error.start}; save it as UTF-8") from None


def parse_json(text: str) -> Any:
    """JSON as the standard defines it.

    Raises ValueError for what plain `json.loads` accepts silently: NaN, an infinity, a number beyond a float's range,
    and one key twice in an object (of which it keeps the last); and for nesting that is too deep for the parser."""
    hooks: dict[str, Any] = {"parse_constant": _refuse_number, "parse_float": _parse_float, "parse_int": _parse_int}
    try:  # without a byte-order mark, as some editors on Windows write it
        return json.loads(text.removeprefix("\ufeff"), object_pairs_hook=_unique_keys, **hooks)
    except RecursionError:
        raise ValueError("nested too deeply to be a file of this benchmark") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {twice!r} occurs twice in one object")
    return content


def _refuse_number(text: str) -> Any:
    raise ValueError(f"the number {text:.20} is not JSON, or too large")


def _parse_float(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse_number(text)


def _parse_int(text: str) -> int:
    """Refuses what no float can hold: computing with it would raise OverflowError."""
    return int(text) if len(text) <= MOST_DIGITS else _refuse_number(text)


def write_json(path: Path, content: Any) -> None:
    """Write `content` beside `path` and rename: a reader sees the old file or the new one, never a part of it."""
    write_whole(path, encode_json(content, indent=2) + b"\n")


def encode_json(content: Any, indent: int | None = None) -> bytes:
    """JSON as UTF-8. A path or a name may hold bytes that are not UTF-8: each becomes a question mark."""
    return json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")


def _part_of(path: Path) -> Path:
    """Its name is short, since one as long as the disk allows takes no suffix."""
    return path.with_name(f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}.part")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to: renamed to it at the end, removed where anything fails."""
    part = _part_of(path)
    part.unlink(missing_ok=True)  # left by a process that was killed
    try:
        yield part
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def write_whole(path: Path, content: bytes) -> None:
    """Writes `content` beside `path`, forces it to the disk, and renames. Raises InputError if the folder refuses.

    A pipe or a device, as /dev/stdout, is written into: renaming would replace it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            path.write_bytes(content)
            return
        with replacing(path) as part, part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _unwritable(path, error) from None


def check_writable(path: Path) -> None:
    """Raises InputError if `write_whole` could not write: before the work that would be lost. Makes the folder."""
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder; name a file, as {path / 'report'}{path.suffix}")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            return
        with suppress(FileNotFoundError):
            path.stat()  # a name may be too long
        part = _part_of(path)
        part.touch()
        part.unlink()
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path}: cannot be written ({error.strerror}); free space or choose another place")


def sha256_of_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a regular file's bytes, read in blocks; OSError if it cannot be read."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def open_to_append(path: Path) -> FileIO:
    """For reading too, unbuffered; creates its folder. Raises InputError if the folder refuses."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = FileIO(path, "a+", opener=without_waiting)
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return file
        file.close()
        raise OSError(errno.EINVAL, "Not a regular file")
    except OSError as error:
        raise _unwritable(path, error) from None


def lock(file: FileIO, path: Path, holder: str) -> None:
    """Keeps other processes out until `file`, the open `path`, is closed. InputError if one holds it: `holder`."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"{path}: held by {holder}; wait for it, or write to another place") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be locked ({error.strerror}); write to another place") from None


class JsonLines:
    """A file to which lines of JSON are appended. Whole lines that it holds are kept; a new one begins with `first`.

    Raises InputError, which ends with `fix`, when the folder refuses or the disk is full."""

    def __init__(self, path: Path, fix: str, first: Mapping[str, Any] | None = None) -> None:
        self._path = path
        self._fix = fix
        self._file = open_to_append(path)
        self._file.seek(0)
        self._forced = self._file.readall().rfind(b"\n") + 1  # bytes that the disk has
        self._file.truncate(self._forced)  # a line cut short by a kill must not swallow the next one
        if self._forced == 0 and first is not None:
            self.append([first])
            # Never removed again: by then other lines may follow it.
            self._forced = os.fstat(self._file.fileno()).st_size

    def append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """When it returns the lines outlive this process, but only `force` makes them outlive the machine.

        Raises InputError if the disk takes no more: the file then ends where it ended before."""
        content = b"".join(encode_json(line) + b"\n" for line in lines)
        self.bring_back()
        end = self._file.seek(0, os.SEEK_END)
        try:
            while content:  # unbuffered: what a full disk takes is known, and close() has nothing left to write
                content = content[self._file.write(content) :]
        except OSError as error:
            raise self._cut_off(end, error) from None

    def force(self) -> None:
        """Returns when the disk has all that was appended before.

        Raises InputError if the disk fails: what it may not have is then removed from the file."""
        end = os.fstat(self._file.fileno()).st_size
        try:
            if end != self._forced:
                os.fsync(self._file.fileno())
        except OSError as error:
            raise self._cut_off(self._forced, error) from None
        self._forced = end

    def bring_back(self) -> None:
        """Restores the file if it was deleted during the run: its content is there until the file is closed.

        Raises InputError if another file has taken its place."""
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(self._file.fileno()), self._path.stat()):
                return
            raise InputError(
                f"{self._path}: was replaced while this run wrote to it; let one run at a time use the folder"
            )
        self._file.seek(0)
        write_whole(self._path, self._file.readall())
        self._file.close()
        self._file = open_to_append(self._path)

    def close(self) -> None:
        """Forces what a process that ends early has appended; if that fails, its own error says enough."""
        with suppress(InputError):
            self.force()
        with suppress(OSError):
            self._file.close()

    def _cut_off(self, end: int, error: OSError) -> InputError:
        with suppress(OSError):
            self._file.truncate(end)
        return InputError(f"{self._path}: cannot be written ({error.strerror}); {self._fix}")
