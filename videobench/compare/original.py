"""The original scripts' way of scoring, kept so that their old numbers can be had again: `--scoring mindie`.

Its faults are kept too: a bare text is judged by its first character, "Cat" is a C, "is Black" a B, F is unknown, and a
question that either side left unanswered is dropped for both.
"""

from collections.abc import Sequence
from pathlib import Path

from videobench.data.dataset import ANSWERS, check_kind
from videobench.errors import InputError
from videobench.files import read_json

LETTERS = "ABCDE"
SHORT_REPLY_LENGTH = 5


def read_letter_as_original(output: str | Sequence[str]) -> str | None:
    """The letter that the original reads from `output_sequence`: of a bare text it sees the first character only."""
    text = output[0] if output else ""
    for _ in range(10):
        text = text.replace("  ", " ")
    text = text.replace("</s>", "").replace("<|im_end|>", "")
    if len(text) < SHORT_REPLY_LENGTH:
        return _first_of(LETTERS, text)
    if any(f"is {letter}" in text for letter in LETTERS):
        return next(letter for letter in LETTERS if f"is {letter}" in text)
    return next((letter for letter in LETTERS if f" {letter}." in text), None)


def right_letter(answer: str) -> str | None:
    """The first of A to E, in that order, that stands anywhere in the answer; F is none."""
    return _first_of(LETTERS, answer)


def _first_of(letters: str, text: str) -> str | None:
    return next((letter for letter in letters if letter in text), None)


def load_raw_answers(path: Path) -> dict[str, tuple[str, str]]:
    """Bare key -> (dataset, text of the answer): a later data set overwrites an earlier one's equal key.

    Raises InputError, naming the entry, where the file is no answer file."""
    content = read_json(path)
    check_kind(path, content, ANSWERS)
    if not isinstance(content, dict) or not all(isinstance(entries, dict) for entries in content.values()):
        raise InputError(f"{path}: not an answer file (data set -> question id -> answer); get the file again")
    answers = {}
    for dataset, entries in content.items():
        for key, entry in entries.items():
            answer = entry.get("answer") if isinstance(entry, dict) else entry
            if not isinstance(answer, str):
                raise InputError(f"{path}: {dataset}/{key}: answer {answer!r:.60} is not a text; fix that entry")
            answers[key] = (dataset, answer)
    return answers
