"""One run's replies as Video-Bench's submission form."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videobench.compare.scoring import check_scorable, choose_letter
from videobench.data.dataset import load_answers
from videobench.data.results import load_facts, load_results
from videobench.errors import InputError
from videobench.files import write_json


@dataclass(frozen=True)
class ExportCounts:
    replies: int
    without_letter: int


def write_leaderboard(
    path: Path, run_path: Path, answer_path: Path | None, scoring: str, facts_path: Path | None = None
) -> ExportCounts:
    """Write {dataset: {id: {video_id, question, output_sequence, output_chatgpt_choice}}} to `path`.

    The choice is the letter read by `scoring`; a reply without one has an empty choice, which counts as wrong. The
    answers serve only to find the data set of rows that do not name theirs, the facts of exported requests the
    questions of another engine's. Raises InputError where there is none, or where the run cannot be scored so."""
    answers = load_answers(answer_path) if answer_path else {}
    replies = load_results(run_path, answers, asked=load_facts(facts_path) if facts_path else None)
    check_scorable(run_path, replies.values(), scoring)
    form: dict[str, dict[str, Any]] = {}
    without_letter = 0
    for (dataset, id), reply in replies.items():
        if not dataset:
            raise InputError(
                f"{run_path}: row {id!r} names no data set; call the file <data set>_eval.json, or give the answers"
            )
        letter = choose_letter(reply, scoring)
        without_letter += letter is None
        form.setdefault(dataset, {})[id] = {
            "video_id": reply.video_id,
            "question": reply.question,
            "output_sequence": [reply.text],
            "output_chatgpt_choice": letter or "",
        }
    write_json(path, form)
    return ExportCounts(len(replies), without_letter)
