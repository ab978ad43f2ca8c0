"""The row format of journals and result files: one reply, with its question and what it was computed from."""

from collections.abc import Iterable, Mapping
from typing import Any

from videobench.data.dataset import Question
from videobench.data.question_text import build_question_text

Row = dict[str, Any]  # one reply; its fields are described in the README
NONFINITE_MEND = (
    "float16 ends at 65504; use --dtype bfloat16 or float32 (on an NPU, leave INF_NAN_MODE_ENABLE at 1: 0 would hide "
    "such overflows, not mend them)"
)


def failed_row(question: Question, reason: str, facts: Row) -> Row:
    """An empty reply with the reason; the next start asks it again."""
    return _question_fields(question) | {"output_sequence": [""], "error": reason, "run": facts}


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
    pixels_sha256: str,
    frames_decoded: int,
    frames_stated: int,
    resolution: str,
    rank: int,
    run: Row,
) -> Row:
    """NaN and infinity have no place in JSON and no meaning as a probability: such a row is marked and has neither."""
    row = _question_fields(question) | {"output_sequence": [text]}
    if is_finite:
        row |= {"letter_logprobs": dict(letter_logprobs), "option_mass": option_mass}
    else:
        row |= {"nonfinite": True, "error": "the logits hold NaN or infinity; try --dtype bfloat16"}
    return row | {
        "num_output_tokens": num_output_tokens,
        "prompt_tokens": prompt_tokens,
        "prompt_sha256": prompt_sha256,
        "pixels_sha256": pixels_sha256,
        "frames_decoded": frames_decoded,
        "frames_stated": frames_stated,
        "resolution": resolution,
        "rank": rank,
        "run": run,
    }


def question_rows(questions: Iterable[Question]) -> dict[str, Row]:
    """Key -> what a row holds of its question: a reply counts only where all of it is still the same."""
    return {each.key: _question_fields(each) for each in questions}


def _question_fields(question: Question) -> Row:
    return {
        "video_id": question.video_id,
        "dataset": question.dataset,
        "vid_path": question.vid_path,
        "question": build_question_text(question.text, question.options),
        "choices": question.options,
    }
