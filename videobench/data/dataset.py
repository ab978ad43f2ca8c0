"""Video-Bench's QA and answer files -> checked questions and letters.

Every trap of the real files is handled here and named in tests/data/test_dataset.py: ids that stand in several sets,
null, empty and numeric options, letters out of order, numeric video ids, a set spelt with `_` for `-`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from videobench.console import warn_once
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
    source: str  # "MSVD" or "sampling_data": the set that was asked for, whose result file the reply goes to
    dataset: str  # "MSVD"
    id: str  # "40810": unique within its dataset only
    key: str  # as in the QA and result files: the id, in a sample "MSVD/40810"
    vid_path: str  # "Eval_video/MSVD/x.avi", relative to the video root, as in the QA file
    video: Path  # where that file should lie; whether it does is checked when the work starts
    video_id: str | int  # 7011 in MSRVTT, a text elsewhere
    text: str  # without the options
    options: dict[str, str] = field(
        hash=False
    )  # letter -> text, letters in order, null and empty ones dropped, at least one


def resolve_names(requested: str, qa_root: Path) -> list[str]:
    """Names of data sets from a flag: one name, several with commas, or `all`; `Driving_exam` is `Driving-exam`.

    Of `all`, a set without its QA file is named on stderr and left out; of sets asked for by name it is an InputError,
    as is an unknown name."""
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
            raise InputError(f"data set {name} is asked for twice")
        if not qa_file(qa_root, name).is_file():
            raise InputError(f"{qa_file(qa_root, name)}: missing; check --Eval_QA_root, it is the folder above Eval_QA")
    return names


def canonical_name(name: str) -> str:
    """The name as Video-Bench spells it, from any case and with `_` for `-`; InputError for an unknown one."""
    if not is_known(name):
        raise InputError(f"unknown data set {name!r}; known: {', '.join(KNOWN_NAMES.values())}, or all")
    return KNOWN_NAMES[folded(name)]


def is_known(name: str) -> bool:
    return folded(name) in KNOWN_NAMES


def folded(name: str) -> str:
    """One spelling for all that are meant alike: `Driving_Exam` is `driving-exam`."""
    return name.strip().lower().replace("_", "-")


KNOWN_NAMES = {folded(each): each for each in (*DATASET_NAMES, SAMPLE_NAME)}


def qa_file(qa_root: Path, name: str) -> Path:
    """The QA file of a data set; `MOT_QA.json`, which lies beside MOT's, holds answers and is not one."""
    return qa_root / "Eval_QA" / (SAMPLE_QA_FILE if name == SAMPLE_NAME else f"{name}_QA_new.json")


def load_questions(qa_path: Path, name: str, locate: Callable[[str], Path]) -> list[Question]:
    """The questions of one QA file, in its order; `locate` turns a row's `vid_path` into the video's place.

    Raises InputError, naming file, question and mend, at the first row that is not one."""
    rows = read_json(qa_path)
    if not isinstance(rows, dict) or not rows:
        raise InputError(f"{qa_path}: not a QA file (question id -> question), or empty; get the file anew")
    questions: dict[QuestionName, Question] = {}
    for key, row in rows.items():
        try:
            question = _question(name, key, row, locate)
            if (question.dataset, question.id) in questions:
                raise ValueError(f"is question {question.id!r} of {question.dataset} for the second time")
        except ValueError as error:
            raise InputError(f"{qa_path}: question {key!r}: {error}; mend that row or get the file anew") from None
        questions[question.dataset, question.id] = question
    return list(questions.values())


def _question(name: str, key: str, row: Any, locate: Callable[[str], Path]) -> Question:
    if not isinstance(row, dict):
        raise ValueError(f"is not an object but {_kind(row)}")
    if not key.strip() or CONTROL_CHARACTER.search(key):
        raise ValueError("the id is empty, or holds a line end or another control character")
    vid_path = _vid_path(row)
    video_id = row.get("video_id")
    if isinstance(video_id, bool) or not isinstance(video_id, str | int):
        raise ValueError(f"video_id is {_kind(video_id)}, not a text or a whole number")
    dataset = canonical_name_of_row(name, row)
    return Question(
        source=name,
        dataset=dataset,
        id=_id_in_sample(key, dataset) if name == SAMPLE_NAME else key,
        key=key,
        vid_path=vid_path,
        video=locate(vid_path),
        video_id=video_id,
        text=_text(row, "question"),
        options=_options(row.get("choices")),
    )


def canonical_name_of_row(name: str, row: Mapping[str, Any]) -> str:
    """The set a row comes from: the file's own, but in a sample what the row says."""
    if name != SAMPLE_NAME:
        return name
    dataset = row.get("dataset")
    if dataset not in DATASET_NAMES:
        raise ValueError(f"dataset is {dataset!r}, in a sample it names one of the 13 sets")
    return str(dataset)


def _vid_path(row: Mapping[str, Any]) -> str:
    vid_path = _text(row, "vid_path")
    parts = PurePosixPath(vid_path).parts
    if vid_path.startswith("/") or ".." in parts or len(parts) < 3:
        raise ValueError(f"vid_path {vid_path!r} is not {VIDEOS_NAME}/<data set>/<file> below the video root")
    if CONTROL_CHARACTER.search(vid_path):
        raise ValueError(f"vid_path {vid_path!r} holds a control character")
    if len(vid_path.encode()) > MAX_PATH_BYTES or any(len(part.encode()) > MAX_NAME_BYTES for part in parts):
        raise ValueError(f"vid_path {vid_path:.40}... is longer than any file's path")
    return vid_path


def _id_in_sample(key: str, dataset: str) -> str:
    """The original's samples have bare ids; those of this suite begin with the set."""
    head, slash, id = key.partition("/")
    if slash and head in DATASET_NAMES and (head != dataset or not id):
        raise ValueError(f"the key names {head}, but the row's dataset is {dataset}")
    return id if slash and head == dataset else key


def load_answers(path: Path) -> dict[QuestionName, str]:
    """(dataset, id) -> right letter, from ANSWER.json or a sample's answer file.

    An entry is `{"answer": "A"}` or a bare `"A"`; ids may be written `<dataset>/<id>`, as in a sample, and a set's name
    with `_` for `-`. Raises InputError, naming file, data set and question, at the first entry that is neither."""
    sets = read_json(path)
    if not isinstance(sets, dict) or not sets:
        raise InputError(f"{path}: not an answer file (data set -> question id -> answer), or empty; get the file anew")
    answers: dict[QuestionName, str] = {}
    for written, entries in sets.items():
        dataset = KNOWN_NAMES.get(folded(written)) or written
        if not isinstance(entries, dict):
            raise InputError(f"{path}: data set {written!r} holds {_kind(entries)}, not answers; get the file anew")
        for key, entry in entries.items():
            id = key.removeprefix(f"{written}/")
            if (dataset, id) in answers:
                raise InputError(f"{path}: {dataset}/{id} is answered twice; remove one of the entries")
            letter = entry.get("answer") if isinstance(entry, dict) else entry
            if not isinstance(letter, str) or len(letter.strip()) != 1 or letter.strip() not in LETTERS:
                raise InputError(
                    f"{path}: {dataset}/{id}: answer {letter!r} is not a letter of {LETTERS}; mend that entry"
                )
            answers[dataset, id] = letter.strip()
    if not answers:
        raise InputError(f"{path}: holds no answer; get the file anew")
    return answers


def _text(row: Mapping[str, Any], field: str) -> str:
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{field} is {_kind(value)}, not a text")
    return value


def _options(choices: Any) -> dict[str, str]:
    """Letter -> text in the order of the letters; null and empty options are dropped, numbers become their text."""
    if not isinstance(choices, dict):
        raise ValueError(f"choices is {_kind(choices)}, not an object of letters")
    options = {}
    for letter in sorted(choices):
        if len(letter) != 1 or letter not in LETTERS:
            raise ValueError(f"option {letter!r} is not a letter of {LETTERS}")
        option = choices[letter]
        if isinstance(option, bool) or not isinstance(option, str | int | float | None):
            raise ValueError(f"option {letter} is {_kind(option)}, not a text or a number")
        if option is not None and str(option).strip():
            options[letter] = str(option)
    if not options:
        raise ValueError("no option has a text")
    return options


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "an empty text", bool: "true or false", type(None): "missing"}
    return names.get(type(value), "a number")
