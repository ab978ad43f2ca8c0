"""Writes the small data set of the tests, `tests/assets/egs/`, in the layout of Video-Bench.

    python -m tests.assets.make_dataset                     # about 10 seconds

Run it from the root of the repository. The JSON files are the same everywhere, the videos byte for byte on one machine
with one version of av (the files in the repository are of av 18.1.0); the tests use the committed files, and never
write them anew. The small model was trained on clips of another seed, by train_tiny_model.py in this folder's history.

Every trap of the real data is in it, see `dataset_traps.py`, and every sixth clip is hard to see on purpose (noise,
low contrast, brief appearances): a comparison needs mistakes and small margins. Rows have two keys that Video-Bench
does not: "kind", the sort of question (clip_questions.ORDER_KINDS are those on order and direction), and "hard" in the
rows of hard clips.
"""

import argparse
import json
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.assets.clip_files import encode
from tests.assets.clip_questions import LETTERS, WORDINGS, ClipQuestion, make_question, possible_answers
from tests.assets.clips import Clip, all_times, make_clip, render
from tests.assets.dataset_traps import TRAPS, add_duplicates, add_extra_keys
from tests.assets.hard_clips import HARD_KINDS, render_hard

DEFAULT_FOLDER = Path(__file__).parent / "egs"
SEED = 787
HARD_EVERY = 6  # clips


@dataclass(frozen=True)
class SetPlan:
    name: str
    file_names: list[str]
    questions: tuple[int, int]  # fewest and most of a video, before the traps
    options: tuple[int, int]  # fewest and most of a question
    first_id: int


PLANS = [
    SetPlan("ActivityNet", [f"v_clip{number:02}.mp4" for number in range(12)], (3, 5), (2, 4), 0),
    SetPlan(
        "MSVD", [f"clip{number}_{10 * number}_{10 * number + 8}.avi" for number in range(14)], (3, 5), (2, 4), 40810
    ),
    SetPlan("MSRVTT", [f"video{7010 + number}.mp4" for number in range(12)], (3, 5), (2, 5), 40830),
    SetPlan("Youcook2", [f"cook{number}.mp4" for number in range(8)], (3, 5), (4, 4), 0),
    SetPlan("Ucfcrime", [f"Abuse{28 + number:03}_x264.mp4" for number in range(8)], (1, 1), (4, 4), 0),
    SetPlan("MOT", [f"MOT16-{number:02}.mp4" for number in range(2, 10)], (1, 1), (6, 6), 0),
    SetPlan("NBA", [f"{number}.mp4" for number in range(10, 20)], (4, 6), (2, 4), 0),
    SetPlan("Driving-exam", [f"{918600 + 100 * number}.mp4" for number in range(8)], (1, 1), (2, 4), 918600),
    SetPlan("Driving-decision-making", [f"{number}.mp4" for number in range(10, 20)], (6, 8), (2, 4), 0),
]


@dataclass
class BuiltSet:
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)  # question id -> row of the QA file
    answers: dict[str, dict[str, str]] = field(default_factory=dict)  # question id -> {"answer": "B"}


class DatasetWriter:
    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.rng = random.Random(seed)
        self.clips_made = 0

    def write(self) -> None:
        qa_folder = self.folder / "Video-Bench" / "Eval_QA"
        qa_folder.mkdir(parents=True)
        answers = {}
        for plan in PLANS:
            built = self.build_set(plan)
            write_json(qa_folder / f"{plan.name}_QA_new.json", built.rows)
            answers[plan.name] = built.answers
            if plan.name == "MOT":  # the stray file of the real data: not a question file, and it holds the answers
                stray = {id: row | built.answers[id] for id, row in built.rows.items()}
                write_json(qa_folder / "MOT_QA.json", stray)
        write_json(self.folder / "Video-Bench" / "ANSWER.json", answers)

    def build_set(self, plan: SetPlan) -> BuiltSet:
        video_folder = self.folder / "VideoBench" / "Eval_video" / plan.name
        video_folder.mkdir(parents=True)
        built = BuiltSet()
        traps = list(TRAPS.get(plan.name, []))
        for file_name in plan.file_names:
            clip, hard = self.next_clip()
            encode(video_folder / file_name, self.render(clip, hard))
            asked = [(question, dict(question.options)) for question in self.ask(clip, plan)]
            if traps and hard is None and traps[0].kind in clip.facts:
                asked.append(traps.pop(0).ask(clip, self.rng))
            for number, (question, choices) in enumerate(asked):
                id = self.question_id(plan, file_name, number, len(built.rows))
                built.rows[id] = make_row(plan, file_name, question, choices, hard)
                built.answers[id] = {"answer": question.answer}
        if traps:
            raise RuntimeError(f"no clip of {plan.name} fits the trap {traps[0]}: choose another seed")
        add_duplicates(plan.name, built.rows, built.answers)
        add_extra_keys(plan.name, built.rows, built.answers)
        return built

    def next_clip(self) -> tuple[Clip, str | None]:
        """A clip, and the way in which it is to be made hard, if it is."""
        self.clips_made += 1
        turn, rest = divmod(self.clips_made, HARD_EVERY)
        return make_clip(self.rng), None if rest else HARD_KINDS[turn % len(HARD_KINDS)]

    def render(self, clip: Clip, hard: str | None) -> np.ndarray:
        return render_hard(clip, all_times, hard, self.rng) if hard else render(clip, all_times(clip))

    def ask(self, clip: Clip, plan: SetPlan) -> list[ClipQuestion]:
        """Different questions about one clip, each of which has as many answers to choose from as the plan asks."""
        fewest, most = plan.options
        kinds = [kind for kind in sorted(clip.facts) if len(possible_answers(kind)) >= fewest]
        wordings = [(kind, wording) for kind in kinds for wording in range(len(WORDINGS[kind]))]
        return [
            make_question(clip, self.rng, kind, LETTERS[: self.rng.randint(fewest, most)], wording)
            for kind, wording in self.rng.sample(wordings, self.rng.randint(*plan.questions))
        ]

    @staticmethod
    def question_id(plan: SetPlan, file_name: str, number: int, count: int) -> str:
        """As in the real sets: ActivityNet's name the video, all others are numbers, and several sets count from 0."""
        if plan.name == "ActivityNet":
            return f"{Path(file_name).stem}_{number}"
        return str(plan.first_id + count)


def make_row(
    plan: SetPlan, file_name: str, question: ClipQuestion, choices: dict[str, Any], hard: str | None
) -> dict[str, Any]:
    video_id: str | int = Path(file_name).stem
    if plan.name == "MSRVTT":
        video_id = int(Path(file_name).stem.removeprefix("video"))
    if plan.name == "Driving-exam":  # its options begin with a space
        choices = {letter: f" {text}" for letter, text in choices.items()}
    row = {
        "vid_path": f"Eval_video/{plan.name}/{file_name}",
        "video_id": video_id,
        "question": question.text,
        "choices": choices,
        "kind": question.kind,
    }
    return row if hard is None else row | {"hard": hard}


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER, help="is replaced (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=SEED, help="default: %(default)s")
    args = parser.parse_args()
    if args.folder.exists():
        if not (args.folder / "Video-Bench").is_dir():
            parser.error(f"{args.folder} exists and is no data set of this script: remove it yourself")
        shutil.rmtree(args.folder)
    DatasetWriter(args.folder, args.seed).write()


if __name__ == "__main__":
    main()
