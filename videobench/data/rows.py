"""The row of journals and result files: one reply, its question, and what it was computed from.

`Reply` defines the fields, which a run writes as JSON (a `Row`). `build_reply` reads them, also from Video-Bench's own
files, from MindIE's, whose `output_sequence` is a plain text, and from what engines.py makes of other engines' lines.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from videobench.data.dataset import LETTERS, Question, QuestionName, build_question_text

NONFINITE_FIX = (
    "float16 ends at 65504; use --dtype bfloat16 or float32 (on an NPU, leave INF_NAN_MODE_ENABLE at 1: 0 would hide "
    "such overflows, not fix them)"
)
LEAST_LOGPROB, GREATEST_LOGPROB = -1e5, 1e-2  # nats: float16 logits are at least -65504; rounding may exceed 0
MOST_CARDS = 64  # per replica
LARGEST_NUMBER = 1e12  # in any field; sums and squares of such numbers stay finite
SHA256 = re.compile("[0-9a-f]{64}")

Row = dict[str, Any]  # the JSON of one Reply; every field but `output_sequence` may be missing
Kind = tuple[Callable[[Any], Any], str, Any]  # of a field: see KINDS

# JSON has no NaN or infinity, and neither is a probability: such a row is marked instead.
NONFINITE: Row = {"nonfinite": True, "error": "the logits hold NaN or infinity"}


def is_of_a_run(row: Row) -> bool:
    """Whether this is a valid row of a run: all fields can be read, and hashes are hashes."""
    try:
        build_reply(("", ""), "", row)
    except ValueError:
        return False
    hashes = [str(value) for name, value in row.items() if name.endswith("_sha256")]
    return None not in row.values() and all(map(SHA256.fullmatch, hashes))


def failed_row(question: Question, reason: str, run: Mapping[str, Any]) -> Row:
    """Build the row of a failed question: an empty reply and the reason."""
    return {**question_fields(question), "output_sequence": [""], "error": reason, "run": run}


def question_fields(question: Question) -> Row:
    """The question's fields in a row; a stored reply counts only if all of them are unchanged."""
    return {
        "video_id": question.video_id,
        "dataset": question.dataset,
        "vid_path": question.vid_path,
        "question": build_question_text(question.text, question.options),
        "choices": question.options,
    }


@dataclass(frozen=True, slots=True)
class Logged:
    """What only logs of lm-eval and lmms-eval say about a reply (eval_logs.py)."""

    is_right: bool  # by the log's own metric
    right: str  # letter of the right option, or the right text for generated replies; empty if unknown
    doc_sha256: str  # of the document; empty if the log does not hash documents individually
    target_sha256: str  # of the right answer as the log states it


@dataclass(frozen=True, slots=True)
class Reply:
    """One row; a field that the file lacks is None, an empty text or an empty dict. Three fields have other names in a
    row (ROW_NAMES). The JSON schema is docs/result.schema.json."""

    dataset: str  # "MSVD"
    id: str  # "40810"
    key: str  # as the file writes it: "40810", in a sample "MSVD/40810"
    output: str | list[str]  # `output_sequence` as in the file: a list of one text, or from MindIE a plain text
    text: str  # what the model wrote; empty if the question failed
    error: str  # why the question failed; the next start asks it again
    # The question, as it was asked.
    video_id: str | int  # 7011 in MSRVTT, a text elsewhere
    vid_path: str  # "Eval_video/MSVD/x.avi", relative to the video root
    question: str  # with its options and the instruction
    options: dict[str, str]  # letter -> text, in the order of the file, empty options dropped
    # The answer.
    nonfinite: bool | None  # True if the logits held NaN or infinity; such a row has none of the next three
    logprobs: dict[str, float]  # option letter -> natural log of its probability at the first position
    option_mass: float | None  # the sum of the probabilities
    bounds: dict[str, float]  # from a service: upper bounds of the log-probability, for letters that it did not list
    num_output_tokens: int | None
    finish_reason: str  # from a service: "stop", or "length" if the reply was cut off
    is_greedy: bool | None  # from a service: False if a token was not the most probable one
    # What it was computed from.
    prompt_tokens: int | None
    expected_prompt_tokens: int | None  # for a service: the number that the checkpoint's own template gives
    prompt_sha256: str  # of the token ids as little-endian int32
    video_sha256: str  # of the file's bytes; for a folder of images see video/identity.py
    pixels_sha256: str  # of the resized and cropped frames, uint8 (num_frames, 3, height, width)
    frames_decoded: int | None  # how many frames the video really has
    frames_stated: int | None  # how many its container states, 0 if it states none
    resolution: str  # "320x240", before the resize
    rank: int | None  # number of the replica that answered
    run: Mapping[str, Any]  # settings and environment: run/journals.py
    # Not in a row.
    options_are_lent: bool = False  # taken from the other side's reply, since the file does not give them
    logged: Logged | None = None

    @property
    def cards(self) -> tuple[str, ...]:
        """Numbers of the cards that answered (all of a `--tensor_parallel` replica), on their machine; () if
        unknown."""
        stored, count = self.run.get("cards"), self.run.get("tensor_parallel")
        if isinstance(stored, str):
            return tuple(stored.split(","))
        if self.rank is None:
            return ()
        count = count if isinstance(count, int) and 1 <= count <= MOST_CARDS else 1
        return tuple(str(self.rank * count + each) for each in range(count))

    @property
    def scores(self) -> dict[str, float]:
        """Option letter -> its log-probability, or its bound."""
        known = {**self.bounds, **self.logprobs}
        return {letter: value for letter, value in known.items() if not self.options or letter in self.options}

    @property
    def bounded(self) -> list[str]:
        """Options with only a bound instead of a log-probability."""
        return [letter for letter in self.bounds if letter not in self.logprobs and letter in self.options]

    @property
    def own_question(self) -> str:
        """The question without its options and the instruction that every question ends with."""
        first = next(iter(self.options.items()), None)
        asked = self.question
        cut = asked.find(f"{first[0]}.{first[1]}") if first else -1
        own = asked[:cut] if cut >= 0 else asked.split("\n")[0]
        return own.strip().removesuffix("Choices:")


def folded_text(text: str) -> str:
    """Lower-case a text and collapse its spaces."""
    return " ".join(text.casefold().split())


def build_reply(name: QuestionName, key: str, row: Mapping[str, Any]) -> Reply:
    """Read a row as a Reply; ValueError, naming the field, if a field is invalid."""
    fields = {field: _read(row, *place) for field, place in FIELDS.items()}
    output = row.get("output_sequence")
    if output is None and fields["error"]:
        output = [""]
    text = output[0] if isinstance(output, list) and len(output) == 1 else output
    if not isinstance(text, str):
        raise ValueError(f"output_sequence is {output!r:.60}, not a text or a list of one; run that question again")
    return Reply(*name, key, output or "", text, **fields)


def _read(row: Mapping[str, Any], field: str, kind: Kind) -> Any:
    read, wanted, missing = kind
    value = row.get(field)
    if value is None:
        return missing
    found = read(value)
    if found is None:
        raise ValueError(f"{field} is {value!r:.60}, not {wanted}; remove it or correct it")
    return found


def _value_of(*types: type) -> Callable[[Any], Any]:
    return lambda value: value if isinstance(value, types) and isinstance(value, bool) == (bool in types) else None


def _number(value: Any) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and abs(value) < LARGEST_NUMBER else None


def _whole_number(value: Any) -> int | None:
    return None if _number(value) is None else int(value)


def _size(value: Any) -> Any:
    """ "320x240", from that text or from [320, 240]."""
    if isinstance(value, list) and None not in map(_number, value):
        return "x".join(map(str, value))
    return value if isinstance(value, str) else None


def _by_letter(values: Any) -> dict[str, Any] | None:
    is_fit = isinstance(values, dict) and all(len(name) == 1 and name in LETTERS for name in values)
    return {letter: value for letter, value in values.items() if value is not None} if is_fit else None


def _options(values: Any) -> dict[str, str] | None:
    found = _by_letter(values)
    if found is None or not all(isinstance(text, str | int | float) for text in found.values()):
        return None
    return {letter: str(text) for letter, text in found.items() if str(text).strip()}


def _logprobs(values: Any) -> dict[str, float] | None:
    found = _by_letter(values)
    if found is None or None in map(_number, found.values()):
        return None
    if not all(LEAST_LOGPROB <= value <= GREATEST_LOGPROB for value in found.values()):
        return None
    return {letter: float(value) for letter, value in found.items()}


# Type of a Reply's field -> the function that reads it from JSON, None if it does not fit; what fits, in words; the
# value of a field that the row lacks.
KINDS: dict[Any, Kind] = {
    str: (_value_of(str), "a text", ""),
    str | int: (_value_of(str, int), "a text or a whole number", ""),
    int | None: (_whole_number, "a number", None),
    float | None: (_number, "a number", None),
    bool | None: (_value_of(bool), "true or false", None),
    Mapping[str, Any]: (_value_of(dict), "an object", {}),
    dict[str, str]: (_options, f"letters of {LETTERS} with texts", {}),
    dict[str, float]: (_logprobs, f"letters of {LETTERS} with natural logarithms", {}),
}
SIZE: Kind = (_size, "a text like 320x240", "")
ROW_NAMES = {"options": "choices", "logprobs": "letter_logprobs", "bounds": "letter_bounds"}  # others keep their names
NOT_OF_ROW = {"dataset", "id", "key", "output", "text", "options_are_lent", "logged"}
# Field of a Reply -> its name in a row, and its kind. `dataset` is found with the key, in results.py.
FIELDS = {
    name: (ROW_NAMES.get(name, name), SIZE if name == "resolution" else KINDS[hint])
    for name, hint in get_type_hints(Reply).items()
    if name not in NOT_OF_ROW
}
ROW_FIELDS = {"dataset", "output_sequence", *(name for name, _ in FIELDS.values())}
