"""Where a run's replies are kept: the journals of its data sets, opened before the weights are read."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from videobench.data.dataset import Question
from videobench.errors import DeviceLost, InputError, OtherProcessFailed
from videobench.jobs.crashes import SET_ASIDE, Attempts
from videobench.jobs.job import Job
from videobench.jobs.signals import at_stop
from videobench.results.journal import Journals
from videobench.results.rows import Row, Run, failed_row, question_rows
from videobench.run.context import RunContext
from videobench.run.plan import costliest_first
from videobench.run.provenance import run_facts, run_identity, source_facts

OLD_SET_ASIDE = "--overwrite has been done"  # a note to the later starts of the same job


class Store:
    """The rows of one process's replica in its journals, and at the end those of all replicas in the result files."""

    def __init__(
        self,
        replica: int,
        journals: Mapping[str, Journals],
        runs: Mapping[str, Run],
        attempts: Attempts,
        left: list[Question],
    ) -> None:
        self.replica = replica
        self._journals = journals  # by the name of the data set
        self.runs = runs  # likewise: the `run` entry of each row
        self.attempts = attempts
        self.left = left  # questions to answer, in the order of claiming

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, _: object, error: BaseException | None, __: TracebackType | None) -> None:
        expected = isinstance(error, InputError | OtherProcessFailed | PermissionError)
        if expected and not isinstance(error, DeviceLost):  # a full disk, say: no video is to blame
            self.attempts.end()
        self.attempts.close()
        for journals in self._journals.values():
            journals.close()

    def append(self, rows: Mapping[Question, Row]) -> None:
        """When it returns the rows outlive this process, but only `force` makes them outlive the machine."""
        for name, journals in self._journals.items():
            own = {question.key: row for question, row in rows.items() if question.source == name}
            if own:
                journals.append(own)

    def force(self) -> None:
        """Returns when the disk has all rows that were appended before. From any thread."""
        for journals in self._journals.values():
            journals.force()

    def bring_back(self) -> None:
        """Restores this replica's journals where they were deleted meanwhile: process 0 is about to read them."""
        for journals in self._journals.values():
            journals.bring_back()

    def failed_row(self, question: Question, reason: str) -> Row:
        return failed_row(question, reason, self.runs[question.source])

    def result_path(self, source: str) -> Path:
        return self._journals[source].result_path

    def write_result(self, source: str) -> dict[str, Row]:
        """Joins all replicas' journals into the result file of a data set; its rows by question key."""
        return self._journals[source].write_results()


def open_store(context: RunContext) -> Store:
    """With all that cannot be asked already stored as failed.

    Raises InputError where a folder or setting is wrong, or where another job holds the folder."""
    settings, job, plan = context.settings, context.job, context.plan
    identity = run_identity(settings, context.checkpoint)
    journals: dict[str, Journals] = {}
    runs: dict[str, Run] = {}
    for name, qa_path in ((source.name, source.qa_path) for source in settings.sources):
        facts = source_facts(qa_path)
        asked = question_rows(each for each in plan.prompts if each.source == name)
        journals[name] = Journals(settings.output_folder, name, identity, job.replica, asked, facts)
        runs[name] = run_facts(settings, context.device, identity | facts)
    attempts = Attempts(settings.output_folder, settings.sources[0].name, job.process)
    # One list for all processes: when the others could read the journals, process 0 may already be adding to its own.
    start = job.broadcast("start", _begin(context, journals, attempts) if job.is_first else None)
    questions = list(plan.prompts)
    unanswered = [questions[index] for index in start["unanswered"]]
    attempts.open(start["attempts"])
    at_stop(attempts.end)
    if job.is_leader:
        for each in journals.values():
            each.open()
    set_aside = {each: f"{each.video}: {SET_ASIDE}" for each in unanswered if attempts.is_set_aside(each.video)}
    reasons = plan.failures | set_aside
    store = Store(job.replica, journals, runs, attempts, [each for each in unanswered if each not in reasons])
    if job.is_first:
        store.append({each: store.failed_row(each, reasons[each]) for each in unanswered if each in reasons})
        store.force()
    return store


def _begin(context: RunContext, journals: Mapping[str, Journals], attempts: Attempts) -> dict[str, Any]:
    """On process 0: what the others must know of the journals. Nothing is moved until all of them are locked."""
    for each in journals.values():
        each.lock()
    if context.settings.overwrite:
        _set_old_aside(context.job, journals, attempts)
    for each in journals.values():
        each.check_result()
    begun = attempts.count_deaths()
    done = {name: each.read_and_report() for name, each in journals.items()}
    index = {question: number for number, question in enumerate(context.plan.prompts)}
    # Those that failed are tried again.
    left = [each for each in index if "error" in done[each.source].get(each.key, {"error": "not asked yet"})]
    return {"unanswered": [index[each] for each in costliest_first(context.plan, left)], "attempts": begun}


def _set_old_aside(job: Job, journals: Mapping[str, Journals], attempts: Attempts) -> None:
    """Unless an earlier start of this very job did: its own answers stay."""
    if job.was_noted(OLD_SET_ASIDE):
        return
    for each in journals.values():
        each.set_aside()
    attempts.remove_all()
    job.note(OLD_SET_ASIDE)
