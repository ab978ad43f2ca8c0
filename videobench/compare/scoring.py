"""Turn replies into outcomes and accuracies: per side, data set and level, and the leaderboard's weighted average.

Unreadable, failed and missing answers are wrong: they stay in the denominator and are also counted separately.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from videobench.data.dataset import ANSWERS, DATASET_NAMES, check_kind
from videobench.data.letters import read_letter
from videobench.data.rows import Reply
from videobench.errors import InputError
from videobench.files import read_json

# Level and weight within it: Step3_compute_scores.py of https://github.com/PKU-YuanGroup/Video-Bench. The mean over the
# three levels is the leaderboard's average.
LEVEL_NAMES = {1: "video-exclusive", 2: "prior knowledge", 3: "decision-making"}
LEVEL_OF = {name: 1 if index < 7 else 2 if index < 10 else 3 for index, name in enumerate(DATASET_NAMES)}
WEIGHT_OF = dict.fromkeys(DATASET_NAMES, 1.0) | {"MOT": 0.5, "Driving-exam": 0.5}

RIGHT, WRONG, UNREADABLE, FAILED, MISSING = "right", "wrong", "unreadable", "failed", "missing"


@dataclass(frozen=True)
class Score:
    """Counts of one side; `total` = right + wrong + unreadable + failed + missing."""

    correct: int
    total: int
    unreadable: int
    failed: int
    missing: int

    @property
    def accuracy(self) -> float:
        """Proportion of right answers, 0 to 1; nan without a question."""
        return self.correct / self.total if self.total else float("nan")


def check_scorable(path: Path, replies: Iterable[Reply], scoring: str) -> None:
    """Raise InputError if no reply has the log-probabilities that `logprob` reads."""
    answered = [reply for reply in replies if not reply.error]
    if scoring == "logprob" and answered and not any(reply.logprobs for reply in answered):
        raise InputError(f"{path}: no reply has log-probabilities, which --scoring logprob takes; use --scoring strict")


def choose_letter(reply: Reply, scoring: str) -> str | None:
    """Read a reply's letter under one of settings.SCORINGS; None if it has none."""
    if scoring == "mindie":
        return read_letter_as_original(reply.output)
    if reply.error:
        return None
    if scoring == "strict":
        return read_letter(reply.text, reply.options)
    options = {
        letter: value for letter, value in reply.logprobs.items() if not reply.options or letter in reply.options
    }
    return max(options, key=options.__getitem__) if options else None


def judge(reply: Reply | None, letter: str | None, right: str) -> str:
    """Return RIGHT, WRONG, UNREADABLE, FAILED or MISSING."""
    if reply is None:
        return MISSING
    if reply.error:
        return FAILED
    if letter is None:
        return UNREADABLE
    return RIGHT if letter == right else WRONG


def score(outcomes: Iterable[str]) -> Score:
    counts = Counter(outcomes)
    return Score(counts[RIGHT], counts.total(), counts[UNREADABLE], counts[FAILED], counts[MISSING])


def weighted_average(accuracy_of: Mapping[str, float]) -> dict[int | str, float]:
    """Compute the leaderboard's weighted averages, 0 to 1: {1: ..., 2: ..., 3: ..., "all": ...}.

    Over the sets that are there; a level without any set is left out, also from `all`."""
    averages: dict[int | str, float] = {}
    for level in LEVEL_NAMES:
        present = [name for name in DATASET_NAMES if LEVEL_OF[name] == level and name in accuracy_of]
        if present:
            weights = sum(WEIGHT_OF[name] for name in present)
            averages[level] = sum(WEIGHT_OF[name] * accuracy_of[name] for name in present) / weights
    if averages:
        averages["all"] = sum(averages.values()) / len(averages)
    return averages


def chance_level(replies: Iterable[Reply]) -> float | None:
    """Mean of 1 / number of options, 0 to 1, over the replies that list their options; None if none does."""
    counts = [len(reply.options) for reply in replies if reply.options]
    return sum(1 / count for count in counts) / len(counts) if counts else None


# --scoring mindie scores as the original scripts did, faults included, so that old numbers can be reproduced: a bare
# text is judged by its first character, "Cat" is a C, "is Black" a B, F is unknown, and a question without a letter on
# either side is dropped for both.
ORIGINAL_LETTERS = "ABCDE"
SHORT_REPLY = 5


def read_letter_as_original(output: str | Sequence[str]) -> str | None:
    """Read the letter from `output_sequence` as the original does, which sees only a bare text's first character."""
    text = output[0] if output else ""
    for _ in range(10):
        text = text.replace("  ", " ")
    text = text.replace("</s>", "").replace("<|im_end|>", "")
    return first_letter(text, "{}") if len(text) < SHORT_REPLY else first_letter(text, "is {}", " {}.")


def first_letter(text: str, *marks: str) -> str | None:
    """The first of A to E, in this order, that occurs in the text with the first mark, else with the next."""
    return next((letter for mark in marks for letter in ORIGINAL_LETTERS if mark.format(letter) in text), None)


def load_raw_answers(path: Path) -> dict[str, tuple[str, str]]:
    """Map bare keys to (dataset, text of the answer); a later data set overwrites an equal key of an earlier one.

    Raises InputError, naming the entry, if it is not an answer file."""
    content = read_json(path)
    check_kind(path, content, ANSWERS)
    if not isinstance(content, dict) or not all(isinstance(entries, dict) for entries in content.values()):
        raise InputError(f"{path}: not an answer file (data set -> question id -> answer); get the file again")
    answers = {}
    for dataset, entries in content.items():
        for key, entry in entries.items():
            answer = entry.get("answer") if isinstance(entry, dict) else entry
            if not isinstance(answer, str):
                raise InputError(f"{path}: {dataset}/{key}: answer {answer!r:.60} is not a text; fix that entry")
            answers[key] = (dataset, answer)
    return answers
