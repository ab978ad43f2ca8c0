"""The format of a row in journals and result files: one reply, its question, and what it was computed from.

`Row` says what is written, `Reply` what is read of it, from other files too: Video-Bench's own form, MindIE's, whose
`output_sequence` is a bare text, and what engines.py makes of other engines' lines.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict, get_origin, get_type_hints

from videobench.data.dataset import LETTERS, Question, QuestionName, build_question_text

NONFINITE_FIX = (
    "float16 ends at 65504; use --dtype bfloat16 or float32 (on an NPU, leave INF_NAN_MODE_ENABLE at 1: 0 would hide "
    "such overflows, not fix them)"
)
LEAST_LOGPROB, GREATEST_LOGPROB = -1e5, 1e-2  # nats: a 16-bit logit is at least -65504; rounding may pass 0
LARGEST_NUMBER = 1e12  # of any field of a row; sums and squares of these stay finite
SPEAKERS = re.compile(r"<[|\w]+>|</s>|\[/?inst\]|\b(?:user|assistant) *:", re.I)  # a chat template writes them
LETTER_LIST = re.compile(r"among the \w+ options? [a-f](?:, [a-f])*(?= above)")  # a service may count empty options
SHA256 = re.compile("[0-9a-f]{64}")

Run = dict[str, Any]  # settings and environment: run/store.py


class Row(TypedDict, total=False):
    """Every field but `output_sequence` may be missing; a run writes all but those that only services have
    (`letter_bounds`, `finish_reason`, `is_greedy`,
    `expected_prompt_tokens`). docs/result.schema.json says the same."""

    # The question, as it was asked.
    video_id: str | int  # 7011 in MSRVTT, a text elsewhere
    dataset: str  # "MSVD"
    vid_path: str  # "Eval_video/MSVD/x.avi", relative to the video root
    question: str  # with its options and the instruction
    choices: dict[str, str]  # letter -> text
    # The answer.
    output_sequence: list[str]  # one text, empty where the question failed
    error: str  # why the question failed; the next start asks it again
    nonfinite: bool  # true where the logits held NaN or infinity; such a row has neither of the next two
    letter_logprobs: dict[str, float]  # option letter -> natural log of its probability at the first position
    letter_bounds: dict[str, float]  # likewise, of letters that are only known to be at most as probable
    option_mass: float  # the sum of the probabilities
    num_output_tokens: int
    finish_reason: str  # "stop", or "length" where the reply was cut off
    is_greedy: bool  # false where a token was not the most probable one
    # What it was computed from.
    prompt_tokens: int
    expected_prompt_tokens: int  # of a service's reply: as many as the checkpoint's own template makes
    prompt_sha256: str  # of the token ids as little-endian int32
    video_sha256: str  # of the file's bytes, of a folder of images as video/identity.py says
    pixels_sha256: str  # of the resized and cropped frames, uint8 (num_frames, 3, height, width)
    frames_decoded: int  # how many frames the video really has
    frames_stated: int  # how many its container states, 0 where it states none
    resolution: str  # "320x240", before the resize
    rank: int  # number of the replica that answered
    run: Run


# NaN and infinity have no place in JSON and no meaning as a probability: such a row is marked instead.
NONFINITE: Row = {"nonfinite": True, "error": "the logits hold NaN or infinity; try --dtype bfloat16"}
# Field -> what its value is an instance of.
TYPES: dict[str, Any] = {
    name: float | int if hint is float else get_origin(hint) if get_origin(hint) in (dict, list) else hint
    for name, hint in get_type_hints(Row).items()
}


def unfit_field(row: Mapping[str, Any]) -> str:
    """The first field whose value a run does not write; "" where there is none."""
    for name, wanted in TYPES.items():
        value = row.get(name)
        is_fit = isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool))
        if name in row and not (is_fit and (not name.endswith("_sha256") or SHA256.fullmatch(str(value)))):
            return name
    return ""


def failed_row(question: Question, reason: str, run: Run) -> Row:
    """An empty reply with the reason."""
    return {**question_fields(question), "output_sequence": [""], "error": reason, "run": run}


def question_fields(question: Question) -> Row:
    """What a row holds of its question: a reply counts only if all of it is still the same."""
    return {
        "video_id": question.video_id,
        "dataset": question.dataset,
        "vid_path": question.vid_path,
        "question": build_question_text(question.text, question.options),
        "choices": question.options,
    }


@dataclass(frozen=True, slots=True)
class Reply:
    """One row of a result file, its fields as in `Row`; None, an empty text or an empty dict where the file does not
    say."""

    dataset: str
    id: str  # "40810"
    key: str  # as the file writes it: "40810", in a sample "MSVD/40810"
    output: str | list[str]  # as the file writes it: a list of one text, from MindIE a bare text
    text: str  # what the model wrote
    error: str
    video_id: str | int
    vid_path: str
    question: str
    options: dict[str, str]  # in the order of the file, empty options dropped
    logprobs: dict[str, float]
    bounds: dict[str, float]
    prompt_tokens: int | None
    expected_prompt_tokens: int | None
    prompt_sha256: str
    video_sha256: str
    pixels_sha256: str
    frames_decoded: int | None
    resolution: str
    nonfinite: bool | None
    rank: int | None
    finish_reason: str
    is_greedy: bool | None
    run: Mapping[str, Any]
    # Of no row.
    options_are_lent: bool = False  # by the other side's reply to the question, if the file does not give them
    vid_path_is_lent: bool = False  # likewise, if another engine's line names no video
    states_prompt: bool = False  # the question is all the text that was asked, as in another engine's line

    @property
    def scores(self) -> dict[str, float]:
        """Of each option: its log-probability, or its bound."""
        known = {**self.bounds, **self.logprobs}
        return {letter: value for letter, value in known.items() if not self.options or letter in self.options}

    @property
    def bounded(self) -> list[str]:
        """The options of which the bound alone is known."""
        return [letter for letter in self.bounds if letter not in self.logprobs and letter in self.options]

    @property
    def own_question(self) -> str:
        """The question without its options and without the instruction, which every question ends with."""
        first = next(iter(self.options.items()), None)
        asked = SPEAKERS.sub(" ", self.question).strip() if self.states_prompt else self.question
        cut = asked.find(f"{first[0]}.{first[1]}") if first else -1
        own = asked[:cut] if cut >= 0 else asked.split("\n")[0]
        return own.strip().removesuffix("Choices:")

    @property
    def instruction(self) -> str:
        """What follows the options in the question, folded; empty where the question does not hold them all."""
        text, end = folded_text(self.question), 0
        for letter, option in self.options.items():
            label, option = re.escape(letter.casefold()), re.escape(folded_text(option))
            if not (found := re.search(rf"\b{label}\b[\s.:)]*{option}(?!\w)", text)):
                return ""
            end = max(end, found.end())
        return LETTER_LIST.sub("among the options", SPEAKERS.sub(" ", text[end:])).strip() if end else ""


def folded_text(text: str) -> str:
    """Without case, and with single spaces."""
    return " ".join(text.casefold().split())


def build_reply(name: QuestionName, key: str, row: Mapping[str, Any]) -> Reply:
    """The row as a Reply; ValueError, naming the field and what it holds, where one cannot be what it should be."""
    error, output = _text(row, "error"), row.get("output_sequence")
    if output is None and error:
        output = [""]
    if isinstance(output, list) and output and all(isinstance(part, str) for part in output):
        text = output[0]
    elif isinstance(output, str):
        text = output
    else:
        raise ValueError(f"output_sequence is {output!r:.60}, not a text or a list of one; run that question again")
    return Reply(*name, key, output, text, **{each: read(row, source) for each, (source, read) in READERS.items()})


def _read(row: Mapping[str, Any], field: str, is_fit: Callable[[Any], bool], wanted: str, missing: Any) -> Any:
    value = row.get(field)
    if value is not None and not is_fit(value):
        raise ValueError(f"{field} is {value!r:.60}, not {wanted}; remove it or correct it")
    return missing if value is None else value


def _text(row: Mapping[str, Any], field: str) -> Any:
    return _read(row, field, lambda value: isinstance(value, str), "a text", "")


def _flag(row: Mapping[str, Any], field: str) -> Any:
    return _read(row, field, lambda value: isinstance(value, bool), "true or false", None)


def _run(row: Mapping[str, Any], field: str) -> Any:
    return _read(row, field, lambda value: isinstance(value, dict), "an object", {})


def _video_id(row: Mapping[str, Any], field: str) -> Any:
    def is_fit(value: Any) -> bool:
        return isinstance(value, str | int) and not isinstance(value, bool)

    return _read(row, field, is_fit, "a text or a whole number", "")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST_NUMBER


def _whole_number(row: Mapping[str, Any], field: str) -> int | None:
    value = _read(row, field, _is_number, "a number", None)
    return None if value is None else int(value)


def _resolution(row: Mapping[str, Any], field: str) -> Any:
    """ "320x240", from that text or from [320, 240]."""
    value = row.get(field)
    return "x".join(map(str, value)) if isinstance(value, list) and all(map(_is_number, value)) else _text(row, field)


def _options(row: Mapping[str, Any], field: str) -> dict[str, str]:
    def are_fit(choices: Any) -> bool:
        return isinstance(choices, dict) and all(
            letter in LETTERS and len(letter) == 1 and isinstance(text, str | int | float | None)
            for letter, text in choices.items()
        )

    choices = _read(row, field, are_fit, f"letters of {LETTERS} with texts", {})
    return {letter: str(text) for letter, text in choices.items() if text is not None and str(text).strip()}


def _logprobs(row: Mapping[str, Any], field: str) -> dict[str, float]:
    def are_fit(values: Any) -> bool:
        return isinstance(values, dict) and all(
            each is None or (_is_number(each) and LEAST_LOGPROB <= each <= GREATEST_LOGPROB) for each in values.values()
        )

    values = _read(row, field, are_fit, "letters with logarithms", {})
    for name in values:
        if name not in LETTERS and len(letter := name.strip(" \t\n().:").upper()) == 1 and letter in LETTERS:
            raise ValueError(f"{field} calls an option {name!r}; write {letter!r}")
    return {letter: float(value) for letter, value in values.items() if value is not None}


ROW_NAMES = {"options": "choices", "logprobs": "letter_logprobs", "bounds": "letter_bounds"}  # others have their own
OF_TYPE = {str: _text, int | None: _whole_number, bool | None: _flag, Mapping[str, Any]: _run}
OF_FIELD = {
    **{"video_id": _video_id, "resolution": _resolution},
    **{"options": _options, "logprobs": _logprobs, "bounds": _logprobs},
}
# Field of a Reply -> its name in a row, and how it is read there.
READERS: dict[str, tuple[str, Callable[[Mapping[str, Any], str], Any]]] = {
    name: (ROW_NAMES.get(name, name), OF_FIELD.get(name) or OF_TYPE[hint])
    for name, hint in get_type_hints(Reply).items()
    if ROW_NAMES.get(name, name) in TYPES and name != "dataset"
}
