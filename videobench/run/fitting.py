"""Batches that fit the device's memory: halved where they do not, first in videos, then in questions."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from videobench.device.devices import Device, is_out_of_memory
from videobench.device.memory import release_memory

if TYPE_CHECKING:
    from videobench.model.engine import Engine
    from videobench.model.questions import Answer, VideoQuestions

Answers = list["Answer | None"]  # of one video's questions; None: too large for the device even alone


class FittingEngine:
    """An engine that knows what fits. What it learns from running out of memory holds for the rest of the run."""

    def __init__(self, engine: "Engine", device: Device, batch_size: int) -> None:
        self._engine = engine
        self._device = device
        self._max_videos: int | None = None
        self.batch_size = batch_size  # questions answered together

    def answer(self, videos: Sequence["VideoQuestions"]) -> list[Answers]:
        """As Engine.answer, with None for a question that does not fit even alone. Raises RuntimeError for whatever
        else the device says."""
        answers: list[Answers] = []
        while left := videos[len(answers) :]:
            group = left[: self._max_videos]
            answered = self._try(group)
            if answered is not None:
                answers += answered
            elif not self._halve(group):
                answers.append(self._answer_one_by_one(group[0]))
        return answers

    def _try(self, videos: Sequence["VideoQuestions"]) -> list[Answers] | None:
        """None where the device has not the memory for it."""
        try:
            return [list(answers) for answers in self._engine.answer(videos, self.batch_size)]
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # Only here, since the exception's traceback held the tensors of the failed try.
        release_memory(self._device)
        return None

    def _halve(self, videos: Sequence["VideoQuestions"]) -> bool:
        """False where there is nothing left to halve: one video, one question at a time."""
        rows = min(self.batch_size, sum(len(video.prompts) for video in videos))
        if len(videos) > 1:
            self._max_videos = _half(len(videos))
            self._warn(self._max_videos, "video")
        elif rows > 1:
            self.batch_size = _half(rows)
            self._warn(self.batch_size, "question")
        else:
            return False
        return True

    def _answer_one_by_one(self, video: "VideoQuestions") -> Answers:
        """Each question with a cache of its own: a longer one may not fit where another does."""
        from videobench.model.questions import VideoQuestions

        if len(video.prompts) == 1:
            return [None]
        answers: Answers = []
        for prompt, letters in zip(video.prompts, video.letters, strict=True):
            answered = self._try([VideoQuestions(video.pixels, [prompt], [letters])])
            answers.append(answered[0][0] if answered else None)
        return answers

    def _warn(self, count: int, unit: str) -> None:
        size = f"{count} {unit}{'' if count == 1 else 's'}"
        device = self._device.torch_device
        print(f"warning: {device} is out of memory; from here on at most {size} at once", file=sys.stderr)


def _half(count: int) -> int:
    return (count + 1) // 2
