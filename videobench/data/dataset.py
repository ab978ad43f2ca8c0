"""Read Video-Bench's QA and answer files: checked questions, their wording, their videos' paths, the right letters.
Also reads a sample's manifest, which a copy of the sample is checked against.

Handles the oddities of the real files (each has a test in tests/data/test_dataset.py): ids that occur in several sets,
null, empty and numeric options, letters out of order, numeric video ids, a set spelt with `_` for `-`.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from videobench.console import warn_once
from videobench.errors import InputError
from videobench.files import read_json, sha256_of_file

DATASET_NAMES = (  # one line per level of the benchmark
    *("ActivityNet", "MSVD", "MSRVTT", "TGIF", "Youcook2", "Ucfcrime", "MOT"),
    *("TVQA", "MV", "NBA"),
    *("Driving-exam", "Driving-decision-making", "SQA3D"),
)
VIDEOS_NAME = "Eval_video"  # the folder of all sets' videos
SAMPLE_NAME = "sampling_data"  # the folder of a sample's videos, and its name as a data set
SAMPLE_QA_FILE = "sampling_datasets_QA_new.json"
SAMPLE_ANSWER_FILE = "sampling_answer.json"
SAMPLE_MANIFEST_FILE = "sampling_manifest.json"
LETTERS = "ABCDEF"  # MOT has six options
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # tasks in lm-eval logs may have more options
CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # could break a line or control the terminal
MAX_NAME_BYTES = 255  # of a file or folder name, on all common file systems
MAX_PATH_BYTES = 1024  # of a vid_path; Linux allows 4096 including the video root

# Source: the chat step of Video-Bench (https://github.com/PKU-YuanGroup/Video-Bench). Depending on the
# number of options, the texts differ only in spaces, which are part of the benchmark; tests/model/test_prompts.py has
# all of them in full.
NUMBER_WORDS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
CLOSING = "\n Among the {number} {noun} {letters} above, the one closest to the correct answer is:"
INSTRUCTION = (
    "Please respond with only the corresponding options and do not provide any explanations or additional information."
)

# Kinds of JSON files in the benchmark, so that an error can say which one was given by mistake.
QUESTIONS, ANSWERS, REPLIES, MANIFEST = "questions", "right answers", "a run's replies", "a sample's manifest"
TAKEN_BY = {
    QUESTIONS: "questions are found through --Eval_QA_root",
    ANSWERS: "--sampling_answer_path, --correct_answer_file and --answer_path take sampling_answer.json or ANSWER.json",
    REPLIES: "name a run's output folder, its <set>_eval.json, or another engine's output",
}

QuestionName = tuple[str, str]  # (dataset, id): ids are unique only within a data set


@dataclass(frozen=True)
class Question:
    """One row of a QA file, checked."""

    source: str  # the requested set, "MSVD" or "sampling_data"; the result file is named after it
    dataset: str  # "MSVD"
    id: str  # "40810": unique only within its dataset
    key: str  # as in the QA and result files: the id, or in a sample "MSVD/40810"
    vid_path: str  # "Eval_video/MSVD/x.avi", relative to the video root, as in the QA file
    video: Path  # path of that file; whether it exists is checked when the work starts
    video_id: str | int  # 7011 in MSRVTT, a text elsewhere
    text: str  # without the options
    # Letter -> text, letters ascending, at least one; null and empty options are left out.
    options: dict[str, str] = field(hash=False)


def resolve_names(requested: str, qa_root: Path) -> list[str]:
    """Parse a flag that names data sets: one name, several separated by commas, or `all`. `_` counts as `-`.

    `all` skips sets without a QA file, with a warning. Raises InputError if a named set has no QA file, is unknown, or
    is named twice."""
    if requested.lower() == "all":
        present = [name for name in DATASET_NAMES if qa_file(qa_root, name).is_file()]
        absent = [name for name in DATASET_NAMES if name not in present]
        if not present:
            fix = _where_it_may_be(qa_root, DATASET_NAMES)
            raise InputError(f"{qa_root / 'Eval_QA'}: holds no QA file of Video-Bench; {fix}")
        if absent:
            warn_once(f"warning: no QA file in {qa_root / 'Eval_QA'} for: {', '.join(absent)}; left out")
        return present
    names = [canonical_name(name) for name in requested.replace("，", ",").split(",")]  # the comma of Chinese keyboards
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"data set {name} is named twice; name each set once")
        if not qa_file(qa_root, name).is_file():
            raise InputError(f"{qa_file(qa_root, name)}: missing; {_where_it_may_be(qa_root, [name])}")
    return names


def _where_it_may_be(qa_root: Path, names: Sequence[str]) -> str:
    """Suggest where missing QA files are."""
    for file in (qa_file(qa_root, name).name for name in names):
        if (qa_root / file).is_file():
            is_folder_itself = qa_root.resolve().name == "Eval_QA"
            fix = "give the folder above it" if is_folder_itself else "move it into a folder Eval_QA there"
            return f"{file} lies in --Eval_QA_root itself: {fix}"
        above = qa_root.parent
        for found in (*qa_root.glob(f"*/Eval_QA/{file}"), *above.glob(f"*/Eval_QA/{file}"), above / "Eval_QA" / file):
            if found.is_file():
                return f"it is in {found.parent}: give {found.parents[1]}"
    first = "run extract_dataset.py first, or " if SAMPLE_NAME in names else ""
    return f"{first}check --Eval_QA_root, the folder that holds Eval_QA"


def canonical_name(name: str) -> str:
    """Return Video-Bench's spelling of a name given in any case and with `_` or `-`; InputError if it is unknown."""
    if not is_known(name):
        known = ", ".join(KNOWN_NAMES.values())
        raise InputError(f"unknown data set {name!r}; known: {known}, or all; put commas between several")
    return KNOWN_NAMES[folded(name)]


def is_known(name: str) -> bool:
    return folded(name) in KNOWN_NAMES


def folded(name: str) -> str:
    """Normalise a name for lookup: `Driving_Exam` and `Driving-exam/` become `driving-exam`."""
    return name.strip().rstrip("/").lower().replace("_", "-")


KNOWN_NAMES = {folded(each): each for each in (*DATASET_NAMES, SAMPLE_NAME)}


def qa_file(qa_root: Path, name: str) -> Path:
    """Path of a data set's QA file. (`MOT_QA.json`, which lies next to MOT's, holds answers.)"""
    return qa_root / "Eval_QA" / (SAMPLE_QA_FILE if name == SAMPLE_NAME else f"{name}_QA_new.json")


def load_questions(qa_path: Path, name: str, locate: Callable[[str], Path]) -> list[Question]:
    """Read the questions of one QA file, in file order; `locate` turns a row's `vid_path` into the video's path.

    Raises InputError with file, question and fix at the first invalid row."""
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
            fix = "" if ";" in str(error) else "; fix that row or get the file again"
            raise InputError(f"{qa_path}: question {key!r}: {error}{fix}") from None
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
    dataset = row.get("dataset") if name == SAMPLE_NAME else name
    if dataset not in DATASET_NAMES:
        raise ValueError(f"dataset is {dataset!r}, but in a sample it must name one of the 13 sets")
    question = Question(
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
    # ValueError for half a surrogate pair, as \ud83d alone: no tokenizer or file takes that.
    f"{key}{video_id}{build_question_text(question.text, question.options)}".encode()
    return question


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
    """Strip the set from a sample's key: this suite writes `<set>/<id>`, the original suite only the id."""
    head, slash, id = key.partition("/")
    if slash and head in DATASET_NAMES and (head != dataset or not id):
        raise ValueError(f"the key names {head}, but the row's dataset is {dataset}")
    return id if slash and head == dataset else key


def load_answers(path: Path) -> dict[QuestionName, str]:
    """Read (dataset, id) -> right letter from ANSWER.json or a sample's answer file.

    An entry is `{"answer": "A"}` or just `"A"`; an id may be written `<dataset>/<id>`, as in a sample, and a set's name
    with `_` for `-`. Raises InputError with file, data set and question at the first invalid entry."""
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
    """Read letter -> text, sorted by letter; drops null and empty options and turns numbers into text."""
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


def build_question_text(text: str, options: Mapping[str, str]) -> str:
    """Build the user's turn without the video, as Video-Bench words it: question, options and instruction.

    `options` maps 1 to 6 letters, in order, to their texts."""
    count = len(options)
    before_options = "Choices: " if count == 6 else " "
    before_instruction = " " if count in (4, 6) else "  "
    listed = "".join(f"{letter}.{option} " for letter, option in options.items())
    closing = CLOSING.format(
        number=NUMBER_WORDS[count], noun="option" if count == 1 else "options", letters=", ".join(options)
    )
    return text + before_options + listed + closing + before_instruction + INSTRUCTION


def check_kind(path: Path, content: Any, wanted: str) -> None:
    """Raises InputError if `content` is clearly a different kind of benchmark file than `wanted`."""
    found = _kind_of(content)
    if found not in ("", wanted):
        raise InputError(f"{path}: holds {found}, not {wanted}; {TAKEN_BY[wanted]}")


def _kind_of(content: Any) -> str:
    """Guess the kind from the first entry; "" if that does not tell."""
    if not isinstance(content, dict) or not content:
        return ""
    if "videos_sha256" in content:
        return MANIFEST
    first = next(iter(content.values()))
    if not isinstance(first, dict) or not first:
        return ""
    if "output_sequence" in first:
        return REPLIES
    if "vid_path" in first and "question" in first:
        return QUESTIONS
    entry = next(iter(first.values()))
    is_answer = "answer" in entry if isinstance(entry, dict) else isinstance(entry, str) and len(entry.strip()) == 1
    return ANSWERS if is_answer else ""


@dataclass(frozen=True)
class VideoRoot:
    """A folder of videos.

    Links that leave the folder are refused: otherwise a QA file, result file or archive from someone else could reach
    any file of the user. Links between folders of Eval_video are allowed, since `extract_dataset.py --copy_mode
    symlink` creates them. In a folder of images, every image is checked."""

    folder: Path
    allow_outside_root: bool = False  # follow links that lead out of the folder
    skipped_parts: int = 0  # leading parts of a vid_path that `folder` already includes: 2 if it is the set's own

    def locate(self, vid_path: str) -> Path:
        """Return the path of `Eval_video/<set>/<file>`; ValueError, with the fix, if it is outside the folder."""
        parts = PurePosixPath(vid_path).parts
        if vid_path.startswith("/") or ".." in parts or len(parts) <= self.skipped_parts:
            raise ValueError(f"{vid_path!r} is not a path below {self.folder}")
        video = self.folder.joinpath(*parts[self.skipped_parts :])
        if not self.allow_outside_root:
            self._check_inside(video)
        return video

    def _check_inside(self, video: Path) -> None:
        root = Path(self._real_folder(self.folder))
        boundary = root.parent if root.parent.name == VIDEOS_NAME else root
        for path in (video, *_linked_images(video)):
            place = Path(self._real_folder(path.parent), path.name)
            if os.path.islink(place):  # False also if access is denied, which the decoder reports
                place = Path(os.path.realpath(place))
            if not place.is_relative_to(boundary):
                raise ValueError(
                    f"{path} leads to {place}, out of {boundary}; if you trust whoever made that link, "
                    "--allow_outside_root follows it"
                )

    @cached_property
    def _real_folder(self) -> Callable[[Path], str]:
        return cache(os.path.realpath)  # thousands of videos share few folders


def _linked_images(video: Path) -> list[Path]:
    """List symbolic links in a folder of images; [] if it cannot be read, which the decoder reports."""
    try:
        with os.scandir(video) as entries:
            return [Path(each.path) for each in entries if each.is_symlink()]
    except OSError:
        return []


@dataclass(frozen=True)
class SizeAndHash:
    """What identifies the content of a file."""

    num_bytes: int
    sha256: str  # hexadecimal


@dataclass(frozen=True)
class Manifest:
    """The part of a manifest that --verify and the run scripts need (see sampling/placing.build_manifest for all)."""

    path: Path
    videos_folder: str  # "Eval_video/sampling_data": as in the QA file's vid_path
    json_sha256: dict[str, str]  # name of the QA and the answer file, beside the manifest -> hexadecimal SHA-256
    videos: dict[str, SizeAndHash]  # by path below sampling_data, "<dataset>/<file>"


def load_manifest(path: Path) -> Manifest:
    """Read a manifest. Raises InputError if it is not one of this suite's, or names a file outside the sample."""
    content = read_json(path)
    try:
        sizes, hashes = content["videos_bytes"], content["videos_sha256"]
        manifest = Manifest(
            path=path,
            videos_folder=_require_place(content["videos_folder"]),
            json_sha256={_require_place(name): digest for name, digest in content["outputs_sha256"].items()},
            videos={_require_place(name): SizeAndHash(int(sizes[name]), digest) for name, digest in hashes.items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        found = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise InputError(
            f"{path}: not the {SAMPLE_MANIFEST_FILE} of a sample ({found}); get it from where the sample was made"
        ) from None
    if not manifest.videos or not manifest.json_sha256 or sizes.keys() != hashes.keys():
        raise InputError(f"{path}: does not describe a whole sample; get it from where the sample was made")
    return manifest


def _require_place(name: str) -> str:
    """Check that a name is a path below the sample's folder; "" and "." are refused."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or CONTROL_CHARACTER.search(name):
        raise ValueError(f"{name!r} is not a path below the sample's folder")
    name.encode()  # ValueError for half a surrogate pair
    return name


def manifest_hash(qa_path: Path, qa_sha256: str) -> dict[str, str]:
    """Return the manifest hash that a run stores; {} if the set is not a sample or has no manifest.

    Raises InputError if the manifest belongs to another QA file, so part of the sample was replaced or changed."""
    path = qa_path.with_name(SAMPLE_MANIFEST_FILE)
    if qa_path.name != SAMPLE_QA_FILE or not path.is_file():
        return {}
    if load_manifest(path).json_sha256.get(qa_path.name) != qa_sha256:
        raise InputError(
            f"{qa_path}: not the file that {path.name} beside it was written with; make or copy the sample again"
        )
    return {"manifest_sha256": sha256_of_file(path)}
