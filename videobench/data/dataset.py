"""Video-Bench's QA and answer files -> checked questions and letters.

Every trap of the real files is handled here and named in tests/data/test_dataset.py: ids that occur in several sets,
null, empty and numeric options, letters out of order, numeric video ids, a set spelt with `_` for `-`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from videobench.console import warn_once
from videobench.data.kinds import ANSWERS, QUESTIONS, check_kind
from videobench.data.video_root import VIDEOS_NAME
from videobench.errors import InputError
from videobench.files import read_json

DATASET_NAMES = (  # in the order of the three levels of the benchmark
    "ActivityNet",
    "MSVD",
    "MSRVTT",
    "TGIF",
    "Youcook2",
    "Ucfcrime",
    "MOT",
    "TVQA",
    "MV",
    "NBA",
    "Driving-exam",
    "Driving-decision-making",
    "SQA3D",
)
SAMPLE_NAME = "sampling_data"  # the folder of a sample's videos, and its name as a data set
SAMPLE_QA_FILE = "sampling_datasets_QA_new.json"
LETTERS = "ABCDEF"  # MOT has six options
CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # would end a line, or steer a terminal
MAX_NAME_BYTES = 255  # of a file or folder, on every usual file system
MAX_PATH_BYTES = 1024  # of a vid_path; Linux takes 4096, the video root with it

QuestionName = tuple[str, str]  # (dataset, id): an id alone is unique within its data set only


@dataclass(frozen=True)
class Question:
    """One row of a QA file, checked."""

    source: str  # the set that was asked for, "MSVD" or "sampling_data": names the result file of the reply
    dataset: str  # "MSVD"
    id: str  # "40810": unique within its dataset only
    key: str  # as in the QA and result files: the id, in a sample "MSVD/40810"
    vid_path: str  # "Eval_video/MSVD/x.avi", relative to the video root, as in the QA file
    video: Path  # the absolute or relative place of that file; it may be missing, which is checked when the work starts
    video_id: str | int  # 7011 in MSRVTT, a text elsewhere
    text: str  # without the options
    # Letter -> text, letters ascending, at least one; null and empty options are left out.
    options: dict[str, str] = field(hash=False)


def resolve_names(requested: str, qa_root: Path) -> list[str]:
    """Names of data sets from a flag: one name, several with commas, or `all`; `Driving_exam` is `Driving-exam`.

    With `all`, a set without a QA file is left out and named on stderr. Raises InputError where a set that was named
    has no QA file, is unknown, or is named twice."""
    if requested == "all":
        present = [name for name in DATASET_NAMES if qa_file(qa_root, name).is_file()]
        absent = [name for name in DATASET_NAMES if name not in present]
        if not present:
            raise InputError(f"{qa_root / 'Eval_QA'}: holds no QA file of Video-Bench; check --Eval_QA_root")
        if absent:
            warn_once(f"warning: no QA file in {qa_root / 'Eval_QA'} for: {', '.join(absent)}; left out")
        return present
    names = [canonical_name(name) for name in requested.split(",")]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"data set {name} is named twice; name each set once")
        if not qa_file(qa_root, name).is_file():
            raise InputError(f"{qa_file(qa_root, name)}: missing; {_where_it_may_be(qa_root, name)}")
    return names


def _where_it_may_be(qa_root: Path, name: str) -> str:
    """What to do about a QA file that is not there."""
    if (qa_root / qa_file(qa_root, name).name).is_file():
        is_folder_itself = qa_root.resolve().name == "Eval_QA"
        fix = "give the folder above it" if is_folder_itself else "move it into a folder Eval_QA there"
        return f"it lies in --Eval_QA_root itself: {fix}"
    first = "run extract_dataset.py first, or " if name == SAMPLE_NAME else ""
    return f"{first}check --Eval_QA_root, the folder that holds Eval_QA"


def canonical_name(name: str) -> str:
    """The name as Video-Bench spells it, from any case and with `_` for `-`; InputError for an unknown one."""
    if not is_known(name):
        raise InputError(f"unknown data set {name!r}; known: {', '.join(KNOWN_NAMES.values())}, or all")
    return KNOWN_NAMES[folded(name)]


def is_known(name: str) -> bool:
    return folded(name) in KNOWN_NAMES


def folded(name: str) -> str:
    """One spelling for all variants of a name: `Driving_Exam` and `Driving-exam/` become `driving-exam`."""
    return name.strip().rstrip("/").lower().replace("_", "-")


KNOWN_NAMES = {folded(each): each for each in (*DATASET_NAMES, SAMPLE_NAME)}


def qa_file(qa_root: Path, name: str) -> Path:
    """The QA file of a data set. (`MOT_QA.json`, beside that of MOT, holds answers.)"""
    return qa_root / "Eval_QA" / (SAMPLE_QA_FILE if name == SAMPLE_NAME else f"{name}_QA_new.json")


def load_questions(qa_path: Path, name: str, locate: Callable[[str], Path]) -> list[Question]:
    """The questions of one QA file, in its order; `locate` turns a row's `vid_path` into the video's place.

    Raises InputError, naming file, question and fix, at the first row that is not a question."""
    rows = read_json(qa_path)
    check_kind(qa_path, rows, QUESTIONS)
    if not isinstance(rows, dict) or not rows:
        raise InputError(f"{qa_path}: not a QA file (question id -> question), or empty; get it again")
    questions: dict[QuestionName, Question] = {}
    for key, row in rows.items():
        try:
            question = _read_question(name, key, row, locate)
            if (question.dataset, question.id) in questions:
                raise ValueError(f"repeats question {question.id!r} of {question.dataset}")
        except ValueError as error:
            raise InputError(f"{qa_path}: question {key!r}: {error}; fix that row or get the file again") from None
        questions[question.dataset, question.id] = question
    return list(questions.values())


def _read_question(name: str, key: str, row: Any, locate: Callable[[str], Path]) -> Question:
    if not isinstance(row, dict):
        raise ValueError(f"is not an object but {_describe_type(row)}")
    if not key.strip() or CONTROL_CHARACTER.search(key):
        raise ValueError("the id is empty, or holds a line end or another control character")
    vid_path = _check_vid_path(_require_text(row, "vid_path"))
    video_id = row.get("video_id")
    if isinstance(video_id, bool) or not isinstance(video_id, str | int):
        raise ValueError(f"video_id is {_describe_type(video_id)}, not a text or a whole number")
    dataset = canonical_name_of_row(name, row)
    return Question(
        source=name,
        dataset=dataset,
        id=_id_in_sample(key, dataset) if name == SAMPLE_NAME else key,
        key=key,
        vid_path=vid_path,
        video=locate(vid_path),
        video_id=video_id,
        text=_require_text(row, "question"),
        options=_read_options(row.get("choices")),
    )


def canonical_name_of_row(name: str, row: Mapping[str, Any]) -> str:
    """The set that a row comes from: that of the file, in a sample that of the row. ValueError where it names none."""
    if name != SAMPLE_NAME:
        return name
    dataset = row.get("dataset")
    if dataset not in DATASET_NAMES:
        raise ValueError(f"dataset is {dataset!r}, but in a sample it must name one of the 13 sets")
    return str(dataset)


def _check_vid_path(vid_path: str) -> str:
    parts = PurePosixPath(vid_path).parts
    if vid_path.startswith("/") or ".." in parts or len(parts) < 3:
        raise ValueError(f"vid_path {vid_path!r} is not {VIDEOS_NAME}/<data set>/<file> below the video root")
    if CONTROL_CHARACTER.search(vid_path):
        raise ValueError(f"vid_path {vid_path!r} holds a control character")
    if len(vid_path.encode()) > MAX_PATH_BYTES or any(len(part.encode()) > MAX_NAME_BYTES for part in parts):
        raise ValueError(f"vid_path {vid_path:.40}... is longer than any file's path")
    return vid_path


def _id_in_sample(key: str, dataset: str) -> str:
    """In samples of the original ids are bare, in those of this suite the set comes first."""
    head, slash, id = key.partition("/")
    if slash and head in DATASET_NAMES and (head != dataset or not id):
        raise ValueError(f"the key names {head}, but the row's dataset is {dataset}")
    return id if slash and head == dataset else key


def load_answers(path: Path) -> dict[QuestionName, str]:
    """(dataset, id) -> right letter, from ANSWER.json or a sample's answer file.

    An entry is `{"answer": "A"}` or a bare `"A"`; an id may be written `<dataset>/<id>`, as in a sample, and a set's
    name with `_` for `-`. Raises InputError, naming file, data set and question, at the first entry that is neither."""
    sets = read_json(path)
    check_kind(path, sets, ANSWERS)
    if not isinstance(sets, dict) or not sets:
        raise InputError(f"{path}: not an answer file (data set -> question id -> answer), or empty; get it again")
    answers: dict[QuestionName, str] = {}
    for written, entries in sets.items():
        dataset = KNOWN_NAMES.get(folded(written)) or written
        if not isinstance(entries, dict):
            raise InputError(f"{path}: data set {written!r} holds {_describe_type(entries)}, not answers; get it again")
        for key, entry in entries.items():
            id = key.removeprefix(f"{written}/")
            if (dataset, id) in answers:
                raise InputError(f"{path}: {dataset}/{id} is answered twice; remove one of the entries")
            letter = entry.get("answer") if isinstance(entry, dict) else entry
            if not isinstance(letter, str) or len(letter.strip()) != 1 or letter.strip() not in LETTERS:
                raise InputError(
                    f"{path}: {dataset}/{id}: answer {letter!r} is not a letter of {LETTERS}; fix that entry"
                )
            answers[dataset, id] = letter.strip()
    if not answers:
        raise InputError(f"{path}: holds no answer; get it again")
    return answers


def _require_text(row: Mapping[str, Any], field: str) -> str:
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{field} is {_describe_type(value)}, not a text")
    return value


def _read_options(choices: Any) -> dict[str, str]:
    """Letter -> text in the order of the letters; null and empty options are left out, numbers become text."""
    if not isinstance(choices, dict):
        raise ValueError(f"choices is {_describe_type(choices)}, not an object of letters")
    options = {}
    for letter in sorted(choices):
        if len(letter) != 1 or letter not in LETTERS:
            raise ValueError(f"option {letter!r} is not a letter of {LETTERS}")
        option = choices[letter]
        if isinstance(option, bool) or not isinstance(option, str | int | float | None):
            raise ValueError(f"option {letter} is {_describe_type(option)}, not a text or a number")
        if option is not None and str(option).strip():
            options[letter] = str(option)
    if not options:
        raise ValueError("no option has a text")
    return options


def _describe_type(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "an empty text", bool: "true or false", type(None): "missing"}
    return names.get(type(value), "a number")
