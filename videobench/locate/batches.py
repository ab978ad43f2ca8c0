"""Answer a batch on the device as a run does: does each row agree with one plain `generate`?"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from videobench.device.devices import is_out_of_memory
from videobench.locate.recording import Rows
from videobench.model.engine import Engine, batch_rows
from videobench.model.prompts import Answer, Prompt, VideoQuestions


@dataclass(frozen=True)
class Batch:
    """Questions that the engine answers in one batch, their videos in one prefix."""

    name: str  # "video 1"
    videos: Sequence[VideoQuestions]
    rows: tuple[int, ...] = ()  # the CPU computes these alone; () for all

    @property
    def order(self) -> list[tuple[int, int]]:
        """For each row, the number of its video and of the question on it."""
        return batch_rows(self.videos)

    @property
    def recorded(self) -> Rows:
        order = self.order
        rows = self.rows or tuple(range(len(order)))
        videos = sorted({order[row][0] for row in rows})
        places = tuple(videos.index(order[row][0]) for row in rows)
        return Rows(rows, len(order), tuple(videos), len(self.videos), places)

    @property
    def prompts(self) -> list[Prompt]:
        return [prompt for video in self.videos for prompt in video.prompts]

    def answer(self, engine: Engine) -> list[list[Answer]]:
        """Answer the questions, grouped by video."""
        return engine.answer(self.videos, len(self.order))


@dataclass(frozen=True)
class Tried:
    """A batch that fits, and how far its rows are from plain `generate`."""

    batch: Batch
    nats: tuple[float, ...]  # of each row
    length: int  # tokens of its prompts, with the padding

    @property
    def size(self) -> str:
        """ "32 rows on 11 videos in one prefix"."""
        rows, videos = len(self.nats), len(self.batch.videos)
        return f"{rows} row{'s' * (rows > 1)} on {'one video' if videos == 1 else f'{videos} videos in one prefix'}"

    @property
    def shape(self) -> str:
        """ "32 rows on 11 videos in one prefix, prompts of 1,180 to 1,310 tokens padded to 1,312"."""
        lengths = sorted(map(len, self.batch.prompts))
        tokens = f"{lengths[0]:,}" if lengths[0] == lengths[-1] else f"{lengths[0]:,} to {lengths[-1]:,}"
        return f"{self.size}, prompts of {tokens} tokens{f' padded to {self.length:,}' * (lengths[0] < self.length)}"

    def differing(self, most: float) -> list[int]:
        """Rows that differ by more than `most` nats."""
        return [row for row, nats in enumerate(self.nats) if not nats <= most]


class PlainAnswers:
    """The answers of plain `generate`, computed once for each question."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[tuple[int, int], tuple[Answer, list[torch.Tensor]]] = {}

    def distance(self, answer: Answer, video: VideoQuestions, number: int) -> float:
        """Distance in nats between an answer from a batch and the plain one: the largest difference of a letter's
        log-probability. If another token was chosen, also half of how much less probable it is: at least one side must
        have moved by that much."""
        key = id(video.pixels), id(video.prompts[number])
        if key not in self._known:
            with _noting_logits(self._engine.model) as logits:
                self._known[key] = self._engine.answer_plainly(video, number), logits
        plain, logits = self._known[key]
        nats = distance(answer, plain)
        for step, (chosen, best) in enumerate(zip(answer.token_ids, plain.token_ids, strict=False)):
            if chosen != best:
                lead = float(logits[step][best] - logits[step][chosen])
                return max(nats, lead / 2 if math.isfinite(lead) else 0.0)
        return nats


@contextmanager
def _noting_logits(model: Any) -> Iterator[list[torch.Tensor]]:
    """Record the last position's logits in each forward pass of one row, as float32 on the host."""
    noted: list[torch.Tensor] = []
    handle = model.register_forward_hook(lambda _, __, output: noted.append(output.logits[0, -1].float().cpu()))
    try:
        yield noted
    finally:
        handle.remove()


def distance(one: Answer, other: Answer) -> float:
    """The largest difference of a letter's log-probability, in nats; 0 if both are NaN, infinite if one is."""
    pairs = [(value, other.letter_logprobs[letter]) for letter, value in one.letter_logprobs.items()]
    known = [abs(first - second) for first, second in pairs if not math.isnan(first) or not math.isnan(second)]
    return max((math.inf if math.isnan(each) else each for each in known), default=0.0)


def try_batch(engine: Engine, batch: Batch, plain: PlainAnswers) -> Tried:
    """Answer the batch, or as much of it as fits the device: half of it, a quarter, ..."""
    while True:
        try:
            answers = batch.answer(engine)
            break
        except RuntimeError as error:
            if not is_out_of_memory(error) or (smaller := _half(batch.videos)) is None:
                raise
        batch = replace(batch, videos=smaller)
    nats = (plain.distance(answers[video][number], batch.videos[video], number) for video, number in batch.order)
    return Tried(batch, tuple(nats), engine.padded_length(batch.prompts))


def _half(videos: Sequence[VideoQuestions]) -> Sequence[VideoQuestions] | None:
    """The first half of the questions; None if only one is left."""
    if len(videos) > 1:
        return videos[: (len(videos) + 1) // 2]
    [video] = videos
    half = (len(video.prompts) + 1) // 2
    if half == len(video.prompts):
        return None
    return [VideoQuestions(video.pixels, video.prompts[:half], video.letters[:half])]
