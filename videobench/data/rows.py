"""The format of a row in journals and result files: one reply, its question, and what it was computed from.

Written here; replies.py reads it, from files of other origins too.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypedDict, get_origin, get_type_hints

from videobench.data.dataset import Question
from videobench.data.question_text import build_question_text

NONFINITE_FIX = (
    "float16 ends at 65504; use --dtype bfloat16 or float32 (on an NPU, leave INF_NAN_MODE_ENABLE at 1: 0 would hide "
    "such overflows, not fix them)"
)

Run = dict[str, Any]  # settings and environment: run/provenance.py


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


# Field -> what its value is an instance of.
TYPES: dict[str, Any] = {
    name: float | int if hint is float else get_origin(hint) if get_origin(hint) in (dict, list) else hint
    for name, hint in get_type_hints(Row).items()
}
SHA256 = re.compile("[0-9a-f]{64}")


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


def answered_row(
    question: Question,
    *,
    text: str,
    is_finite: bool,
    letter_logprobs: Mapping[str, float],
    option_mass: float,
    num_output_tokens: int,
    prompt_tokens: int,
    prompt_sha256: str,
    video_sha256: str,
    pixels_sha256: str,
    frames_decoded: int,
    frames_stated: int,
    resolution: str,
    rank: int,
    run: Run,
) -> Row:
    """NaN and infinity have no place in JSON and no meaning as a probability: such a row is marked and has neither."""
    row: Row = {**question_fields(question), "output_sequence": [text]}
    if is_finite:
        row["letter_logprobs"], row["option_mass"] = dict(letter_logprobs), option_mass
    else:
        row["nonfinite"], row["error"] = True, "the logits hold NaN or infinity; try --dtype bfloat16"
    return {
        **row,
        "num_output_tokens": num_output_tokens,
        "prompt_tokens": prompt_tokens,
        "prompt_sha256": prompt_sha256,
        "video_sha256": video_sha256,
        "pixels_sha256": pixels_sha256,
        "frames_decoded": frames_decoded,
        "frames_stated": frames_stated,
        "resolution": resolution,
        "rank": rank,
        "run": run,
    }


def question_rows(questions: Iterable[Question]) -> dict[str, Row]:
    """Key -> what a row holds of its question: a reply counts only where all of it is still the same."""
    return {each.key: question_fields(each) for each in questions}


def question_fields(question: Question) -> Row:
    return {
        "video_id": question.video_id,
        "dataset": question.dataset,
        "vid_path": question.vid_path,
        "question": build_question_text(question.text, question.options),
        "choices": question.options,
    }
