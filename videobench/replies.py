"""What is stored with each reply: the row format of journals and result files, described in the README."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from videobench.dataset import Question
from videobench.devices import Device, device_facts
from videobench.files import sha256_of_file
from videobench.journal import Row
from videobench.manifest import manifest_facts
from videobench.options import RunSettings
from videobench.prompts import Prompt, build_question_text

if TYPE_CHECKING:
    from videobench.checkpoint import Checkpoint
    from videobench.decoding.prepared_video import PreparedVideo
    from videobench.engine import Answer

SUITE_VERSION = "0.1.0"
NONFINITE_MEND = (
    "float16 ends at 65504; use --dtype bfloat16 or float32 (on an NPU, leave INF_NAN_MODE_ENABLE at 1: 0 would hide "
    "such overflows, not mend them)"
)


def run_identity(settings: RunSettings, checkpoint: "Checkpoint") -> Row:
    """What a reply depends on: a journal goes on under the same of these only. Not the batch size: after running out of
    memory a run must be able to go on with a smaller one; the rows tell it. Nor the QA file: each row holds its own
    question, so that a sample can be enlarged."""
    return {
        "device": settings.device,
        "dtype": settings.dtype,
        "num_frames": settings.num_frames,
        "max_new_tokens": settings.max_new_tokens,
        "max_input_length": settings.max_input_length,
        "checkpoint_sha256": checkpoint.sha256,
        "deterministic": settings.deterministic,
    }


def source_facts(qa_path: Path) -> Row:
    """Which questions: hashes of the QA file, and of the manifest beside it where the file is a sample's.

    Raises InputError where it is not the file of that manifest."""
    qa_sha256 = sha256_of_file(qa_path)
    return {"qa_sha256": qa_sha256, **manifest_facts(qa_path, qa_sha256)}


def run_facts(settings: RunSettings, device: Device, known: Row) -> Row:
    """The `run` entry of every row: what is `known`, identity and source, and what else explains a difference."""
    import torch
    import transformers

    return known | {
        **device_facts(device),
        "tensor_parallel": settings.tensor_parallel,
        "checkpoint": settings.model_path.resolve().name,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "suite": SUITE_VERSION,
    }


def failed_row(question: Question, reason: str, facts: Row) -> Row:
    """An empty reply with the reason; the next start asks it again."""
    return _question_fields(question) | {"output_sequence": [""], "error": reason, "run": facts}


def answered_row(
    question: Question, prompt: Prompt, prepared: "PreparedVideo", answer: "Answer", rank: int, facts: Row
) -> Row:
    """NaN and infinity have no place in JSON and no meaning as a probability: such a row is marked and has neither."""
    row = _question_fields(question) | {"output_sequence": [answer.text]}
    if answer.is_finite:
        row |= {"letter_logprobs": dict(answer.letter_logprobs), "option_mass": answer.option_mass}
    else:
        row |= {"nonfinite": True, "error": "the logits hold NaN or infinity; try --dtype bfloat16"}
    return row | {
        "num_output_tokens": len(answer.token_ids),
        "prompt_tokens": len(prompt),
        "prompt_sha256": prompt.sha256,
        "pixels_sha256": prepared.pixels_sha256,
        "frames_decoded": prepared.frames_decoded,
        "frames_stated": prepared.frames_stated,
        "resolution": prepared.resolution,
        "rank": rank,
        "run": facts,
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
