"""The loop of one process: decode frames ahead of the device, and answer in batches."""

import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from videobench.console import StatusLine, in_time, one_line
from videobench.data.dataset import Question
from videobench.data.letters import read_letter
from videobench.data.rows import NONFINITE, Row, question_fields
from videobench.device.devices import (
    DEFAULT_BATCH_SIZES,
    LENGTH_MULTIPLES,
    Device,
    check_free_memory,
    is_out_of_memory,
    memory_bytes,
    release_memory,
    too_large,
)
from videobench.errors import DeviceLost
from videobench.jobs.job import Job, limit_held
from videobench.model.cost import question_bytes, row_bytes
from videobench.model.prompts import Answer, Prompt, VideoQuestions
from videobench.run.journals import InFlight, Journals, start_hashing_weights
from videobench.run.plan import RunContext, VideoWork
from videobench.run.tensor_parallel import Group, GroupEngine, check_group

if TYPE_CHECKING:
    import torch

    from videobench.model.cost import Usage
    from videobench.model.engine import Engine
    from videobench.video.pool import PreparedVideo

RightAnswers = Mapping[tuple[str, str], str]  # (data set, id) -> right letter


@dataclass(frozen=True)
class Tally:
    """Counts of questions."""

    done: int = 0
    failed: int = 0
    judged: int = 0  # answers whose right letter is known
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
        """`, right 61.2 % (153/250)`; empty if no answers are known."""
        return f", right {100 * self.right / self.judged:.1f} % ({self.right}/{self.judged})" if self.judged else ""


class Progress(StatusLine):
    """The progress of the whole job, shown by process 0. Every process adds to it."""

    def __init__(self, total: int, answers: RightAnswers, job: Job) -> None:
        super().__init__()
        self._total = total
        self._answers = answers
        self._job = job
        self._began = time.monotonic()

    def start(self) -> None:
        """Start measuring the rate, once the weights are loaded."""
        self._began = time.monotonic()

    def add(self, rows: Mapping[Question, Mapping[str, Any]]) -> None:
        """Count the rows that this process has done, and show the whole job's progress."""
        new = Tally.of(rows, self._answers)
        job = Tally(**{name: self._job.count(name, number) for name, number in asdict(new).items()})
        if self._job.is_first:
            self.show(self.line(job))

    def line(self, job: Tally) -> str:
        """`120/339 (35 %), failed 2, right 61.2 % (73/119), 10.4/s, 21 s left`."""
        rate = job.done / max(time.monotonic() - self._began, 1e-3)
        left = in_time((self._total - job.done) / rate) if rate else "unknown time"
        share = 100 * job.done // max(self._total, 1)
        return f"{job.done}/{self._total} ({share} %), failed {job.failed}{job.accuracy}, {rate:.2f}/s, {left} left"


# The rest is for what we do not count: workspaces of matrix libraries, fragments of memory too small to reuse.
USABLE_PART = 0.9
DEVICE_ERRORS = (RuntimeError, MemoryError)  # torch raises RuntimeError for all device errors
# After an error that breaks the whole device every further question fails at once, and this replica would claim and
# fail all videos of the job. So many failures in a row are taken as a sign of that.
MOST_FAILURES_IN_A_ROW = 16

Prepared = tuple[VideoWork, "PreparedVideo"]


def batch_size_for(context: RunContext, weights_bytes: int) -> int:
    """Choose how many questions to answer together: --batch_size, or the device's default, or fewer if not so many fit
    beside the `weights_bytes` still to be loaded; at least one."""
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
    release_memory(context.device)  # memory that torch still caches from reading the weights counts as free
    usable = int((memory_bytes(context.device)[0] - weights_bytes) * USABLE_PART)
    usable -= row_bytes(context.checkpoint, settings.dtype, length, cards)
    return max(1, min(most, usable // needed))


def make_batches(
    prepared: Iterable[Prepared], batch_size: int, most_videos: Callable[[], int]
) -> Iterator[list[Prepared]]:
    """Group whole videos until they have `batch_size` questions (a single video may have more), at most `most_videos()`
    together."""
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
    """Yield the batches with their pixels on the device: a thread copies the next one's while the device computes."""
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
        return batch  # the engine copies the pixels itself, and handles the error if it comes again
    return [(work, video if video.pixels is None else replace(video, pixels=next(copied))) for work, video in batch]


def _prefix_length(work: VideoWork) -> int:
    return len(work.prompts[0].prefix_ids)


class Failure(str):
    """Why a question has no answer."""


class RetryingEngine:
    """Answers each question, or says why it failed.

    If a batch does not fit the device's memory, half as many questions at most are answered together from then on.
    After a device error a batch is retried question by question, so that only the failing questions are lost."""

    def __init__(self, engine: "Engine | GroupEngine", device: Device, batch_size: int) -> None:
        self._engine = engine
        self._device = device
        self._most = batch_size
        self._failures_in_a_row = 0
        self.batch_size = batch_size  # most questions answered together in the last call

    def answer(self, videos: Sequence[VideoQuestions]) -> list[list[Answer | Failure]]:
        """Do what Engine.answer does, with a Failure for each question that has no answer. Raises DeviceLost."""
        try:
            answers = self._answer_in_batches(videos)
        except DEVICE_ERRORS:
            traceback.print_exc(file=sys.stderr)  # in full here; the questions' reasons have only its last line
            print("warning: a batch failed and is tried again question by question", file=sys.stderr)
            self.batch_size = 1
            return [self._answer_one_by_one(video) for video in videos]
        self.batch_size = self._most
        if any(isinstance(answer, Answer) for each in answers for answer in each):
            self._failures_in_a_row = 0
        return answers

    def _answer_in_batches(self, videos: Sequence[VideoQuestions]) -> list[list[Answer | Failure]]:
        answers: list[list[Answer | Failure]] = []
        while left := videos[len(answers) :]:
            batch = left[: self._most]
            questions = min(self._most, sum(len(video.prompts) for video in batch))
            if (answered := self._try(batch)) is not None:
                answers += answered
            elif questions > 1:
                self._most = (questions + 1) // 2
                device, most = self._device.torch_device, f"{self._most} question{'s' * (self._most > 1)}"
                print(f"warning: {device} is out of memory; from here on at most {most} at once", file=sys.stderr)
            else:  # a longer question may not fit although a shorter one on the same video does
                answers.append(self._answer_one_by_one(batch[0]))
        return answers

    def _try(self, videos: Sequence[VideoQuestions]) -> list[list[Answer | Failure]] | None:
        """Answer the videos in one batch; None if the device has too little memory."""
        try:
            return [list(each) for each in self._engine.answer(videos, self._most)]
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # Not in the handler: there the exception's traceback still holds the tensors of the failed try.
        release_memory(self._device)
        return None

    def _answer_one_by_one(self, video: VideoQuestions) -> list[Answer | Failure]:
        return [
            self._answer_one(VideoQuestions(video.pixels, [prompt], [letters]))
            for prompt, letters in zip(video.prompts, video.letters, strict=True)
        ]

    def _answer_one(self, question: VideoQuestions) -> Answer | Failure:
        try:
            answered = self._try([question])
        except DEVICE_ERRORS as error:
            return self._count_failure(one_line(f"the device failed: {type(error).__name__}: {error}"))
        self._failures_in_a_row = 0
        return answered[0][0] if answered else Failure(too_large(self._device))

    def _count_failure(self, reason: str) -> Failure:
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= MOST_FAILURES_IN_A_ROW:
            raise DeviceLost(
                f"{self._failures_in_a_row} questions in a row failed, the last with {reason}; check the device and "
                "start again without --overwrite: what was answered is kept"
            )
        return Failure(reason)


# Devices that copy from pinned memory while they compute (Engine.to_device).
STAGED_KINDS = ("cuda",)
FORCE_EVERY_S = 10.0  # a power cut may lose answers of so many seconds; a slow disk takes up to a second to force
T = TypeVar("T")


def answer_left(context: RunContext, journals: Journals, progress: Progress) -> "Usage | None":
    """Answer this replica's part of `journals.left`; its rows are on the disk when this returns.

    Returns None on a process that only follows its replica's leader. Raises InputError, DeviceLost, GroupFailed,
    OtherProcessFailed."""
    from videobench.video.pool import DecodePool

    settings, job = context.settings, context.job
    check_free_memory(context.device, context.weights_bytes, settings.dtype)
    works = {work.video: work for work in context.plan.works(journals.left)}
    num_workers = min(settings.num_workers, len(works)) if job.is_leader else 0
    with DecodePool(context.checkpoint.pixel_spec, settings.num_frames, num_workers) as pool:
        in_order = list(works.values())
        most_held = limit_held(job, [work.num_tokens for work in in_order])
        claimed: Iterator[Path] = (in_order[number].video for number in job.claim(len(in_order)))
        if num_workers == 0:
            claimed = _noted(claimed, journals.in_flight)
        # Decodes while the weights load.
        videos = pool.prepare(claimed, most_held) if job.is_leader else iter(())
        journals.weights_sha256 = start_hashing_weights(job, context.checkpoint, journals.earlier_weights)
        engine = load_replica_engine(context, journals.in_flight)
        if not job.is_leader:
            engine.follow()
            return None
        batch_size = batch_size_for(context, weights_bytes=0)
        pool.look_ahead(-(-batch_size * len(works) // len(journals.left)))
        prepared = ((works[video.video], video) for video in _timed(videos, engine.usage))
        # On a CPU one video at a time: batches of several are slower there (benchmarks/inference.py).
        most_videos = (lambda: 1) if context.device.kind == "cpu" else most_held
        batches = make_batches(prepared, batch_size, most_videos)
        if context.device.kind in STAGED_KINDS and not isinstance(engine, GroupEngine):
            batches = stage_ahead(batches, engine.to_device)
        _answer_batches(batches, RetryingEngine(engine, context.device, batch_size), journals, progress, engine.usage)
        journals.in_flight.drop()
        journals.weights_sha256()  # a mismatch is an error even if this process had nothing to answer
        if isinstance(engine, GroupEngine):
            engine.finish()
    engine.usage.stop()
    return cast("Usage", engine.usage)


def load_replica_engine(context: RunContext, in_flight: InFlight) -> Any:
    """Load an Engine, or for several cards a GroupEngine with the same interface."""
    from transformers.utils import logging

    from videobench.model.engine import load_engine

    settings, device = context.settings, context.device
    if not (context.job.is_first and sys.stderr.isatty()):
        logging.disable_progress_bar()
    group = Group(context.job, device) if settings.tensor_parallel > 1 else None
    engine = load_engine(
        context.checkpoint,
        device,
        settings.dtype,
        settings.max_new_tokens,
        LENGTH_MULTIPLES[device.kind],
        group.as_world() if group else None,
    )
    if group is None:
        return engine
    context.job.meet_group("weights")  # raises if another process of the group failed to load them
    check_group(engine, group, context.checkpoint)
    return GroupEngine(engine, group, in_flight)


def _noted(videos: Iterable[Path], in_flight: InFlight) -> Iterator[Path]:
    """Note each video before it is decoded: without decoding processes it may kill this one."""
    for video in videos:
        in_flight.take([video])
        yield video


def _timed(videos: Iterator[T], usage: "Usage") -> Iterator[T]:
    """Measure how long the device waits for each video."""
    while True:
        with usage.measure("frames"):
            video = next(videos, None)
        if video is None:
            return
        yield video


def _answer_batches(
    batches: Iterable[list[Prepared]], engine: RetryingEngine, journals: Journals, progress: Progress, usage: "Usage"
) -> None:
    wanted = set(journals.left)
    usage.start()
    progress.start()
    forced = time.monotonic()
    for batch in batches:
        journals.in_flight.take(work.video for work, _ in batch)
        rows = _answer_batch(batch, engine, journals, usage)
        new = {question: row for question, row in rows.items() if question in wanted}
        usage.again += sum("error" not in row for question, row in rows.items() if question not in wanted)
        with usage.measure("write"):
            journals.append(new, {work.video: video.stamp for work, video in batch if video.stamp})
            if time.monotonic() - forced > FORCE_EVERY_S:
                journals.force()
                forced = time.monotonic()
        progress.add(new)
    with usage.measure("write"):
        journals.force()


def _answer_batch(
    batch: list[Prepared], engine: RetryingEngine, journals: Journals, usage: "Usage"
) -> dict[Question, Row]:
    rows: dict[Question, Row] = {}
    decoded: list[Prepared] = []
    asked = []
    for work, video in batch:
        if video.pixels is None:
            rows |= {each: journals.failed_row(each, str(video.error)) for each in work.questions}
            continue
        decoded.append((work, video))
        asked.append(VideoQuestions(video.pixels, work.prompts, [tuple(each.options) for each in work.questions]))
    usage.count(work.prompts for work, _ in decoded)
    for (work, video), answers in zip(decoded, engine.answer(asked), strict=True):
        for question, prompt, answer in zip(work.questions, work.prompts, answers, strict=True):
            if isinstance(answer, Answer):
                rows[question] = _answered_row(question, prompt, video, answer, journals, engine.batch_size)
            else:
                rows[question] = journals.failed_row(question, answer)
    return rows


def _answered_row(
    question: Question, prompt: Prompt, video: "PreparedVideo", answer: Answer, journals: Journals, batch_size: int
) -> Row:
    letters: Row = {"letter_logprobs": dict(answer.letter_logprobs), "option_mass": answer.option_mass}
    return {
        **question_fields(question),
        "output_sequence": [answer.text],
        **(letters if answer.is_finite else NONFINITE),
        "num_output_tokens": len(answer.token_ids),
        "prompt_tokens": len(prompt),
        "prompt_sha256": prompt.sha256,
        **video.row_fields,
        "rank": journals.replica,
        "run": journals.runs[question.source] | {"batch_size": batch_size, "weights_sha256": journals.weights_sha256()},
    }
