"""Which of the benchmark's JSON files one is, so that a file given in another's place is named."""

from pathlib import Path
from typing import Any

from videobench.errors import InputError

QUESTIONS, ANSWERS, REPLIES, MANIFEST = "questions", "right answers", "a run's replies", "a sample's manifest"
TAKEN_BY = {
    QUESTIONS: "questions are found through --Eval_QA_root",
    ANSWERS: "--sampling_answer_path, --correct_answer_file and --answer_path take sampling_answer.json or ANSWER.json",
    REPLIES: "name a run's output folder, its <set>_eval.json, or another engine's output",
}


def check_kind(path: Path, content: Any, wanted: str) -> None:
    """Raises InputError where `content` is clearly another one of the benchmark's files than `wanted`."""
    found = _kind_of(content)
    if found not in ("", wanted):
        raise InputError(f"{path}: holds {found}, not {wanted}; {TAKEN_BY[wanted]}")


def _kind_of(content: Any) -> str:
    """By its first entry; "" where that does not say."""
    first = _first(content)
    if isinstance(content, dict) and "videos_sha256" in content:
        return MANIFEST
    if not isinstance(first, dict):
        return ""
    if "output_sequence" in first:
        return REPLIES
    if "vid_path" in first and "question" in first:
        return QUESTIONS
    entry = _first(first)
    is_answer = "answer" in entry if isinstance(entry, dict) else isinstance(entry, str) and len(entry.strip()) == 1
    return ANSWERS if is_answer else ""


def _first(content: Any) -> Any:
    return next(iter(content.values()), None) if isinstance(content, dict) else None
