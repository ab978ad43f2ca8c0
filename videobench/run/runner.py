"""Settings -> result files: what run_npu.py and run_gpu.py do."""

import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from videobench.cli import traceback_to
from videobench.console import one_line, tell_once
from videobench.data.dataset import Question, load_answers
from videobench.data.question_text import build_question_text
from videobench.device.devices import DEFAULT_DTYPES, Device, cuda_is_available, open_device
from videobench.device.memory import check_free_memory
from videobench.errors import DeviceLost, InputError, OtherRankFailed
from videobench.jobs.crashes import SET_ASIDE, Attempts
from videobench.jobs.job import Ranks
from videobench.jobs.signals import at_stop
from videobench.model.cost import DTYPE_BYTES
from videobench.model.prompts import PromptBuilder
from videobench.model.sharding import check_tensor_parallel, weights_per_card
from videobench.model.timing import Usage
from videobench.results.journal import Journals
from videobench.results.rows import NONFINITE_MEND, Row, failed_row, question_rows
from videobench.run.batches import batch_size_for
from videobench.run.loop import Answering
from videobench.run.options import RunSettings
from videobench.run.plan import Plan, build_plan, costliest_first, load_all_questions, print_plan
from videobench.run.progress import Progress, RightAnswers
from videobench.run.provenance import run_facts, run_identity, source_facts

if TYPE_CHECKING:
    from videobench.model.checkpoint import Checkpoint

ELSEWHERE = "cannot be asked on the first process, which stores why"
SET_ASIDE_NOTE = "--overwrite has been obeyed"
MAX_NAMED_FAILURES = 20  # on stderr; all of them stand in the result file


def run(settings: RunSettings) -> int:
    """The exit status: 0 all answered, 1 some failed; InputError where the input is wrong."""
    ranks = Ranks.from_environment(settings.tensor_parallel)
    try:
        return _run(settings, ranks)
    finally:
        ranks.close()


def _run(settings: RunSettings, ranks: Ranks) -> int:
    started = time.monotonic()
    questions = load_all_questions(settings)
    device = _open_device(settings, ranks)
    settings = _with_defaults(settings, device)
    from videobench.model.checkpoint import (
        load_checkpoint,  # imports transformers, which must not come before open_device
    )

    checkpoint = load_checkpoint(settings.model_path)
    check_tensor_parallel(checkpoint, settings.tensor_parallel)
    builder = checkpoint.prompt_builder(settings.num_frames)
    if settings.print_prompt:
        return _print_prompt(builder, questions[0]) if ranks.is_first else 0
    answers = load_answers(settings.answer_path) if settings.answer_path else {}
    plan = build_plan(questions, builder, checkpoint.positions, settings)
    if settings.dry_run:
        weights_bytes = _weights_bytes(settings, checkpoint)
        check_free_memory(device, weights_bytes, settings.dtype)
        if not ranks.is_first:
            return 0
        batch_size = batch_size_for(settings, device, checkpoint, plan, weights_bytes)
        print_plan(plan, settings, checkpoint, batch_size)
        return _report_failures(plan.failures)
    run = Run(settings, ranks, device, checkpoint, plan)
    try:
        with traceback_to(settings.output_folder / "journal" / f"process{ranks.process}.err"):
            usage = run.answer_all(answers)
            run.bring_back_journals()
            ranks.wait_for_all(run.show_progress)
            status = ranks.share_status(run.write_results(started) if ranks.is_first else None)
        for line in usage.lines(device) if usage else ():
            print(f"{device.torch_device}: {line}", file=sys.stderr)
        return status
    except (InputError, OtherRankFailed, PermissionError) as error:
        if not isinstance(error, DeviceLost):  # a full disk, say: no video is to blame
            run.end_attempts()
        raise
    finally:
        run.close()


class Run:
    """One rank's part of a run, with the journals it writes."""

    def __init__(
        self,
        settings: RunSettings,
        ranks: Ranks,
        device: Device,
        checkpoint: "Checkpoint",
        plan: Plan,
    ) -> None:
        """Opens the journals, before the weights: a wrong folder or setting fails at once."""
        self._settings = settings
        self._ranks = ranks
        self._device = device
        self._checkpoint = checkpoint
        self._plan = plan
        self._journals: dict[str, Journals] = {}  # by the name of the data set
        self._facts: dict[str, Row] = {}
        self._progress: Progress | None = None
        identity = run_identity(settings, checkpoint)
        for name, path in ((source.name, source.qa_path) for source in settings.sources):
            of_source = source_facts(path)
            asked = question_rows(each for each in plan.prompts if each.source == name)
            self._journals[name] = Journals(settings.output_folder, name, identity, ranks.rank, asked, of_source)
            self._facts[name] = run_facts(settings, device, identity | of_source)
        self._attempts = Attempts(settings.output_folder, settings.sources[0].name, ranks.process)
        shared: Row = {}
        if ranks.is_first:
            for journals in self._journals.values():
                journals.lock()
            # With all of them locked: a refused start moves nothing. Not what this very job has answered.
            if settings.overwrite and not ranks.was_noted(SET_ASIDE_NOTE):
                for journals in self._journals.values():
                    journals.set_aside()
                self._attempts.remove_all()
                ranks.note(SET_ASIDE_NOTE)
            for journals in self._journals.values():
                journals.check_result()
            begun = self._attempts.begin()
            failing = [index for index, question in enumerate(plan.prompts) if question in plan.failures]
            shared = {"left": self._unanswered(), "failing": failing, "attempts": begun}
        # One list for all ranks: by the time that the others read the journals, rank 0 might be adding to its own. And
        # what one machine sees another may not: a video that is missing here alone fails when it is decoded.
        shared = ranks.share(shared)
        questions = list(plan.prompts)
        self._left = [questions[index] for index in shared["left"]]
        failures = {questions[index]: plan.failures.get(questions[index], ELSEWHERE) for index in shared["failing"]}
        self._plan = replace(plan, failures=failures)
        self._attempts.open(shared["attempts"])
        at_stop(self._attempts.end)
        if ranks.is_leader:
            for journals in self._journals.values():
                journals.open()

    def answer_all(self, answers: RightAnswers) -> Usage | None:
        """Every reply of this rank is on the disk when it returns. None: there was nothing to answer."""
        reasons = self._plan.failures | {
            each: f"{each.video}: {SET_ASIDE}" for each in self._left if self._attempts.is_set_aside(each.video)
        }
        if self._ranks.is_first:
            known = [each for each in self._left if each in reasons]
            self._append({each: failed_row(each, reasons[each], self._facts[each.source]) for each in known})
        left = [each for each in self._left if each not in reasons]
        if not left:
            self._force()
            return None
        check_free_memory(self._device, _weights_bytes(self._settings, self._checkpoint), self._settings.dtype)
        self._progress = Progress(len(left), answers, self._ranks)
        answering = Answering(
            self._settings, self._device, self._ranks, self._checkpoint, self._plan, self._facts, self._attempts
        )
        return answering.run(left, self._progress, self._append, self._force)

    def bring_back_journals(self) -> None:
        """Those of this rank that were deleted meanwhile: the first one will read them."""
        for journals in self._journals.values():
            journals.bring_back()

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
        self._attempts.remove_all()
        status = _report_failures(failures)
        if nonfinite:
            first = f"{nonfinite[0].dataset}/{nonfinite[0].id}"
            print(f"nonfinite: {len(nonfinite)} replies, first {first}: {NONFINITE_MEND}", file=sys.stderr)
        answered = len(self._plan.prompts) - len(failures)
        of_them = f" ({len(nonfinite)} with NaN or infinite logits)" if nonfinite else ""
        print(f"answered {answered}, failed {len(failures)}{of_them}, in {time.monotonic() - started:.1f} s")
        return status

    def show_progress(self) -> None:
        """What the other ranks have done meanwhile."""
        if self._progress is not None:
            self._progress.refresh()

    def end_attempts(self) -> None:
        self._attempts.end()

    def close(self) -> None:
        self._attempts.close()
        if self._progress is not None:
            self._progress.close()
        for journals in self._journals.values():
            journals.close()

    def _unanswered(self) -> list[int]:
        """Indices of the questions that have no reply yet, or failed: they are tried again. In the order of drawing."""
        done = {name: journals.read_and_tell() for name, journals in self._journals.items()}
        index = {question: number for number, question in enumerate(self._plan.prompts)}
        left = [each for each in index if "error" in done[each.source].get(each.key, {"error": "not asked yet"})]
        return [index[each] for each in costliest_first(self._plan, left)]

    def _append(self, rows: Mapping[Question, Row]) -> None:
        for name, journals in self._journals.items():
            own = {question.key: row for question, row in rows.items() if question.source == name}
            if own:
                journals.append(own)

    def _force(self) -> None:
        for journals in self._journals.values():
            journals.force()


def _open_device(settings: RunSettings, ranks: Ranks) -> Device:
    if settings.may_use_cpu and not cuda_is_available():
        tell_once("WARNING: no CUDA device is visible: running on the CPU, which is slow")
        return open_device("cpu", deterministic=settings.deterministic)
    return open_device(settings.device, ranks.local_rank, settings.deterministic)


def _with_defaults(settings: RunSettings, device: Device) -> RunSettings:
    return replace(
        settings,
        device=device.kind,
        dtype=settings.dtype or DEFAULT_DTYPES[device.kind],
    )


def _weights_bytes(settings: RunSettings, checkpoint: "Checkpoint") -> int:
    """On each card."""
    return weights_per_card(checkpoint.weights, settings.tensor_parallel) * DTYPE_BYTES[settings.dtype]


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
