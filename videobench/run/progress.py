"""How far a run is: a bar on a terminal, a line each minute elsewhere, as in a log file."""

import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tqdm import tqdm

from videobench.console import EachMinute, in_time
from videobench.data.dataset import Question
from videobench.data.letters import read_letter
from videobench.jobs.job import Job

RightAnswers = Mapping[tuple[str, str], str]  # (data set, id) -> right letter

BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}, {rate_noinv_fmt}, {remaining} left"  # fits 80 columns


@dataclass(frozen=True)
class Tally:
    """Questions."""

    done: int = 0
    failed: int = 0
    judged: int = 0  # their right answer is known
    right: int = 0

    @classmethod
    def of(cls, rows: Mapping[Question, Mapping[str, Any]], answers: RightAnswers) -> "Tally":
        failed = judged = right = 0
        for question, row in rows.items():
            failed += "error" in row
            if (answer := answers.get((question.dataset, question.id))) is not None:
                judged += 1
                right += "error" not in row and read_letter(row["output_sequence"][0], question.options) == answer
        return cls(len(rows), failed, judged, right)

    @property
    def accuracy(self) -> str:
        """`, right 61.2 % (153/250)`; empty where no answers are known."""
        return f", right {100 * self.right / self.judged:.1f} % ({self.right}/{self.judged})" if self.judged else ""


class Progress:
    """Of the whole job, on process 0. Every process adds to it."""

    def __init__(self, total: int, answers: RightAnswers, job: Job) -> None:
        self._total = total
        self._answers = answers
        self._job = job
        self._bar: tqdm | None = None
        self._began = time.monotonic()
        self._minute = EachMinute()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def start(self) -> None:
        """The weights are there: the rate counts from now."""
        self._began = time.monotonic()
        if self._job.is_first and sys.stderr.isatty():
            self._bar = tqdm(total=self._total, bar_format=BAR, unit="", file=sys.stderr, dynamic_ncols=True)

    def add(self, rows: Mapping[Question, Mapping[str, Any]]) -> None:
        """These are done by this process."""
        self._show(Tally.of(rows, self._answers))

    def refresh(self) -> None:
        """Shows what the others have done meanwhile."""
        self._show(Tally())

    def _show(self, new: Tally) -> None:
        job = Tally(**{name: self._job.count(name, number) for name, number in asdict(new).items()})
        if self._bar is not None:
            self._bar.set_postfix_str(f"failed {job.failed}{job.accuracy.partition(' (')[0]}", refresh=False)
            self._bar.update(job.done - self._bar.n)
        elif self._job.is_first:
            self._minute.say(self.line(job))

    def line(self, job: Tally) -> str:
        """`120/339 (35 %), failed 2, right 61.2 % (73/119), 10.4/s, 21 s left`."""
        rate = job.done / max(time.monotonic() - self._began, 1e-3)
        left = in_time((self._total - job.done) / rate) if rate else "unknown time"
        share = 100 * job.done // max(self._total, 1)
        return f"{job.done}/{self._total} ({share} %), failed {job.failed}{job.accuracy}, {rate:.2f}/s, {left} left"
