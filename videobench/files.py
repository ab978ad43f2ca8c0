"""JSON read whole or refused, files written whole or not at all."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from videobench.errors import InputError

HASH_BLOCK_BYTES = 1 << 20


def read_json(path: Path) -> Any:
    """The content of a UTF-8 JSON file.

    Raises InputError, naming the file, where it is missing, not UTF-8, not JSON, cut short, nested too deeply, or holds
    NaN, an infinity or one key twice in an object (of which plain `json.load` keeps the last without a word)."""
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    try:
        return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not JSON: {error}; was it cut short? get the file anew") from None
    except RecursionError:
        raise InputError(f"{path}: nested too deeply to be a file of this benchmark; get the file anew") from None
    except ValueError as error:
        raise InputError(f"{path}: {error}; get the file anew or mend it by hand") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        doubled = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {doubled!r} stands twice in one object")
    return content


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"the number {name} is not JSON")


def write_json(path: Path, content: Any) -> None:
    """Write `content` beside `path` and rename: a reader sees the old file or the new one, never half of it."""
    write_whole(path, (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` beside `path`, force it to the disk, and rename. Raises InputError where the folder refuses."""
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written ({error.strerror}); free space or choose another folder") from None


def sha256_of_file(path: Path) -> str:
    """Hexadecimal SHA-256 of the file's bytes, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
