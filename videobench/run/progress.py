"""One line on the terminal: how far, how fast, how long still, what failed, and how much of it was right."""

import sys
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from videobench.data.dataset import Question
from videobench.data.letters import read_letter
from videobench.jobs.job import Job

RightAnswers = Mapping[tuple[str, str], str]  # (data set, id) -> right letter


class Progress:
    """Of the whole job on process 0; what failed and what was right counts that process's own questions."""

    def __init__(self, total: int, answers: RightAnswers, job: Job) -> None:
        self._answers = answers
        self._job = job
        self._failed = self._judged = self._right = 0
        disable = None if total and job.is_first else True  # None: where stderr is not a terminal
        self._bar = tqdm(total=total, desc="answer", unit="question", file=sys.stderr, disable=disable)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def add(self, rows: Mapping[Question, Mapping[str, Any]]) -> None:
        for question, row in rows.items():
            self._failed += "error" in row
            if (right := self._answers.get((question.dataset, question.id))) is not None:
                self._judged += 1
                self._right += "error" not in row and read_letter(row["output_sequence"][0], question.options) == right
        self._bar.set_postfix_str(self.summary(), refresh=False)
        self.refresh(len(rows))

    def refresh(self, new: int = 0) -> None:
        """`new` more questions are done by this process."""
        self._bar.update(self._job.count(new) - self._bar.n)

    def summary(self) -> str:
        """`failed 2, right 61.2 % (153/250)`; the second part where answers are known."""
        parts = [f"failed {self._failed}"]
        if self._judged:
            parts.append(f"right {self._right / self._judged:.1%} ({self._right}/{self._judged})".replace("%", " %"))
        return ", ".join(parts)
