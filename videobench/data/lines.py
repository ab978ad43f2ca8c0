"""Files of JSON lines: read one line at a time, told apart by what their lines hold."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from videobench.errors import InputError
from videobench.files import decode_utf8, open_regular, parse_json

# Limits against hostile files. A line of AISBench may hold a video's frames, and its eight largest take 40 MB.
MAX_LINE_BYTES = 1 << 26
MAX_LINES = 200_000  # 17,036 questions are all of Video-Bench

OWN, BATCH, AISBENCH, LMMS_EVAL = "result file", "OpenAI batch output", "AISBench predictions", "lmms-eval samples"
AISBENCH_FAILED = "AISBench's failed questions"
REQUESTS, FACTS = "OpenAI batch requests", "facts of exported requests"
# What each line of a kind holds and no other kind's does.
MARKS = {
    BATCH: {"custom_id", "response"},
    REQUESTS: {"custom_id", "body"},
    AISBENCH: {"data_abbr", "origin_prompt", "prediction"},
    AISBENCH_FAILED: {"data_abbr", "input", "error_info"},
    LMMS_EVAL: {"doc_id", "doc_hash", "filtered_resps"},
    FACTS: {"custom_id", "prompt_sha256"},
}
KNOWN = (
    "a result file of this suite or of MindIE, OpenAI batch output, AISBench's predictions (videobench.jsonl) and the "
    "samples of lmms-eval's --log_samples"
)


def kind_of(path: Path) -> str:
    """OWN, or the kind of MARKS that the first line has the marks of.

    Raises InputError where it has those of two, where it is a line of no known kind, or cannot be read."""
    lines = _raw_lines(path)
    try:
        first = parse_json(next(lines, (0, b""))[1].decode("utf-8"))
    except ValueError:  # JSON over several lines, or what its reader refuses
        return OWN
    if not isinstance(first, dict):
        return OWN
    found = [kind for kind, marks in MARKS.items() if marks <= first.keys()]
    if len(found) == 1:
        return found[0]
    if not found and next(lines, None) is None:
        return OWN
    keys = ", ".join(repr(key)[:40] for key in list(first)[:8])
    why = f"fit {' and '.join(found)}" if found else "are of an unknown kind"
    raise InputError(f"{path}: its lines {why} (the first has {keys}); known are {KNOWN}")


def read_lines(path: Path, kind: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(number, from 1; content) of each line that is not blank.

    Raises InputError, naming file and line, for what files.parse_json refuses, and at a line that is not of `kind`."""
    for number, line in _raw_lines(path):
        place = f"{path}: line {number}"
        try:
            content = parse_json(decode_utf8(line, place))
        except json.JSONDecodeError as error:
            raise InputError(f"{place}: not JSON: {error.msg}; was the file cut short? get it again") from None
        except ValueError as error:
            raise InputError(f"{place}: {error}; get the file again or fix it by hand") from None
        if not isinstance(content, dict) or not MARKS[kind] <= content.keys():
            wanted = ", ".join(sorted(MARKS[kind]))
            raise InputError(f"{place}: not {kind}, which has {wanted} in each line; get the file again")
        yield number, content


def _raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with open_regular(path) as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise InputError(f"{path}: line {number}: longer than {MAX_LINE_BYTES} bytes; get the file again")
                if number > MAX_LINES:
                    raise InputError(f"{path}: more than {MAX_LINES} lines, so not of this benchmark; check the path")
                if line.strip():
                    yield number, line
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None
