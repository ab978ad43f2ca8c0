"""A row of a result file -> a reply.

A row is what rows.py writes, or Video-Bench's own form, or MindIE's, whose `output_sequence` is a bare text, or what
openai_batch.py, aisbench.py and lmms_eval.py make of other engines' lines. Every field but `output_sequence` may be
missing.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from videobench.data.dataset import LETTERS, QuestionName

LEAST_LOGPROB, GREATEST_LOGPROB = -1e5, 1e-2  # nats: a 16-bit logit is at least -65504; rounding may pass 0
SPEAKERS = re.compile(r"<[|\w]+>|</s>|\[/?inst\]|\b(?:user|assistant) *:", re.I)  # a chat template writes them
LETTER_LIST = re.compile(r"among the \w+ options? [a-f](?:, [a-f])*(?= above)")  # a service may count empty options
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
    bounds: dict[str, float]  # likewise, of letters whose probability is only known to be at most this
    prompt_tokens: int | None
    expected_prompt_tokens: int | None  # as our own prompt would have; of an exported request
    prompt_sha256: str
    video_sha256: str
    pixels_sha256: str
    frames_decoded: int | None
    resolution: str  # "320x240"
    nonfinite: bool  # the logits held NaN or an infinity
    rank: int | None
    finish_reason: str  # "stop", or "length" where the reply was cut off
    is_greedy: bool | None  # False where a token was not the most probable one
    run: Mapping[str, Any]  # the run's settings and environment
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
        text, end = _folded(self.question), 0
        for letter, option in self.options.items():
            label, option = re.escape(letter.casefold()), re.escape(_folded(option))
            if not (found := re.search(rf"\b{label}\b[\s.:)]*{option}(?!\w)", text)):
                return ""
            end = max(end, found.end())
        return LETTER_LIST.sub("among the options", SPEAKERS.sub(" ", text[end:])).strip() if end else ""


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


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
        logprobs=_logprobs(row, "letter_logprobs"),
        bounds=_logprobs(row, "letter_bounds"),
        prompt_tokens=_whole_number(row, "prompt_tokens"),
        expected_prompt_tokens=_whole_number(row, "expected_prompt_tokens"),
        prompt_sha256=_text(row, "prompt_sha256"),
        video_sha256=_text(row, "video_sha256"),
        pixels_sha256=_text(row, "pixels_sha256"),
        frames_decoded=_whole_number(row, "frames_decoded"),
        resolution=_resolution(row),
        nonfinite=bool(_flag(row, "nonfinite")),
        rank=_whole_number(row, "rank"),
        finish_reason=_text(row, "finish_reason"),
        is_greedy=_flag(row, "is_greedy"),
        run=_run(row.get("run")),
    )


def _text(row: Mapping[str, Any], field: str) -> str:
    value = row.get(field)
    if not isinstance(value, str | None):
        raise ValueError(f"{field} is {value!r:.60}, not a text; remove it or correct it")
    return value or ""


def _flag(row: Mapping[str, Any], field: str) -> bool | None:
    value = row.get(field)
    if not isinstance(value, bool | None):
        raise ValueError(f"{field} is {value!r:.60}, not true or false; remove it or correct it")
    return value


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


def _logprobs(row: Mapping[str, Any], field: str) -> dict[str, float]:
    values = row.get(field)
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(value is None or _is_logprob(value) for value in values.values()):
        raise ValueError(f"{field} is {values!r:.60}, not letters with logarithms; remove it or correct it")
    for name in values:
        if name not in LETTERS and len(letter := name.strip(" \t\n().:").upper()) == 1 and letter in LETTERS:
            raise ValueError(f"{field} calls an option {name!r}; write {letter!r}")
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
