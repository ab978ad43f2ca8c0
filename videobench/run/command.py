"""What run_npu.py and run_gpu.py do."""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from videobench.console import one_line, warn_once
from videobench.data.dataset import Question, load_answers
from videobench.data.rows import NONFINITE_FIX
from videobench.device.devices import DEFAULT_DTYPES, check_free_memory
from videobench.device.packages import check_packages
from videobench.jobs.job import Job
from videobench.jobs.processes import keep_command_to_go_on
from videobench.model.cost import check_tensor_parallel
from videobench.run.device_check import check_device
from videobench.run.export import export_requests, facts_path
from videobench.run.journals import Journals, find_left, foreign_videos, open_journals
from videobench.run.loop import Progress, RightAnswers, Tally, answer_left, batch_size_for
from videobench.run.model_check import check_model
from videobench.run.options import CheckSettings, ModelCheckSettings, RunSettings, parse_args
from videobench.run.plan import RunContext, agree, build_plan, load_all_questions, open_run_device, print_plan

MAX_NAMED_FAILURES = 20  # on stderr; the result file has all of them
LOST = "its reply is in no journal; start again"


def main(argv: Sequence[str] | None, device: str) -> int:
    """Return the exit status; `device` ("npu" or "cuda") is used unless --device names another."""
    settings = parse_args(argv, device)
    check_packages(settings.run.device if isinstance(settings, ModelCheckSettings) else settings.device)
    if isinstance(settings, CheckSettings):
        return check_device(settings)
    return check_model(settings) if isinstance(settings, ModelCheckSettings) else run(settings)


def run(settings: RunSettings) -> int:
    """Return the exit status: 0 all answered, 1 some failed. Raises InputError if the input is wrong."""
    job = Job.from_environment(settings.tensor_parallel)
    try:
        return _run(settings, job)
    finally:
        job.close()


def _run(settings: RunSettings, job: Job) -> int:
    started = time.monotonic()
    if (count := os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) != "0":
        most = os.environ.get("TORCHELASTIC_MAX_RESTARTS")
        warn_once(f"a process of this job died; all of them were started again (restart {count} of {most})")
    # 1. The questions, from the QA files.
    questions = load_all_questions(settings)
    answers = load_answers(settings.answer_path) if settings.answer_path else {}
    # 2. The device. From here on torch and transformers may be imported (device/devices.py).
    device = open_run_device(settings, job.local_rank)
    settings = replace(settings, device=device.kind, dtype=settings.dtype or DEFAULT_DTYPES[device.kind])
    # 3. The checkpoint, without reading its weights.
    from videobench.model.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(settings.model_path)
    check_tensor_parallel(checkpoint, settings.tensor_parallel)
    # 4. The plan: each question's prompt, or why it cannot be asked.
    plan = build_plan(questions, checkpoint.prompt_builder(settings.num_frames), checkpoint.positions, settings)
    context = RunContext(settings, job, device, checkpoint, plan)
    if settings.dry_run:
        return _dry_run(context)
    if settings.export_requests:
        return _export(context, settings.export_requests) if job.is_first else 0
    context = replace(context, plan=agree(plan, job))
    # 5. The journals: skip what is answered already.
    with open_journals(context) as journals:
        _begin(context, journals)
        # 6. The answers: each replica claims video after video, and journals its rows batch by batch.
        with closing(Progress(len(journals.left), answers, job)) as progress:
            usage = answer_left(context, journals, progress) if journals.left else None
            journals.bring_back()  # somebody may have deleted them, and process 0 reads them next
            job.wait_for_all(partial(progress.add, {}))
        # 7. The result files: process 0 joins the journals of all replicas.
        written = _write_results(context, journals, answers, started) if job.is_first else None
        status = int(job.broadcast("status", written))
    name = str(device.torch_device) if job.store is None else f"process {job.process} ({device.torch_device})"
    for line in usage.lines(device) if usage and settings.verbose else ():
        print(f"{name}: {line}", file=sys.stderr)
    return status


def _begin(context: RunContext, journals: Journals) -> None:
    """Keep the command to go on with, and say how much a resumed run has left to do."""
    # Without --overwrite, which would set aside what is answered from here on.
    command = context.settings.command.without(switches=["overwrite"])
    keep_command_to_go_on(command.text)
    if not context.job.is_first:
        return
    journals.keep_command(command)
    if journals.kept:
        again = sum(len(each.questions) for each in context.plan.works(journals.left)) - len(journals.left)
        whole = f"; {again} of those kept are computed again with their videos, and not stored" if again else ""
        to_answer = len(context.plan.prompts) - journals.kept
        print(f"{journals.kept} kept, {to_answer} to answer{whole}", file=sys.stderr)


def _dry_run(context: RunContext) -> int:
    check_free_memory(context.device, context.weights_bytes, context.settings.dtype)
    if not context.job.is_first:
        return 0
    batch_size = batch_size_for(context, context.weights_bytes)
    left = find_left(context)
    print_plan(context, left, batch_size)
    return _report_failures({each: reason for each, reason in context.plan.failures.items() if each in left})


def _export(context: RunContext, path: Path) -> int:
    requests, failures = export_requests(context, path)
    status = _report_failures(failures)
    print(f"{path}: {requests} requests, {len(failures)} questions failed; what a comparison needs: {facts_path(path)}")
    return status


def _write_results(context: RunContext, journals: Journals, answers: RightAnswers, started: float) -> int:
    """Join all replicas' journals into one result file for each data set; return the exit status."""
    stored: dict[Question, Mapping[str, Any]] = {}
    for source in context.settings.sources:
        asked = {each.key: each for each in context.plan.prompts if each.source == source.name}
        journal = journals.by_set[source.name]
        rows = journal.write_results()
        # A journal was lost during the run: the next start asks its questions again.
        own = {each: rows.get(key, {"error": LOST}) for key, each in asked.items()}
        stored |= own
        failed = sum("error" in row for row in own.values())
        if foreign := foreign_videos(source.qa_path, rows.values()):
            found = f"{len(foreign)} videos, first {foreign[0]}, are not those of the sample's manifest"
            print(one_line(f"warning: {found}; extract_dataset.py --verify names them all"), file=sys.stderr)
        others = len(rows.keys() - asked.keys())
        kept = f", {others} beyond --limit kept" if others else ""
        if journal.others:
            kept += f"; {journal.others} replies to questions that are not asked any more stay in its journal alone"
        print(f"{journal.result_path}: {len(own) - failed} answered, {failed} failed{kept}")
    journals.in_flight.remove_all()
    status = _report_failures({each: str(row["error"]) for each, row in stored.items() if "error" in row})
    nonfinite = [each for each, row in stored.items() if "nonfinite" in row]
    if nonfinite:
        first = f"{nonfinite[0].dataset}/{nonfinite[0].id}"
        print(f"nonfinite: {len(nonfinite)} replies, first {first}: {NONFINITE_FIX}", file=sys.stderr)
    of_them = f" ({len(nonfinite)} with NaN or infinite logits)" if nonfinite else ""
    tally = Tally.of(stored, answers)
    answered = tally.done - tally.failed
    kept = f", {journals.kept} kept, {answered - journals.kept} new" if journals.kept else ""
    seconds = f"in {time.monotonic() - started:.1f} s"
    print(f"answered {answered}, failed {tally.failed}{of_them}{tally.accuracy}{kept}, {seconds}")
    return status


def _report_failures(failures: Mapping[Question, str]) -> int:
    """Name the failed questions on stderr; return the exit status."""
    for question, reason in list(failures.items())[:MAX_NAMED_FAILURES]:
        print(one_line(f"failed: {question.dataset}/{question.id}: {reason}"), file=sys.stderr)
    if len(failures) > MAX_NAMED_FAILURES:
        print(f"failed: and {len(failures) - MAX_NAMED_FAILURES} more", file=sys.stderr)
    return 1 if failures else 0
