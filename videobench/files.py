"""Read and write files completely or not at all; append JSON lines."""

import errno
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
GZIP_MAGIC = b"\x1f\x8b"


def without_waiting(path: str, flags: int) -> int:
    """Opener for `open` that does not wait for the other end of a pipe."""
    return os.open(path, flags | os.O_NONBLOCK, 0o666)


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading; OSError if it is missing or not a regular file: a pipe or device might never end."""
    file = open(path, "rb", opener=without_waiting)  # noqa: SIM115
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise OSError(errno.EINVAL, "Not a regular file", str(path))


def read_bytes(path: Path, most_bytes: int) -> bytes:
    """Read a regular file.

    Raises InputError, naming the file, if it is missing, not a regular file, or larger than `most_bytes`."""
    try:
        with open_regular(path) as file:
            content = file.read(most_bytes + 1) or b""  # None if a file in /proc has no content yet
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    if len(content) > most_bytes:
        raise InputError(f"{path}: larger than {most_bytes:,} bytes; check the path")
    return content


def read_json(path: Path) -> Any:
    """Read a UTF-8 JSON file. Raises InputError, naming the file, if `read_bytes` or `decode_json` refuses it."""
    return decode_json(read_bytes(path, MAX_JSON_BYTES), path)


def decode_json(content: bytes, place: object) -> Any:
    """Decode UTF-8 and parse JSON. Raises InputError, naming `place` (a file or line), if either is impossible."""
    try:
        return parse_json(decode_utf8(content, place))
    except ValueError as error:
        raise InputError(f"{place}: {error}; get the file again or fix it by hand") from None


def decode_utf8(content: bytes, place: object) -> str:
    """Decode UTF-8. Raises InputError, naming `place` (a file or line), if it is not UTF-8 or is a web page."""
    try:
        text = content.decode("utf-8")
        if text[:1000].lstrip("\ufeff \t\r\n").startswith("<"):
            raise InputError(f"{place}: a web page in place of the file (to log in, or an error?); download it again")
        return text
    except UnicodeDecodeError as error:
        if content.startswith(GZIP_MAGIC):
            raise InputError(f"{place}: compressed by gzip; unpack it (gunzip)") from None
        raise InputError(f"{place}: not UTF-8 at byte {error.start}; save it as UTF-8") from None


def parse_json(text: str) -> Any:
    """Parse JSON strictly by the standard.

    Raises ValueError also for what `json.loads` silently accepts: NaN, infinity, numbers beyond a float's range, and
    duplicate keys in an object (it keeps the last one)."""
    hooks: dict[str, Any] = {"parse_constant": _parse_number, "parse_float": _parse_number, "parse_int": _parse_int}
    try:  # without the byte-order mark of some editors on Windows
        return json.loads(text.removeprefix("\ufeff"), object_pairs_hook=_unique_keys, **hooks)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno} " if error.lineno > 1 else ""
        raise ValueError(f"not JSON: {error.msg}, {line}column {error.colno} (was it cut short?)") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {twice!r} occurs twice in one object")
    return content


def _parse_number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text:.20} is not JSON, or too large")
    return number


def _parse_int(text: str) -> int:
    _parse_number(text)  # refuses an integer that no float can hold: computing with it would raise OverflowError
    return int(text)


def write_json(path: Path, content: Any) -> None:
    """Write `content` next to `path` and rename: readers see the old file or the new one, never part of it."""
    write_whole(path, encode_json(content, indent=2) + b"\n")


def encode_json(content: Any, indent: int | None = None) -> bytes:
    """Encode JSON as UTF-8. Bytes in a path or name that are not UTF-8 become question marks."""
    return json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")


def _part_of(path: Path) -> Path:
    """Path of the temporary file; its name is short, since a very long name allows no suffix."""
    return path.with_name(f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}.part")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Provide a temporary path next to `path`; it is renamed to `path` at the end, or removed if anything fails."""
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
    """Write `content` next to `path`, force it to disk, and rename. Raises InputError if that is not possible.

    Pipes and devices are written directly, and a link such as /dev/stdout stays one: renaming would replace them."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            with open(path, "wb", opener=without_waiting) as file:  # a pipe that nobody reads is an error
                os.set_blocking(file.fileno(), True)
                file.write(content)
            return
        with replacing(Path(os.path.realpath(path))) as part, part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _unwritable(path, error) from None


def check_writable(path: Path) -> None:
    """Raises InputError if `write_whole` would fail, before work is lost. Creates the folder."""
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder; name a file, such as {path / 'report'}{path.suffix}")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            return
        with suppress(FileNotFoundError):
            path.stat()  # fails if the name is too long
        part = _part_of(Path(os.path.realpath(path)))
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
    """Open a file for appending and reading, unbuffered; creates its folder. Raises InputError if not possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = FileIO(path, "a+", opener=without_waiting)
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return file
        file.close()
        raise OSError(errno.EINVAL, "Not a regular file")
    except OSError as error:
        raise _unwritable(path, error) from None


class JsonLines:
    """A file to append JSON lines to. Existing complete lines are kept; a new file begins with the line `first`.

    Raises InputError, ending with `fix`, if the file cannot be written or the disk is full."""

    def __init__(self, path: Path, fix: str, first: Mapping[str, Any] | None = None) -> None:
        self._path = path
        self._fix = fix
        self._file = open_to_append(path)
        self._file.seek(0)
        self._forced = self._file.readall().rfind(b"\n") + 1  # bytes known to be on disk
        self._file.truncate(self._forced)  # drop a line cut short by a kill, so that the next one starts fresh
        if self._forced == 0 and first is not None:
            self.append([first])
            # Never removed again, since other lines may follow it by then.
            self._forced = os.fstat(self._file.fileno()).st_size

    def append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Append lines. They survive the end of this process, but a crash of the machine only after `force`.

        Raises InputError if the disk is full; the file is then as before."""
        content = b"".join(encode_json(line) + b"\n" for line in lines)
        self.bring_back()
        end = self._file.seek(0, os.SEEK_END)
        try:
            while content:  # unbuffered, so a full disk shows here and not in close()
                content = content[self._file.write(content) :]
        except OSError as error:
            raise self._cut_off(end, error) from None

    def force(self) -> None:
        """Wait until everything appended so far is on disk.

        Raises InputError if the disk fails; what may not be on disk is then removed from the file."""
        end = os.fstat(self._file.fileno()).st_size
        try:
            if end != self._forced:
                os.fsync(self._file.fileno())
        except OSError as error:
            raise self._cut_off(self._forced, error) from None
        self._forced = end

    def bring_back(self) -> None:
        """Restore the file if it was deleted during the run: the content exists until the file is closed.

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
        """Force what was appended, for a process that ends early; ignores failures: its own error says enough."""
        with suppress(InputError):
            self.force()
        with suppress(OSError):
            self._file.close()

    def _cut_off(self, end: int, error: OSError) -> InputError:
        with suppress(OSError):
            self._file.truncate(end)
        return InputError(f"{self._path}: cannot be written ({error.strerror}); {self._fix}")
