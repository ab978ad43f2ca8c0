"""The loop of one process: frames are decoded ahead of the device, which answers in batches; a thread waits for the
disk."""

import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from videobench.data.dataset import Question
from videobench.data.rows import NONFINITE, Row, question_fields
from videobench.device.devices import LENGTH_MULTIPLES
from videobench.device.memory import check_free_memory
from videobench.jobs.crashes import Attempts
from videobench.jobs.work import WorkQueue
from videobench.model.prompts import Prompt
from videobench.model.questions import Answer, VideoQuestions
from videobench.run.batches import Prepared, RetryingEngine, batch_size_for, make_batches, stage_ahead
from videobench.run.context import RunContext
from videobench.run.progress import Progress
from videobench.run.provenance import start_hashing_weights
from videobench.run.store import Store
from videobench.run.tensor_parallel import Group, GroupEngine, check_group

if TYPE_CHECKING:
    from videobench.model.timing import Usage
    from videobench.video.prepared import PreparedVideo

# Devices that copy from pinned memory while they compute (Engine.to_device).
STAGED_KINDS = ("cuda",)
T = TypeVar("T")


def answer_left(context: RunContext, store: Store, progress: Progress) -> "Usage | None":
    """Answers this replica's part of `store.left`; its rows are on the disk when this returns. None on a process that
    only follows its replica's leader.

    Raises InputError where the weights or the disk fail, DeviceLost where the device no longer responds, GroupFailed
    where one process of the replica could not answer, OtherProcessFailed where another one has ended the job."""
    from videobench.video.pool import DecodePool

    settings, job = context.settings, context.job
    check_free_memory(context.device, context.weights_bytes, settings.dtype)
    works = {work.video: work for work in context.plan.works(store.left)}
    num_workers = min(settings.num_workers, len(works)) if job.is_leader else 0
    with DecodePool(context.checkpoint.pixel_spec, settings.num_frames, num_workers) as pool:
        in_order = list(works.values())
        queue = WorkQueue(job, [work.num_tokens for work in in_order])
        claimed: Iterator[Path] = (in_order[number].video for number in queue.claim())
        if num_workers == 0:
            claimed = _noted(claimed, store.attempts)
        # Decodes while the weights load.
        videos = pool.prepare(claimed, queue.most_held) if job.is_leader else iter(())
        store.weights_sha256 = start_hashing_weights(job, context.checkpoint, store.earlier_weights)
        engine = load_replica_engine(context, store.attempts)
        if not job.is_leader:
            engine.follow()
            return None
        batch_size = batch_size_for(context, weights_bytes=0)
        pool.look_ahead(-(-batch_size * len(works) // len(store.left)))
        prepared = ((works[video.video], video) for video in _timed(videos, engine.usage))
        # One at a time on a CPU: it is busy with one, and takes longer with more (benchmarks/inference.py).
        most_videos = (lambda: 1) if context.device.kind == "cpu" else queue.most_held
        batches = make_batches(prepared, batch_size, most_videos)
        if context.device.kind in STAGED_KINDS and not isinstance(engine, GroupEngine):
            batches = stage_ahead(batches, engine.to_device)
        _answer_batches(batches, RetryingEngine(engine, context.device, batch_size), store, progress, engine.usage)
        store.attempts.drop()
        store.weights_sha256()  # raises, too, where this process had nothing to answer
        if isinstance(engine, GroupEngine):
            engine.finish()
    engine.usage.stop()
    return cast("Usage", engine.usage)


def load_replica_engine(context: RunContext, attempts: Attempts) -> Any:
    """An Engine, or a GroupEngine, which answers as it does."""
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
    context.job.meet_group("weights")  # one may have failed to load them
    check_group(engine, group, context.checkpoint)
    return GroupEngine(engine, group, attempts)


def _noted(videos: Iterable[Path], attempts: Attempts) -> Iterator[Path]:
    """Without decoding processes a video can kill this one while it is decoded."""
    for video in videos:
        attempts.take([video])
        yield video


def _timed(videos: Iterator[T], usage: "Usage") -> Iterator[T]:
    """Measures how long the device waits for each."""
    while True:
        with usage.measure("frames"):
            video = next(videos, None)
        if video is None:
            return
        yield video


def _answer_batches(
    batches: Iterable[list[Prepared]], engine: RetryingEngine, store: Store, progress: Progress, usage: "Usage"
) -> None:
    """A thread forces the rows to the disk while the device answers; the rows of the batches that are answered
    meanwhile are forced together in its next turn."""
    wanted = set(store.left)
    usage.start()
    progress.start()
    with ThreadPoolExecutor(1, thread_name_prefix="force") as disk:
        forced: Future[None] | None = None
        for batch in batches:
            store.attempts.take(work.video for work, _ in batch)
            rows = _answer_batch(batch, engine, store, usage)
            new = {question: row for question, row in rows.items() if question in wanted}
            usage.again += sum("error" not in row for question, row in rows.items() if question not in wanted)
            with usage.measure("write"):
                store.append(new, {work.video: video.stamp for work, video in batch if video.stamp})
                if forced is None or forced.done():
                    if forced:
                        forced.result()  # raises what went wrong with the disk
                    forced = disk.submit(store.force)
            progress.add(new)
        with usage.measure("write"):
            if forced:
                forced.result()
            store.force()


def _answer_batch(batch: list[Prepared], engine: RetryingEngine, store: Store, usage: "Usage") -> dict[Question, Row]:
    rows: dict[Question, Row] = {}
    decoded: list[Prepared] = []
    asked = []
    for work, video in batch:
        if video.pixels is None:
            rows |= {each: store.failed_row(each, str(video.error)) for each in work.questions}
            continue
        decoded.append((work, video))
        asked.append(VideoQuestions(video.pixels, work.prompts, [tuple(each.options) for each in work.questions]))
    usage.count(work.prompts for work, _ in decoded)
    for (work, video), answers in zip(decoded, engine.answer(asked), strict=True):
        for question, prompt, answer in zip(work.questions, work.prompts, answers, strict=True):
            if isinstance(answer, Answer):
                rows[question] = _answered_row(question, prompt, video, answer, store, engine.batch_size)
            else:
                rows[question] = store.failed_row(question, answer)
    return rows


def _answered_row(
    question: Question, prompt: Prompt, video: "PreparedVideo", answer: Answer, store: Store, batch_size: int
) -> Row:
    letters: Row = {"letter_logprobs": dict(answer.letter_logprobs), "option_mass": answer.option_mass}
    return {
        **question_fields(question),
        "output_sequence": [answer.text],
        **(letters if answer.is_finite else NONFINITE),
        "num_output_tokens": len(answer.token_ids),
        "prompt_tokens": len(prompt),
        "prompt_sha256": prompt.sha256,
        "video_sha256": video.video_sha256,
        "pixels_sha256": video.pixels_sha256,
        "frames_decoded": video.frames_decoded,
        "frames_stated": video.frames_stated,
        "resolution": video.resolution,
        "rank": store.replica,
        "run": store.runs[question.source] | {"batch_size": batch_size, "weights_sha256": store.weights_sha256()},
    }
