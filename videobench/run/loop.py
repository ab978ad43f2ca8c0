"""The loop of one process: frames are decoded ahead of the device, which answers in batches; a thread waits for the
disk."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from videobench.data.dataset import Question
from videobench.device.devices import SUFFIX_MULTIPLES, Device
from videobench.device.memory import too_large
from videobench.jobs.crashes import Attempts
from videobench.jobs.job import Ranks
from videobench.jobs.work import Share
from videobench.results.rows import Row, answered_row, failed_row
from videobench.run.batches import Prepared, batch_size_for, make_batches
from videobench.run.fitting import FittingEngine
from videobench.run.options import RunSettings
from videobench.run.plan import Plan
from videobench.run.progress import Progress
from videobench.run.row_by_row import PatientEngine
from videobench.run.tensor_parallel import Group, GroupEngine, check_group

if TYPE_CHECKING:
    from videobench.model.checkpoint import Checkpoint
    from videobench.model.timing import Usage

Rows = dict[Question, Row]
T = TypeVar("T")


@dataclass(frozen=True)
class Answering:
    """What one process needs to answer questions."""

    settings: RunSettings
    device: Device
    ranks: Ranks
    checkpoint: "Checkpoint"
    plan: Plan
    facts: Mapping[str, Row]  # by the name of the data set: what is stored with each reply
    attempts: Attempts

    def run(
        self,
        questions: list[Question],
        progress: Progress,
        append: Callable[[Rows], None],
        force: Callable[[], None],
    ) -> "Usage | None":
        """Answers `questions` (this rank's part of them) and passes each batch's rows to `append`, after which they
        outlive this process; what `force` has to wait for, a thread does. They are on the disk when this returns. None
        on a process that only follows the first of its group.

        Raises InputError where the weights or the disk fail, DeviceLost where the device answers nothing any more,
        GroupFailed where one of its group could not answer, OtherRankFailed where another process has ended the job."""
        from videobench.video.pool import DecodePool

        settings, ranks = self.settings, self.ranks
        works = {work.video: work for work in self.plan.works(questions)}
        num_workers = min(settings.num_workers, len(works)) if ranks.is_leader else 0
        with DecodePool(self.checkpoint.pixel_spec, settings.num_frames, num_workers) as pool:
            in_order = list(works.values())
            share = Share(ranks, [work.num_tokens for work in in_order])
            drawn = self._take_undecoded(in_order[number].video for number in share.draw())
            # Decodes while the weights load.
            videos = pool.prepare(drawn, share.most_held) if ranks.is_leader else iter(())
            engine = self._load_engine()
            if not ranks.is_leader:
                engine.follow()
                return None
            batch_size = batch_size_for(settings, self.device, self.checkpoint, self.plan, weights_bytes=0)
            pool.look_ahead(-(-batch_size * len(works) // len(questions)))
            prepared = ((works[video.video], video) for video in _timed(videos, engine.usage))
            # One at a time on a CPU: it is busy with one, and takes longer with more (benchmarks/inference.py).
            batches = make_batches(prepared, batch_size, (lambda: 1) if self.device.kind == "cpu" else share.most_held)
            patient = PatientEngine(FittingEngine(engine, self.device, batch_size))
            apart = (part for batch in batches for part in self.attempts.apart(batch, lambda each: each[0].video))
            self._answer(apart, patient, set(questions), append, force, progress, engine.usage)
            self.attempts.drop()
            if isinstance(engine, GroupEngine):
                engine.finish()
        engine.usage.stop()
        return cast("Usage", engine.usage)

    def _load_engine(self) -> Any:
        """An Engine, or a GroupEngine, which answers as it does."""
        from videobench.model.engine import load_engine

        settings = self.settings
        group = Group(self.ranks, self.device) if settings.tensor_parallel > 1 else None
        engine = load_engine(
            self.checkpoint,
            self.device,
            settings.dtype,
            settings.max_new_tokens,
            SUFFIX_MULTIPLES[self.device.kind],
            group.as_world() if group else None,
        )
        if group is None:
            return engine
        self.ranks.meet_group("weights")  # one may have failed to load them
        check_group(engine, group, self.checkpoint)
        return GroupEngine(engine, group, self.attempts)

    def _take_undecoded(self, videos: Iterable[Path]) -> Iterator[Path]:
        """Without decoding processes a video can kill this one while it is decoded."""
        for video in videos:
            if self.settings.num_workers == 0:
                self.attempts.take([video])
            yield video

    def _answer(
        self,
        batches: Iterable[list[Prepared]],
        engine: PatientEngine,
        wanted: set[Question],
        append: Callable[[Rows], None],
        force: Callable[[], None],
        progress: Progress,
        usage: "Usage",
    ) -> None:
        """A thread forces the rows to the disk; while it does, the device answers, and the rows of as many batches as
        it takes are forced together by the next turn."""
        usage.start()
        with ThreadPoolExecutor(1, thread_name_prefix="force") as disk:
            forced: Future[None] | None = None
            for batch in batches:
                self.attempts.take(work.video for work, _ in batch)
                rows = self._answer_batch(engine, batch, usage)
                new = {question: row for question, row in rows.items() if question in wanted}
                with usage.measure("write"):
                    append(new)
                    if forced is None or forced.done():
                        if forced:
                            forced.result()  # raises what went wrong with the disk
                        forced = disk.submit(force)
                progress.add(new)
            with usage.measure("write"):
                if forced:
                    forced.result()
                force()

    def _answer_batch(self, engine: PatientEngine, batch: list[Prepared], usage: "Usage") -> Rows:
        from videobench.model.questions import VideoQuestions

        rows: Rows = {}
        decoded: list[Prepared] = []
        asked = []
        for work, video in batch:
            if video.pixels is None:
                rows |= {each: self._failed_row(each, str(video.error)) for each in work.questions}
                continue
            decoded.append((work, video))
            asked.append(VideoQuestions(video.pixels, work.prompts, [tuple(each.options) for each in work.questions]))
        usage.count(work.prompts for work, _ in decoded)
        for (work, video), answers in zip(decoded, engine.answer(asked), strict=True):
            for question, prompt, answer in zip(work.questions, work.prompts, answers, strict=True):
                if answer is None or isinstance(answer, str):
                    rows[question] = self._failed_row(question, answer or too_large(self.device))
                    continue
                facts = self.facts[question.source] | {"batch_size": engine.batch_size}
                rows[question] = answered_row(
                    question,
                    text=answer.text,
                    is_finite=answer.is_finite,
                    letter_logprobs=answer.letter_logprobs,
                    option_mass=answer.option_mass,
                    num_output_tokens=len(answer.token_ids),
                    prompt_tokens=len(prompt),
                    prompt_sha256=prompt.sha256,
                    pixels_sha256=video.pixels_sha256,
                    frames_decoded=video.frames_decoded,
                    frames_stated=video.frames_stated,
                    resolution=video.resolution,
                    rank=self.ranks.rank,
                    run=facts,
                )
        return rows

    def _failed_row(self, question: Question, reason: str) -> Row:
        return failed_row(question, reason, self.facts[question.source])


def _timed(videos: Iterator[T], usage: "Usage") -> Iterator[T]:
    """How long the device waits for each is noted."""
    while True:
        with usage.measure("frames"):
            video = next(videos, None)
        if video is None:
            return
        yield video
