"""A batch that a device error ends is tried again question by question: it costs only those at fault."""

import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

from videobench.console import one_line
from videobench.errors import DeviceLost
from videobench.run.fitting import FittingEngine

if TYPE_CHECKING:
    from videobench.model.questions import Answer, VideoQuestions

DEVICE_ERRORS = (RuntimeError, MemoryError)  # torch raises the first for whatever a device says
# After an error that breaks the whole device every further question fails at once: a card of several would drain the
# list that they share. So many failures with no answer between them are taken for that.
MOST_FAILURES_IN_A_ROW = 16

# Of one video's questions; a text: why it failed; None: too large for the device.
Outcomes = list["Answer | str | None"]


class PatientEngine:
    """A FittingEngine that survives errors of the device."""

    def __init__(self, engine: FittingEngine) -> None:
        self._engine = engine
        self._failures_in_a_row = 0
        self.batch_size = engine.batch_size  # of the last call: 1 where it was tried again question by question

    def answer(self, videos: Sequence["VideoQuestions"]) -> list[Outcomes]:
        """As FittingEngine.answer; a text is the reason why that question failed.

        Raises DeviceLost where the device answers nothing any more."""
        try:
            answers: list[Outcomes] = [list(each) for each in self._engine.answer(videos)]
            self.batch_size = self._engine.batch_size
            if any(any(each) for each in answers):  # not where no video of the batch could be decoded, nor any fitted
                self._failures_in_a_row = 0
            return answers
        except DEVICE_ERRORS:
            traceback.print_exc(file=sys.stderr)  # for whoever mends it: the reasons tell the last line only
        print("warning: a batch failed and is tried again question by question", file=sys.stderr)
        self.batch_size = 1
        return [self._answer_one_by_one(video) for video in videos]

    def _answer_one_by_one(self, video: "VideoQuestions") -> Outcomes:
        from videobench.model.questions import VideoQuestions

        answers: Outcomes = []
        for prompt, letters in zip(video.prompts, video.letters, strict=True):
            try:
                answers += self._engine.answer([VideoQuestions(video.pixels, [prompt], [letters])])[0]
                self._failures_in_a_row = 0
            except DEVICE_ERRORS as error:
                answers.append(self._count_failure(one_line(f"the device failed: {type(error).__name__}: {error}")))
        return answers

    def _count_failure(self, reason: str) -> str:
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= MOST_FAILURES_IN_A_ROW:
            raise DeviceLost(
                f"{self._failures_in_a_row} questions in a row failed, the last with {reason}; check the device and "
                "start again: what was answered is kept"
            )
        return reason
