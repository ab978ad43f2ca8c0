"""Settings -> result files: the one loop of run_npu.py and run_gpu.py."""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from videobench.attempts import SET_ASIDE, Attempts
from videobench.dataset import Question
from videobench.device_memory import check_free_memory, peak_memory_bytes, too_large
from videobench.devices import (
    DEFAULT_BATCH_SIZES,
    DEFAULT_DTYPES,
    SUFFIX_MULTIPLES,
    Device,
    cuda_is_available,
    open_device,
)
from videobench.errors import one_line, traceback_to
from videobench.estimate import in_bytes
from videobench.fitting import FittingEngine
from videobench.journal import Journals
from videobench.options import RunSettings
from videobench.planning import Plan, VideoWork, build_plan, load_all_questions, print_plan
from videobench.prompts import PromptBuilder, build_question_text
from videobench.ranks import Ranks
from videobench.replies import NONFINITE_MEND, Row, answered_row, failed_row, run_facts, run_identity
from videobench.row_by_row import PatientEngine
from videobench.sharing import Share, costliest_first
from videobench.stopping import at_stop
from videobench.tensor_parallel import Group, GroupEngine, check_group, check_tensor_parallel, weights_per_card

if TYPE_CHECKING:
    from videobench.checkpoint import Checkpoint
    from videobench.decoding.pool import PreparedVideo

MAX_NAMED_FAILURES = 20  # on stderr; all of them stand in the result file

Prepared = tuple[VideoWork, "PreparedVideo"]


def run(settings: RunSettings) -> int:
    """The exit status: 0 all answered, 1 some failed; InputError where the input is wrong."""
    started = time.monotonic()
    ranks = Ranks.from_environment(settings.tensor_parallel)
    questions = load_all_questions(settings)
    device = _open_device(settings, ranks)
    settings = _with_defaults(settings, device)
    from videobench.checkpoint import load_checkpoint  # imports transformers, which must not come before open_device

    checkpoint = load_checkpoint(settings.model_path)
    check_tensor_parallel(checkpoint, settings.tensor_parallel)
    builder = checkpoint.prompt_builder(settings.num_frames)
    if settings.print_prompt:
        return _print_prompt(builder, questions[0])
    plan = build_plan(questions, builder, checkpoint.positions, settings)
    if settings.dry_run:
        _check_memory(settings, device, checkpoint)
        print_plan(plan, settings, checkpoint)
        return _report_failures(plan.failures)
    run = Run(settings, ranks, device, checkpoint, plan)
    try:
        with traceback_to(settings.output_folder / "journal" / f"process{ranks.process}.err"):
            run.answer_all()
        ranks.wait_for_all(run.show_progress)
        return ranks.share_status(run.write_results(started) if ranks.is_first else None)
    finally:
        run.close()


class Run:
    """One rank's part of a run, with the journals it writes."""

    def __init__(
        self, settings: RunSettings, ranks: Ranks, device: Device, checkpoint: "Checkpoint", plan: Plan
    ) -> None:
        """Opens the journals, before the weights: a wrong folder or setting fails at once."""
        self._settings = settings
        self._ranks = ranks
        self._device = device
        self._checkpoint = checkpoint
        self._plan = plan
        self._journals: dict[str, Journals] = {}  # by the name of the data set
        self._facts: dict[str, Row] = {}
        self._bar: tqdm[None] | None = None
        for source in settings.sources:
            identity = run_identity(settings, checkpoint, source.qa_path)
            self._journals[source.name] = Journals(settings.output_folder, source.name, identity, ranks.rank)
            self._facts[source.name] = run_facts(settings, device, identity, source.qa_path)
        self._attempts = Attempts(settings.output_folder, settings.sources[0].name, ranks.process)
        shared: Row = {}
        if ranks.is_first:
            for journals in self._journals.values():
                journals.lock()
            begun = self._attempts.begin()
            # With all of them locked: a refused start moves nothing. Not what this very job has answered.
            if settings.overwrite and not begun["is_restart"]:
                for journals in self._journals.values():
                    journals.set_aside()
            shared = {"left": self._unanswered(), "attempts": begun}
        # One list for all ranks: by the time that the others read the journals, rank 0 might be adding to its own.
        shared = ranks.share(shared)
        questions = list(plan.prompts)
        self._left = [questions[index] for index in shared["left"]]
        self._attempts.open(shared["attempts"])
        at_stop(self._attempts.end)
        if ranks.is_leader:
            for journals in self._journals.values():
                journals.open()

    def answer_all(self) -> None:
        """Every reply of this rank is on the disk when it returns."""
        if self._ranks.is_first:
            known = {each: self._plan.failures[each] for each in self._left if each in self._plan.failures}
            known |= {
                each: f"{each.video}: {SET_ASIDE}" for each in self._left if self._attempts.is_set_aside(each.video)
            }
            self._append({each: self._failed_row(each, reason) for each, reason in known.items()})
        works = self._plan.works([each for each in self._left if not self._attempts.is_set_aside(each.video)])
        if not works:
            return
        _check_memory(self._settings, self._device, self._checkpoint)
        from videobench.decoding.pool import DecodePool

        spec, settings = self._checkpoint.pixel_spec, self._settings
        num_workers = settings.num_workers if self._ranks.is_leader else 0
        with DecodePool(spec, settings.num_frames, num_workers) as pool:  # decodes while the weights load
            engine = self._load_engine()
            if not self._ranks.is_leader:
                engine.follow()
                return
            by_video = {work.video: work for work in works}
            share = Share(self._ranks, [work.num_tokens for work in works])
            videos = self._take_undecoded(works[number].video for number in share.draw())
            decoded = pool.prepare(videos, share.most_held)
            prepared = ((by_video[each.video], each) for each in decoded)
            self._bar = self._progress_bar(works)
            patient = PatientEngine(FittingEngine(engine, self._device, int(settings.batch_size or 1)))
            wanted = set(self._left)
            for batch in self._batches(prepared, share):
                for part in self._attempts.apart(batch, lambda each: each[0].video):
                    self._attempts.take(work.video for work, _ in part)
                    rows = self._answer_batch(patient, part)
                    new = {each: row for each, row in rows.items() if each in wanted}
                    self._append(new)
                    self.show_progress(len(new))
            self._attempts.drop()
            if isinstance(engine, GroupEngine):
                engine.finish()
        if peak := peak_memory_bytes(self._device):
            print(f"{self._device.torch_device}: {in_bytes(peak)} of memory at the most", file=sys.stderr)

    def _load_engine(self) -> Any:
        """An Engine, or a GroupEngine, which answers as it does."""
        from videobench.engine import load_engine

        settings = self._settings
        group = Group(self._ranks, self._device) if settings.tensor_parallel > 1 else None
        engine = load_engine(
            self._checkpoint,
            self._device,
            str(settings.dtype),
            settings.max_new_tokens,
            SUFFIX_MULTIPLES[self._device.kind],
            group,
        )
        if group is None:
            return engine
        check_group(engine, group, self._checkpoint)
        return GroupEngine(engine, group, self._attempts)

    def write_results(self, started: float) -> int:
        """Join all ranks' journals into one result file per data set; the exit status."""
        failures: dict[Question, str] = {}
        nonfinite: list[Question] = []
        for source in self._settings.sources:
            asked = {each.key: each for each in self._plan.prompts if each.source == source.name}
            rows = self._journals[source.name].write_results(asked)
            failed = {asked[key]: row["error"] for key, row in rows.items() if "error" in row}
            # A journal was lost on the way: what it held is asked again by the next start.
            lost = {each: "its reply is in no journal; start again" for key, each in asked.items() if key not in rows}
            failed |= lost
            failures |= failed
            nonfinite += [asked[key] for key, row in rows.items() if "nonfinite" in row]
            print(
                f"{self._journals[source.name].result_path}: {len(asked) - len(failed)} answered, {len(failed)} failed"
            )
        self._attempts.remove_all()
        status = _report_failures(failures)
        if nonfinite:
            first = f"{nonfinite[0].dataset}/{nonfinite[0].id}"
            print(f"nonfinite: {len(nonfinite)} replies, first {first}: {NONFINITE_MEND}", file=sys.stderr)
        answered = len(self._plan.prompts) - len(failures)
        of_them = f" ({len(nonfinite)} with NaN or infinite logits)" if nonfinite else ""
        print(f"answered {answered}, failed {len(failures)}{of_them}, in {time.monotonic() - started:.1f} s")
        return status

    def show_progress(self, new: int = 0) -> None:
        """`new` more questions are done on this rank; the bar tells those of all ranks."""
        done = self._ranks.count(new)
        if self._bar is not None:
            self._bar.update(done - self._bar.n)

    def close(self) -> None:
        self._attempts.close()
        if self._bar is not None:
            self._bar.close()
        for journals in self._journals.values():
            journals.close()

    def _unanswered(self) -> list[int]:
        """Indices of the questions that have no reply yet, or failed: they are tried again. In the order of drawing."""
        done = {name: journals.read() for name, journals in self._journals.items()}
        index = {question: number for number, question in enumerate(self._plan.prompts)}
        left = [each for each in index if "error" in done[each.source].get(each.key, {"error": "not asked yet"})]
        return [index[each] for each in costliest_first(self._plan, left)]

    def _take_undecoded(self, videos: Iterable[Path]) -> Iterator[Path]:
        """Without decoding processes a video can kill this one while it is decoded."""
        for video in videos:
            if self._settings.num_workers == 0:
                self._attempts.take([video])
            yield video

    def _batches(self, prepared: Iterable[Prepared], share: Share) -> Iterator[list[Prepared]]:
        """Whole videos, as many as fit the batch size with their questions; on a CPU one: more do not help there."""
        batch_size = int(self._settings.batch_size or 1)
        batch: list[Prepared] = []
        num_questions = 0
        for work, video in prepared:
            num_questions += len(work.questions)
            is_full = num_questions > batch_size or len(batch) >= share.most_held()
            if batch and (is_full or self._device.kind == "cpu"):
                yield batch
                batch, num_questions = [], len(work.questions)
            batch.append((work, video))
        if batch:
            yield batch

    def _answer_batch(self, engine: PatientEngine, batch: list[Prepared]) -> dict[Question, Row]:
        from videobench.engine import VideoQuestions

        rows: dict[Question, Row] = {}
        decoded = [(work, video) for work, video in batch if video.pixels is not None]
        for work, video in batch:
            if video.pixels is None:
                rows |= {each: self._failed_row(each, str(video.error)) for each in work.questions}
        asked = [
            VideoQuestions(video.pixels, work.prompts, [tuple(each.options) for each in work.questions])
            for work, video in decoded
            if video.pixels is not None
        ]
        answers = engine.answer(asked)
        for (work, video), replies in zip(decoded, answers, strict=True):
            for question, prompt, answer in zip(work.questions, work.prompts, replies, strict=True):
                if answer is None or isinstance(answer, str):
                    rows[question] = self._failed_row(question, answer or too_large(self._device))
                    continue
                facts = self._facts[question.source] | {"batch_size": engine.batch_size}
                rows[question] = answered_row(question, prompt, video, answer, self._ranks.rank, facts)
        return rows

    def _failed_row(self, question: Question, reason: str) -> Row:
        return failed_row(question, reason, self._facts[question.source])

    def _append(self, rows: Mapping[Question, Row]) -> None:
        for name, journals in self._journals.items():
            own = {question.key: row for question, row in rows.items() if question.source == name}
            if own:
                journals.append(own)

    def _progress_bar(self, works: list[VideoWork]) -> "tqdm[None]":
        """Of rank 0, against the questions of the whole job; tqdm shows none where stderr is no terminal."""
        total = sum(len(work.questions) for work in works)
        hidden = None if self._ranks.is_first else True
        return tqdm(total=total, desc="answer", unit="question", file=sys.stderr, disable=hidden)


def _open_device(settings: RunSettings, ranks: Ranks) -> Device:
    if settings.may_use_cpu and not cuda_is_available():
        print("WARNING: no CUDA device is visible: running on the CPU, which is slow", file=sys.stderr)
        return open_device("cpu", deterministic=settings.deterministic)
    return open_device(settings.device, ranks.local_rank, settings.deterministic)


def _with_defaults(settings: RunSettings, device: Device) -> RunSettings:
    return replace(
        settings,
        device=device.kind,
        dtype=settings.dtype or DEFAULT_DTYPES[device.kind],
        batch_size=settings.batch_size or DEFAULT_BATCH_SIZES[device.kind],
    )


def _check_memory(settings: RunSettings, device: Device, checkpoint: "Checkpoint") -> None:
    check_free_memory(device, weights_per_card(checkpoint.weight_files, settings.tensor_parallel), str(settings.dtype))


def _print_prompt(builder: PromptBuilder, question: Question) -> int:
    text = build_question_text(question.text, question.options)
    print(builder.render(text))
    print(f"{len(builder.build([text])[0])} tokens: {question.source}, question {question.key}")
    return 0


def _report_failures(failures: Mapping[Question, str]) -> int:
    """Names the failed questions on stderr; the exit status."""
    for question, reason in list(failures.items())[:MAX_NAMED_FAILURES]:
        print(one_line(f"failed: {question.dataset}/{question.id}: {reason}"), file=sys.stderr)
    if len(failures) > MAX_NAMED_FAILURES:
        print(f"failed: and {len(failures) - MAX_NAMED_FAILURES} more", file=sys.stderr)
    return 1 if failures else 0
