"""Settings -> result files: what run_npu.py and run_gpu.py do."""

import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from videobench.cli import traceback_to
from videobench.console import one_line, warn_once
from videobench.data.dataset import Question, load_answers
from videobench.data.rows import NONFINITE_FIX
from videobench.device.devices import DEFAULT_DTYPES, Device, cuda_is_available, open_device
from videobench.device.memory import check_free_memory
from videobench.jobs.job import Job
from videobench.model.sharding import check_tensor_parallel
from videobench.run.batches import batch_size_for
from videobench.run.context import RunContext
from videobench.run.export import export_requests, facts_path
from videobench.run.loop import answer_left
from videobench.run.options import RunSettings
from videobench.run.plan import agree, build_plan, load_all_questions, print_plan, print_prompt
from videobench.run.progress import Progress
from videobench.run.provenance import foreign_videos
from videobench.run.store import Store, open_store

MAX_NAMED_FAILURES = 20  # on stderr; all of them stand in the result file
LOST = "its reply is in no journal; start again"


def run(settings: RunSettings) -> int:
    """The exit status: 0 all answered, 1 some failed; InputError where the input is wrong."""
    job = Job.from_environment(settings.tensor_parallel)
    try:
        return _run(settings, job)
    finally:
        job.close()


def _run(settings: RunSettings, job: Job) -> int:
    started = time.monotonic()
    questions = load_all_questions(settings)
    device = _open_device(settings, job)
    settings = replace(settings, device=device.kind, dtype=settings.dtype or DEFAULT_DTYPES[device.kind])
    from videobench.model.checkpoint import load_checkpoint  # imports transformers, which must come after open_device

    checkpoint = load_checkpoint(settings.model_path)
    check_tensor_parallel(checkpoint, settings.tensor_parallel)
    builder = checkpoint.prompt_builder(settings.num_frames)
    if settings.print_prompt and job.is_first:
        print_prompt(builder, questions[0])
    if settings.print_prompt and not settings.dry_run:
        return 0
    answers = load_answers(settings.answer_path) if settings.answer_path else {}
    plan = build_plan(questions, builder, checkpoint.positions, settings)
    if settings.dry_run:
        return _dry_run(RunContext(settings, job, device, checkpoint, plan))
    if settings.export_requests:
        context = RunContext(settings, job, device, checkpoint, plan)
        return _export(context, settings.export_requests) if job.is_first else 0
    context = RunContext(settings, job, device, checkpoint, agree(plan, job))
    traceback_path = settings.output_folder / "journal" / f"process{job.process}.err"
    with open_store(context) as store, traceback_to(traceback_path):
        with Progress(len(store.left), answers, job) as progress:
            usage = answer_left(context, store, progress) if store.left else None
            store.bring_back()
            job.wait_for_all(progress.refresh)
        status = int(job.broadcast("status", _write_results(context, store, started) if job.is_first else None))
    for line in usage.lines(device) if usage else ():
        print(f"{device.torch_device}: {line}", file=sys.stderr)
    return status


def _open_device(settings: RunSettings, job: Job) -> Device:
    if settings.may_use_cpu and not cuda_is_available():
        warn_once("WARNING: no CUDA device is visible: running on the CPU, which is slow")
        return open_device("cpu", deterministic=settings.deterministic)
    return open_device(settings.device, job.local_rank, settings.deterministic)


def _dry_run(context: RunContext) -> int:
    check_free_memory(context.device, context.weights_bytes, context.settings.dtype)
    if not context.job.is_first:
        return 0
    print_plan(context.plan, context.settings, context.checkpoint, batch_size_for(context, context.weights_bytes))
    return _report_failures(context.plan.failures)


def _export(context: RunContext, path: Path) -> int:
    failures = export_requests(context, path)
    status = _report_failures(failures)
    asked = len(context.plan.prompts) - len(failures)
    print(f"{path}: {asked} requests, {len(failures)} questions failed; what a comparison needs: {facts_path(path)}")
    return status


def _write_results(context: RunContext, store: Store, started: float) -> int:
    """Joins all replicas' journals into one result file for each data set; the exit status."""
    failures: dict[Question, str] = {}
    nonfinite: list[Question] = []
    for source in context.settings.sources:
        asked = {each.key: each for each in context.plan.prompts if each.source == source.name}
        rows = store.write_result(source.name)
        failed = {asked[key]: row["error"] for key, row in rows.items() if key in asked and "error" in row}
        # A journal was lost on the way: the next start asks again what it held.
        failed |= {each: LOST for key, each in asked.items() if key not in rows}
        failures |= failed
        nonfinite += [asked[key] for key, row in rows.items() if key in asked and "nonfinite" in row]
        if foreign := foreign_videos(source.qa_path, rows.values()):
            found = f"{len(foreign)} videos, first {foreign[0]}, are not those of the sample's manifest"
            print(one_line(f"warning: {found}; extract_dataset.py --verify names them all"), file=sys.stderr)
        others = len(rows.keys() - asked.keys())
        kept = f", {others} beyond --limit kept" if others else ""
        print(f"{store.result_path(source.name)}: {len(asked) - len(failed)} answered, {len(failed)} failed{kept}")
    store.attempts.remove_all()
    status = _report_failures(failures)
    if nonfinite:
        first = f"{nonfinite[0].dataset}/{nonfinite[0].id}"
        print(f"nonfinite: {len(nonfinite)} replies, first {first}: {NONFINITE_FIX}", file=sys.stderr)
    answered = len(context.plan.prompts) - len(failures)
    of_them = f" ({len(nonfinite)} with NaN or infinite logits)" if nonfinite else ""
    print(f"answered {answered}, failed {len(failures)}{of_them}, in {time.monotonic() - started:.1f} s")
    return status


def _report_failures(failures: Mapping[Question, str]) -> int:
    """Names the failed questions on stderr; the exit status."""
    for question, reason in list(failures.items())[:MAX_NAMED_FAILURES]:
        print(one_line(f"failed: {question.dataset}/{question.id}: {reason}"), file=sys.stderr)
    if len(failures) > MAX_NAMED_FAILURES:
        print(f"failed: and {len(failures) - MAX_NAMED_FAILURES} more", file=sys.stderr)
    return 1 if failures else 0
