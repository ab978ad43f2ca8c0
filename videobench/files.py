"""Files read whole or refused, written whole or not at all."""

import errno
import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

from videobench.errors import InputError

HASH_BLOCK_BYTES = 1 << 20
# Limits against hostile files: a result file of all 17,036 questions takes about 40 MB, a number of it 20 digits.
MAX_JSON_BYTES = 1 << 28
MAX_DIGITS = 300  # a longer whole number does not fit a float either
MAX_DEPTH = 100  # of objects and lists in one another: a result file has 4, a checkpoint's configuration about 6

GZIP_MAGIC = b"\x1f\x8b"
NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
ESCAPED = re.compile(r"\\[\\\"]")  # a backslash or a quote within a string
STRING = re.compile(r'"[^"]*"')  # once those are gone
HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")  # of a pair that makes one character, where the pair is whole


def without_waiting(path: str, flags: int) -> int:
    """An opener for `open`: without it, opening a pipe would wait for its other end."""
    return os.open(path, flags | os.O_NONBLOCK, 0o666)


def open_regular(path: Path) -> BinaryIO:
    """The file, to be read; OSError where it is missing or no regular file.

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
            content = file.read(most_bytes + 1) or b""  # None where a file of /proc has nothing yet
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
        raise InputError(f"{path}: not JSON: {error}; was it cut short? get the file again") from None
    except ValueError as error:
        raise InputError(f"{path}: {error}; get the file again or fix it by hand") from None


def decode_utf8(content: bytes, place: object) -> str:
    """InputError, naming the file or the line that is `place`, where it is another thing than text in UTF-8."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        if content.startswith(GZIP_MAGIC):
            raise InputError(f"{place}: compressed by gzip; unpack it (gunzip)") from None
        raise InputError(f"{place}: not UTF-8 at byte {error.start}; save it as UTF-8") from None


def parse_json(text: str) -> Any:
    """JSON exactly as the standard defines it, nested at most MAX_DEPTH deep.

    Raises ValueError for what plain `json.loads` accepts silently: NaN, an infinity, a number beyond a float's range,
    half a character, one key twice in an object (of which it keeps the last); and for a byte-order mark."""
    if text.startswith("\ufeff"):
        raise ValueError("begins with a byte-order mark, which JSON does not allow; save it as UTF-8 without one")
    # Brackets in strings do not count. Leaving strings out takes as long as parsing: only where it matters.
    if _is_too_deep(text) and _is_too_deep(STRING.sub("", ESCAPED.sub("", text))):
        raise ValueError(f"nested too deeply to be a file of this benchmark (more than {MAX_DEPTH} levels)")
    content = json.loads(
        text,
        object_pairs_hook=_unique_keys,
        parse_constant=_refuse_constant,
        parse_float=_parse_float,
        parse_int=_parse_int,
    )
    if HALF_CHARACTER.search(text):
        _refuse_half_characters(content)
    return content


def _is_too_deep(text: str) -> bool:
    """By its brackets, before it is parsed: the parser recurses in C, and where that ends depends on the Python."""
    brackets = text.encode("utf-8", "surrogatepass").translate(None, NO_BRACKETS)
    return any(depth > MAX_DEPTH for depth in accumulate(1 if each in b"[{" else -1 for each in brackets))


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key!r} occurs twice in one object")
            seen.add(key)
    return content


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"the number {name} is not JSON")


def _parse_float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text:.20} is too large")
    return number


def _parse_int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"the number {text:.20}... has {len(text)} digits, which is too large")
    return int(text)


def _refuse_half_characters(content: Any) -> None:
    """Half of a pair cannot be encoded as UTF-8: the run would end when it stores the reply."""
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("holds half a character (a lone \\ud800 to \\udfff)") from None


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
    """Writes `content` beside `path`, forces it to the disk, and renames. Raises InputError where the folder refuses.

    A pipe or a device, as /dev/stdout, is written into: renaming would replace it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            return _write_into(path, content)
        with replacing(path) as part, part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _unwritable(path, error) from None


def check_writable(path: Path) -> None:
    """Raises InputError where `write_whole` could not write: before the work that would be lost. Makes the folder."""
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
    reason = error.strerror
    if error.errno == errno.ENAMETOOLONG:
        return InputError(f"{path}: cannot be written ({reason}); choose a shorter name")
    return InputError(f"{path}: cannot be written ({reason}); free space or choose another place")


def _write_into(path: Path, content: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_NONBLOCK), "wb") as file:  # a pipe that nobody reads is an error
        os.set_blocking(file.fileno(), True)
        file.write(content)


def sha256_of_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a regular file's bytes, read in blocks; OSError where it cannot be read."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
