"""JSON read whole or refused, files written whole or not at all."""

import hashlib
import json
import math
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from videobench.errors import InputError

HASH_BLOCK_BYTES = 1 << 20
# Limits against hostile files: a result file of all 17,036 questions takes about 40 MB, a number of it 20 digits.
MAX_JSON_BYTES = 1 << 28
MAX_DIGITS = 300  # a longer whole number does not fit a float either

HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")  # of a pair that makes one character, where the pair is whole


def read_json(path: Path) -> Any:
    """The content of a UTF-8 JSON file.

    Raises InputError, naming the file, where it is missing, larger than MAX_JSON_BYTES, not UTF-8, or not what
    `parse_json` takes."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    if len(content) > MAX_JSON_BYTES:
        raise InputError(f"{path}: larger than {MAX_JSON_BYTES} bytes, so no file of this benchmark; check the path")
    try:
        return parse_json(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not JSON: {error}; was it cut short? get the file anew") from None
    except ValueError as error:
        raise InputError(f"{path}: {error}; get the file anew or mend it by hand") from None


def parse_json(text: str) -> Any:
    """JSON as the standard has it, to the letter.

    Raises ValueError for what plain `json.loads` takes without a word: NaN, an infinity, a number beyond a float's
    range, half a character, one key twice in an object (of which it keeps the last); and for a byte-order mark and for
    objects nested too deeply to be read."""
    if text.startswith("\ufeff"):
        raise ValueError("begins with a byte-order mark, which JSON does not have; save it as UTF-8 without one")
    try:
        content = json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
            parse_float=_parse_float,
            parse_int=_parse_int,
        )
        if HALF_CHARACTER.search(text):
            _refuse_half_characters(content)
    except RecursionError:
        raise ValueError("nested too deeply to be a file of this benchmark") from None
    return content


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key!r} stands twice in one object")
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
    """Half of a pair cannot be written as UTF-8 again: the run would end when it stores the reply."""
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("holds half a character (a lone \\ud800 to \\udfff)") from None


def write_json(path: Path, content: Any) -> None:
    """Write `content` beside `path` and rename: a reader sees the old file or the new one, never half of it."""
    write_whole(path, encode_json(content, indent=2) + b"\n")


def encode_json(content: Any, indent: int | None = None) -> bytes:
    """As UTF-8. A path in a reason or a name may hold bytes that are no text: each is written as a question mark."""
    return json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")


def part_of(path: Path) -> Path:
    """Where to write before renaming to `path`: a short name, since one as long as the disk allows bears no suffix."""
    return path.with_name(f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}.part")


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` beside `path`, force it to the disk, and rename. Raises InputError where the folder refuses."""
    part = part_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise InputError(f"{path}: cannot be written ({error.strerror}); free space or choose another place") from None


def sha256_of_file(path: Path) -> str:
    """Hexadecimal SHA-256 of the file's bytes, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
