"""Settings -> result files: the one loop of run_npu.py and run_gpu.py."""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from tqdm import tqdm

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
from videobench.errors import one_line
from videobench.estimate import in_bytes
from videobench.fitting import FittingEngine
from videobench.journal import Journals
from videobench.options import RunSettings
from videobench.planning import Plan, VideoWork, build_plan, load_all_questions, print_plan
from videobench.prompts import PromptBuilder, build_question_text
from videobench.ranks import Ranks
from videobench.replies import (
    NONFINITE_MEND,
    Row,
    answered_row,
    failed_row,
    question_rows,
    run_facts,
    run_identity,
    source_facts,
)
from videobench.row_by_row import PatientEngine

if TYPE_CHECKING:
    from videobench.checkpoint import Checkpoint
    from videobench.decoding.pool import PreparedVideo

MAX_NAMED_FAILURES = 20  # on stderr; all of them stand in the result file

Prepared = tuple[VideoWork, "PreparedVideo"]


def run(settings: RunSettings) -> int:
    """The exit status: 0 all answered, 1 some failed; InputError where the input is wrong."""
    started = time.monotonic()
    ranks = Ranks.from_environment()
    questions = load_all_questions(settings)
    device = _open_device(settings, ranks)
    settings = _with_defaults(settings, device)
    from videobench.checkpoint import load_checkpoint  # imports transformers, which must not come before open_device

    checkpoint = load_checkpoint(settings.model_path)
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
        run.answer_all()
        ranks.wait_for_all()
        return run.write_results(started) if ranks.is_first else 0
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
        identity = run_identity(settings, checkpoint)
        for name, path in ((source.name, source.qa_path) for source in settings.sources):
            of_source = source_facts(path)
            asked = question_rows(each for each in plan.prompts if each.source == name)
            self._journals[name] = Journals(settings.output_folder, name, identity, ranks.rank, asked, of_source)
            self._facts[name] = run_facts(settings, device, identity | of_source)
        left = None
        if ranks.is_first:
            for journals in self._journals.values():
                journals.lock()
            if settings.overwrite:  # with all of them locked: a refused start moves nothing
                for journals in self._journals.values():
                    journals.set_aside()
            left = self._unanswered()
        # One list for all ranks: by the time that the others read the journals, rank 0 might be adding to its own.
        indices = ranks.share(left)
        self._left = [list(plan.prompts)[index] for index in indices]
        for journals in self._journals.values():
            journals.open()

    def answer_all(self) -> None:
        """Every reply of this rank is on the disk when it returns."""
        if self._ranks.is_first:
            known = [question for question in self._left if question in self._plan.failures]
            self._append({each: self._failed_row(each, self._plan.failures[each]) for each in known})
        works = self._plan.works(self._left)
        if not works:
            return
        _check_memory(self._settings, self._device, self._checkpoint)
        from videobench.decoding.pool import DecodePool
        from videobench.engine import load_engine

        spec, settings = self._checkpoint.pixel_spec, self._settings
        with DecodePool(spec, settings.num_frames, settings.num_workers) as pool:  # decodes while the weights load
            engine = load_engine(
                self._checkpoint,
                self._device,
                str(settings.dtype),
                settings.max_new_tokens,
                SUFFIX_MULTIPLES[self._device.kind],
            )
            by_video = {work.video: work for work in works}
            videos = (works[number].video for number in self._ranks.draw(len(works)))
            prepared = ((by_video[each.video], each) for each in pool.prepare(videos))
            with self._progress_bar(works) as bar:
                patient = PatientEngine(FittingEngine(engine, self._device, int(settings.batch_size or 1)))
                wanted = set(self._left)
                for batch in self._batches(prepared):
                    rows = self._answer_batch(patient, batch)
                    new = {each: row for each, row in rows.items() if each in wanted}
                    self._append(new)
                    bar.update(len(new))
        if peak := peak_memory_bytes(self._device):
            print(f"{self._device.torch_device}: {in_bytes(peak)} of memory at the most", file=sys.stderr)

    def write_results(self, started: float) -> int:
        """Join all ranks' journals into one result file per data set; the exit status."""
        failures: dict[Question, str] = {}
        nonfinite: list[Question] = []
        for source in self._settings.sources:
            asked = {each.key: each for each in self._plan.prompts if each.source == source.name}
            rows = self._journals[source.name].write_results()
            failed = {asked[key]: row["error"] for key, row in rows.items() if "error" in row}
            # A journal was lost on the way: what it held is asked again by the next start.
            lost = {each: "its reply is in no journal; start again" for key, each in asked.items() if key not in rows}
            failed |= lost
            failures |= failed
            nonfinite += [asked[key] for key, row in rows.items() if "nonfinite" in row]
            print(
                f"{self._journals[source.name].result_path}: {len(asked) - len(failed)} answered, {len(failed)} failed"
            )
        status = _report_failures(failures)
        if nonfinite:
            first = f"{nonfinite[0].dataset}/{nonfinite[0].id}"
            print(f"nonfinite: {len(nonfinite)} replies, first {first}: {NONFINITE_MEND}", file=sys.stderr)
        answered = len(self._plan.prompts) - len(failures)
        of_them = f" ({len(nonfinite)} with NaN or infinite logits)" if nonfinite else ""
        print(f"answered {answered}, failed {len(failures)}{of_them}, in {time.monotonic() - started:.1f} s")
        return status

    def close(self) -> None:
        for journals in self._journals.values():
            journals.close()

    def _unanswered(self) -> list[int]:
        """Indices of the questions that have no reply yet, or failed: they are tried again."""
        done = {name: journals.read_and_tell() for name, journals in self._journals.items()}
        return [
            index
            for index, question in enumerate(self._plan.prompts)
            if "error" in done[question.source].get(question.key, {"error": "not asked yet"})
        ]

    def _batches(self, prepared: Iterable[Prepared]) -> Iterator[list[Prepared]]:
        """Whole videos, as many as fit the batch size with their questions; on a CPU one: more do not help there."""
        batch: list[Prepared] = []
        num_questions = 0
        for work, video in prepared:
            num_questions += len(work.questions)
            if batch and (num_questions > int(self._settings.batch_size or 1) or self._device.kind == "cpu"):
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
    check_free_memory(device, checkpoint.weights.total, str(settings.dtype))


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
