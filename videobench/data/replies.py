"""Result files and folders -> replies.

A row is what rows.py writes, or Video-Bench's own form, or MindIE's, whose `output_sequence` is a bare text. Every
field but `output_sequence` may be missing.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videobench.data.dataset import DATASET_NAMES, LETTERS, SAMPLE_NAME, QuestionName, folded
from videobench.data.kinds import REPLIES, check_kind
from videobench.errors import InputError
from videobench.files import read_json

RESULT_SUFFIX = "_eval.json"
LEAST_LOGPROB, GREATEST_LOGPROB = -1e5, 1e-2  # nats: a 16-bit logit is at least -65504; rounding may pass 0
LARGEST_NUMBER = 1e12  # of any field of a row; sums and squares of these stay finite


@dataclass(frozen=True, slots=True)
class Reply:
    """One row of a result file; None, an empty text or an empty dict where the file does not say."""

    dataset: str  # "MSVD"
    id: str  # "40810"
    key: str  # as the file writes it: "40810", in a sample "MSVD/40810"
    output: str | list[str]  # as the file writes it: a list of one text, from MindIE a bare text
    text: str  # what the model wrote
    error: str  # why the question failed, empty where it was answered
    video_id: str | int  # 7011 in MSRVTT, a text elsewhere
    vid_path: str  # relative to the video root
    question: str
    options: dict[str, str]  # letter -> text, in the order of the file, empty options dropped
    logprobs: dict[str, float]  # letter -> natural log of its probability at the first generated position
    prompt_tokens: int | None
    prompt_sha256: str
    video_sha256: str
    pixels_sha256: str
    frames_decoded: int | None
    resolution: str  # "320x240"
    nonfinite: bool  # the logits held NaN or an infinity
    rank: int | None
    run: Mapping[str, Any]  # the run's settings and environment

    @property
    def own_question(self) -> str:
        """The question without its options and without the instruction, which every question ends with."""
        first = next(iter(self.options.items()), None)
        cut = self.question.find(f"{first[0]}.{first[1]}") if first else -1
        own = self.question[:cut] if cut >= 0 else self.question.split("\n")[0]
        return own.strip().removesuffix("Choices:")


def load_results(path: Path, answers: Iterable[QuestionName], by_key: bool = False) -> dict[QuestionName, Reply]:
    """The replies of one result file, or of every `*_eval.json` of a folder.

    A row belongs to the data set that its key names (`MSVD/40810`), else its `dataset`, else its file's name
    (`MSVD_eval.json`), else the only set of `answers` that has its id. Raises InputError, naming file and row, where
    two sets have it, where key and `dataset` name two sets, where two rows answer one question, or where a row is
    none. `by_key` is for the original's way of scoring, which knows no data sets: the replies are then named ("", key
    as in the file), a later file's before an earlier one's."""
    finder = _Finder(answers, by_key)
    replies: dict[QuestionName, Reply] = {}
    places: dict[QuestionName, str] = {}
    for file in _files_of(path):
        for key, row in _rows_of(file):
            place = f"{file}: row {key!r}"
            try:
                name = finder.find(key, row, file.name)
                reply = build_reply(name, key, row)
            except ValueError as error:
                raise InputError(f"{place}: {error}") from None
            if by_key:
                name = ("", key)
            elif name in replies:
                raise InputError(f"{place} answers the same question as {places[name]}; remove one of them")
            replies[name], places[name] = reply, place
    return replies


def _files_of(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(path / name for name in os.listdir(path) if name.endswith(RESULT_SUFFIX))
    if not files:
        raise InputError(
            f"{path}: no result file (<data set>{RESULT_SUFFIX}) in this folder; name the run's output folder"
        )
    return files


def _rows_of(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    rows = read_json(file)
    check_kind(file, rows, REPLIES)
    if not isinstance(rows, dict) or not rows:
        raise InputError(f"{file}: not a result file (question -> reply), or empty; name a file written by the run")
    for key, row in rows.items():
        if not isinstance(row, dict):
            raise InputError(
                f"{file}: row {key!r} is no object; name a result file written by the run, not its questions"
            )
        yield key, row


class _Finder:
    """Which question a row answers."""

    def __init__(self, answers: Iterable[QuestionName], takes_last: bool) -> None:
        self.takes_last = takes_last  # of several data sets that have a bare id
        answers = list(answers)
        self.sets = {folded(name): name for name in DATASET_NAMES}
        self.sets.update({folded(dataset): dataset for dataset in {dataset for dataset, _ in answers}})
        self.sets_of_id: dict[str, list[str]] = {}
        for dataset, id in answers:
            self.sets_of_id.setdefault(id, []).append(dataset)

    def find(self, key: str, row: Mapping[str, Any], file_name: str) -> QuestionName:
        head, slash, tail = key.partition("/")
        named = row.get("dataset")
        if not isinstance(named, str) or not named.strip() or folded(named) == folded(SAMPLE_NAME):
            named = ""
        if slash and folded(head) in self.sets:
            if named and folded(named) != folded(head):
                raise ValueError(f"its key names {head}, its dataset is {named!r:.60}; fix the one that is wrong")
            return self.sets[folded(head)], tail
        if named:
            return self.sets.get(folded(named), named), key
        stem = file_name.removesuffix(RESULT_SUFFIX)
        if file_name.endswith(RESULT_SUFFIX) and folded(stem) in self.sets:
            return self.sets[folded(stem)], key
        candidates = self.sets_of_id.get(key, [])
        if len(candidates) > 1 and not self.takes_last:
            raise ValueError(
                f"the id stands in {len(candidates)} data sets ({', '.join(candidates)}) and the row names none; "
                f"call the file <data set>{RESULT_SUFFIX}, or write the keys as <data set>/<id>"
            )
        return (candidates[-1] if candidates else ""), key


def build_reply(name: QuestionName, key: str, row: Mapping[str, Any]) -> Reply:
    """The row as a Reply; ValueError, naming the field and what it holds, where one cannot be what it should be."""
    error = _text(row, "error")
    output = row.get("output_sequence")
    if output is None and error:
        output = [""]
    if isinstance(output, list) and output and all(isinstance(part, str) for part in output):
        text = output[0]
    elif isinstance(output, str):
        text = output
    else:
        raise ValueError(f"output_sequence is {output!r:.60}, not a text or a list of one; run that question again")
    return Reply(
        dataset=name[0],
        id=name[1],
        key=key,
        output=output,
        text=text,
        error=error,
        video_id=_video_id(row.get("video_id")),
        vid_path=_text(row, "vid_path"),
        question=_text(row, "question"),
        options=_options(row.get("choices")),
        logprobs=_logprobs(row.get("letter_logprobs")),
        prompt_tokens=_whole_number(row, "prompt_tokens"),
        prompt_sha256=_text(row, "prompt_sha256"),
        video_sha256=_text(row, "video_sha256"),
        pixels_sha256=_text(row, "pixels_sha256"),
        frames_decoded=_whole_number(row, "frames_decoded"),
        resolution=_resolution(row),
        nonfinite=_flag(row, "nonfinite"),
        rank=_whole_number(row, "rank"),
        run=_run(row.get("run")),
    )


def _text(row: Mapping[str, Any], field: str) -> str:
    value = row.get(field)
    if not isinstance(value, str | None):
        raise ValueError(f"{field} is {value!r:.60}, not a text; remove it or correct it")
    return value or ""


def _flag(row: Mapping[str, Any], field: str) -> bool:
    value = row.get(field)
    if not isinstance(value, bool | None):
        raise ValueError(f"{field} is {value!r:.60}, not true or false; remove it or correct it")
    return bool(value)


def _video_id(value: Any) -> str | int:
    if isinstance(value, bool) or not isinstance(value, str | int | None):
        raise ValueError(f"video_id is {value!r:.60}, not a text or a whole number; remove it or correct it")
    return "" if value is None else value


def _options(choices: Any) -> dict[str, str]:
    if choices is None:
        return {}
    if not isinstance(choices, dict) or not all(
        letter in LETTERS and len(letter) == 1 and isinstance(text, str | int | float | None)
        for letter, text in choices.items()
    ):
        raise ValueError(f"choices is {choices!r:.60}, not letters of {LETTERS} with texts; remove it or correct it")
    return {letter: str(text) for letter, text in choices.items() if text is not None and str(text).strip()}


def _logprobs(values: Any) -> dict[str, float]:
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(value is None or _is_logprob(value) for value in values.values()):
        raise ValueError(f"letter_logprobs is {values!r:.60}, not letters with logarithms; remove it or correct it")
    return {letter: float(value) for letter, value in values.items() if value is not None}


def _is_logprob(value: Any) -> bool:
    return _is_number(value) and LEAST_LOGPROB <= value <= GREATEST_LOGPROB


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST_NUMBER


def _number(row: Mapping[str, Any], field: str) -> float | None:
    value = row.get(field)
    if value is not None and not _is_number(value):
        raise ValueError(f"{field} is {value!r:.60}, not a number; remove it or correct it")
    return None if value is None else float(value)


def _whole_number(row: Mapping[str, Any], field: str) -> int | None:
    value = _number(row, field)
    return None if value is None else int(value)


def _resolution(row: Mapping[str, Any]) -> str:
    """ "320x240", from that text or from [320, 240]."""
    value = row.get("resolution")
    if isinstance(value, list) and all(map(_is_number, value)):
        return "x".join(map(str, value))
    return _text(row, "resolution")


def _run(value: Any) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"run is {value!r:.60}, not an object; remove it or correct it")
    return value or {}
