"""What is asked of the device at once: whole videos, with as many questions as its memory takes, and what happens where
it does not take them."""

import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from videobench.console import one_line
from videobench.device.devices import DEFAULT_BATCH_SIZES, Device, is_out_of_memory
from videobench.device.memory import memory_bytes, release_memory, too_large
from videobench.errors import DeviceLost
from videobench.model.cost import question_bytes, row_bytes
from videobench.model.questions import Answer, VideoQuestions
from videobench.run.context import RunContext
from videobench.run.plan import VideoWork

if TYPE_CHECKING:
    import torch

    from videobench.video.prepared import PreparedVideo

# The rest is for what is counted nowhere: workspaces of matrix libraries, blocks too small to be used again.
USABLE_PART = 0.9
DEVICE_ERRORS = (RuntimeError, MemoryError)  # torch raises the first for whatever a device reports
# After an error that breaks the whole device every further question fails at once, and this replica would claim and
# fail all videos of the job. This many failures with no answer between them are taken for that.
MOST_FAILURES_IN_A_ROW = 16

Prepared = tuple[VideoWork, "PreparedVideo"]


def batch_size_for(context: RunContext, weights_bytes: int) -> int:
    """Questions to answer together: --batch_size, or the device's default where its memory takes as many.

    `weights_bytes` are those that are still to be loaded. At least one question: whether it fits will show."""
    settings, plan = context.settings, context.plan
    if settings.batch_size is not None:
        return settings.batch_size
    most = DEFAULT_BATCH_SIZES[context.device.kind]
    asked = [prompt for question, prompt in plan.prompts.items() if question not in plan.failures]
    if context.device.kind == "cpu" or not asked:
        return most
    longest = max(asked, key=len)
    length, cards = len(longest) + settings.max_new_tokens, settings.tensor_parallel
    needed = question_bytes(
        context.checkpoint, settings.dtype, settings.num_frames, len(longest.prefix_ids), length, cards
    )
    release_memory(context.device)  # what reading the weights has left in torch's own store is free, too
    usable = int((memory_bytes(context.device)[0] - weights_bytes) * USABLE_PART)
    usable -= row_bytes(context.checkpoint, settings.dtype, length, cards)
    return max(1, min(most, usable // needed))


def make_batches(
    prepared: Iterable[Prepared], batch_size: int, most_videos: Callable[[], int]
) -> Iterator[list[Prepared]]:
    """Whole videos, as many as have `batch_size` questions, or more on a single one; no more than `most_videos()`."""
    batch: list[Prepared] = []
    for work, video in prepared:
        num_questions = sum(len(each.questions) for each, _ in batch) + len(work.questions)
        if batch and (num_questions > batch_size or _prefix_length(work) != _prefix_length(batch[0][0])):
            yield batch
            batch = []
        batch.append((work, video))
        if len(batch) >= most_videos():
            yield batch
            batch = []
    if batch:
        yield batch


def stage_ahead(
    batches: Iterable[list[Prepared]], to_device: Callable[[list["torch.Tensor"]], "torch.Tensor"]
) -> Iterator[list[Prepared]]:
    """The same batches with their pixels on the device: a thread copies those of the next one while it computes."""
    with ThreadPoolExecutor(1, thread_name_prefix="stage") as thread:
        staged: Future[list[Prepared]] | None = None
        for batch in batches:
            following = thread.submit(_stage, batch, to_device)
            if staged:
                yield staged.result()
            staged = following
        if staged:
            yield staged.result()


def _stage(batch: list[Prepared], to_device: Callable[[list["torch.Tensor"]], "torch.Tensor"]) -> list[Prepared]:
    pixels = [video.pixels for _, video in batch if video.pixels is not None]
    if not pixels:
        return batch
    try:
        copied = iter(to_device(pixels))
    except RuntimeError:
        return batch  # the engine copies them itself, and what it meets then is dealt with there
    return [(work, video if video.pixels is None else replace(video, pixels=next(copied))) for work, video in batch]


def _prefix_length(work: VideoWork) -> int:
    return len(work.prompts[0].prefix_ids)


class AnsweringEngine(Protocol):
    """An Engine, or the GroupEngine of several processes."""

    def answer(self, videos: Sequence[VideoQuestions], batch_size: int) -> list[list[Answer]]: ...


class RetryingEngine:
    """Answers each question, or gives the reason why it failed.

    A batch that does not fit the device's memory is halved, first in videos, then in questions; what this shows of the
    memory holds for the rest of the run. A batch that a device error ends is retried question by question: only the
    failing questions are lost."""

    def __init__(self, engine: AnsweringEngine, device: Device, batch_size: int) -> None:
        self._engine = engine
        self._device = device
        self._most_videos: int | None = None
        self._most_questions = batch_size
        self._failures_in_a_row = 0
        self.batch_size = batch_size  # questions answered together in the last call

    def answer(self, videos: Sequence[VideoQuestions]) -> list[list[Answer | str]]:
        """As Engine.answer; a text is the reason why that question failed.

        Raises DeviceLost where the device no longer responds."""
        try:
            answers = self._answer_in_batches(videos)
        except DEVICE_ERRORS:
            traceback.print_exc(file=sys.stderr)  # whole, once: the questions' reasons have its last line only
            print("warning: a batch failed and is tried again question by question", file=sys.stderr)
            self.batch_size = 1
            return [self._answer_one_by_one(video) for video in videos]
        self.batch_size = self._most_questions
        if any(isinstance(answer, Answer) for each in answers for answer in each):
            self._failures_in_a_row = 0
        return answers

    def _answer_in_batches(self, videos: Sequence[VideoQuestions]) -> list[list[Answer | str]]:
        answers: list[list[Answer | str]] = []
        while left := videos[len(answers) :]:
            batch = left[: self._most_videos]
            answered = self._try(batch)
            if answered is not None:
                answers += answered
            elif not self._halve(batch):
                # Each question with a cache of its own: a longer one may not fit where another does.
                [video] = batch
                has_several = len(video.prompts) > 1
                answers.append(self._answer_one_by_one(video) if has_several else [too_large(self._device)])
        return answers

    def _try(self, videos: Sequence[VideoQuestions]) -> list[list[Answer | str]] | None:
        """None where the device has too little memory for it."""
        try:
            return [list(each) for each in self._engine.answer(videos, self._most_questions)]
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # Only here, since the exception's traceback held the tensors of the failed try.
        release_memory(self._device)
        return None

    def _halve(self, videos: Sequence[VideoQuestions]) -> bool:
        """False where nothing is left to halve: one video, one question at a time."""
        questions = min(self._most_questions, sum(len(video.prompts) for video in videos))
        if len(videos) > 1:
            self._most_videos = _half(len(videos))
            self._warn(self._most_videos, "video")
        elif questions > 1:
            self._most_questions = _half(questions)
            self._warn(self._most_questions, "question")
        else:
            return False
        return True

    def _answer_one_by_one(self, video: VideoQuestions) -> list[Answer | str]:
        return [
            self._answer_one(VideoQuestions(video.pixels, [prompt], [letters]))
            for prompt, letters in zip(video.prompts, video.letters, strict=True)
        ]

    def _answer_one(self, question: VideoQuestions) -> Answer | str:
        try:
            answered = self._try([question])
        except DEVICE_ERRORS as error:
            return self._count_failure(one_line(f"the device failed: {type(error).__name__}: {error}"))
        self._failures_in_a_row = 0
        return answered[0][0] if answered else too_large(self._device)

    def _count_failure(self, reason: str) -> str:
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= MOST_FAILURES_IN_A_ROW:
            raise DeviceLost(
                f"{self._failures_in_a_row} questions in a row failed, the last with {reason}; check the device and "
                "start again: what was answered is kept"
            )
        return reason

    def _warn(self, count: int, unit: str) -> None:
        size = f"{count} {unit}{'' if count == 1 else 's'}"
        device = self._device.torch_device
        print(f"warning: {device} is out of memory; from here on at most {size} at once", file=sys.stderr)


def _half(count: int) -> int:
    return (count + 1) // 2
