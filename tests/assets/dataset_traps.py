"""The traps of the real data that need a row of their own; each of them stands in Video-Bench as it stands here.

The other traps follow from the layout: ids that stand in several sets, equal file names in NBA and
Driving-decision-making, numeric `video_id` in MSRVTT, six options in MOT, options that begin with a space.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.assets.clip_questions import ClipQuestion, make_question
from tests.assets.clips import Clip

Asked = tuple[ClipQuestion, dict[str, Any]]  # the question as a model should see it, and the row's `choices`


@dataclass(frozen=True)
class Trap:
    """A way to ask a clip; `kind` is the fact that the clip must have."""

    kind: str
    ask: Callable[[Clip, random.Random], Asked]


def ask_with_blanks(clip: Clip, rng: random.Random, letters: str, blank: str | None) -> Asked:
    """Of the four options only those of `letters` are real."""
    question = make_question(clip, rng, "background", letters)
    return question, {letter: question.options.get(letter, blank) for letter in "ABCD"}


def ask_with_one_option(clip: Clip, rng: random.Random) -> Asked:
    question = make_question(clip, rng, "background", "A")
    return question, dict(question.options)


def ask_with_numbers(clip: Clip, rng: random.Random) -> Asked:
    """The options are JSON numbers: {"A": 2, "B": 3, "C": 1}."""
    question = make_question(clip, rng, "count", "ABC", digits=True)
    return question, {letter: int(text) for letter, text in question.options.items()}


def ask_out_of_order(clip: Clip, rng: random.Random) -> Asked:
    question = make_question(clip, rng, "background", "ABCD")
    return question, {letter: question.options[letter] for letter in "ABDC"}


def ask_with_equal_options(clip: Clip, rng: random.Random) -> Asked:
    """Two of the wrong options have the same text."""
    question = make_question(clip, rng, "background", "ABCD")
    choices = dict(question.options)
    first, second = [letter for letter in choices if letter != question.answer][:2]
    choices[second] = choices[first]
    return question, choices


# Dataset -> its traps, each asked of the first clip that is not hard and has the fact.
TRAPS = {
    "ActivityNet": [
        Trap("background", ask_with_one_option),
        Trap("background", lambda clip, rng: ask_with_blanks(clip, rng, "BC", None)),
        Trap("background", ask_with_equal_options),
    ],
    "MSRVTT": [
        Trap("background", lambda clip, rng: ask_with_blanks(clip, rng, "CD", "")),
        Trap("background", ask_with_equal_options),
    ],
    "MSVD": [
        Trap("background", lambda clip, rng: ask_with_blanks(clip, rng, "BC", "")),
        Trap("background", ask_out_of_order),
        Trap("count", ask_with_numbers),
    ],
    "NBA": [Trap("count", ask_with_numbers), Trap("background", ask_with_equal_options)],
}


def add_duplicates(dataset: str, rows: dict[str, dict[str, Any]], answers: dict[str, dict[str, str]]) -> None:
    """Asks one question a second time under an id of its own."""
    if dataset in ("MSRVTT", "NBA"):
        first_id, *_, last_id = rows
        copy_id = str(int(last_id) + 1)
        rows[copy_id], answers[copy_id] = dict(rows[first_id]), dict(answers[first_id])


def add_extra_keys(dataset: str, rows: dict[str, dict[str, Any]], answers: dict[str, dict[str, str]]) -> None:
    """Keys that some sets have and none needs; the two that name a right answer stand in one row each."""
    if dataset == "ActivityNet":
        for id, row in rows.items():
            row["qid"] = id
    if dataset == "Youcook2":
        for number, row in enumerate(rows.values()):
            row["sub_dir"] = f"{200 + number}/{row['video_id']}"
    if dataset == "MSVD":
        for key, id in zip(("correct", "correctAnswer"), rows, strict=False):
            rows[id][key] = rows[id]["choices"][answers[id]["answer"]]
