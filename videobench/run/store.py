"""Where a run's replies are kept: the journals of its data sets, opened before the weights are read."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from videobench.data.dataset import Question
from videobench.data.journal import Journals
from videobench.data.rows import Row, Run, failed_row, question_rows
from videobench.errors import DeviceLost, InputError, OtherProcessFailed
from videobench.jobs.crashes import DIED, Attempts
from videobench.jobs.job import Job
from videobench.jobs.signals import at_forced_end
from videobench.run.context import RunContext
from videobench.run.plan import costliest_first
from videobench.run.provenance import run_facts, run_identity, source_facts
from videobench.video.identity import Stamp, sha256_of_video, stamp_of

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
        kept: int,
        earlier_weights: list[str],
        stored_failures: Mapping[Question, str],
    ) -> None:
        self.replica = replica
        self._journals = journals  # by the name of the data set
        self.runs = runs  # likewise: the `run` entry of each row
        self.attempts = attempts
        self.left = left  # questions to answer, in the order of claiming
        self.kept = kept  # how many were answered before this start
        self._stored_failures = stored_failures  # why questions failed before this start: stored once, not at each
        self.earlier_weights = earlier_weights  # `weights_sha256` of the stored answers: one, or none so far
        self.weights_sha256: Callable[[], str]  # of the answers to come; known once the weights have been read

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, _: object, error: BaseException | None, __: TracebackType | None) -> None:
        # A full disk, say: no video is to blame.
        is_orderly = isinstance(error, KeyboardInterrupt | InputError | OtherProcessFailed | OSError)
        if is_orderly and not isinstance(error, DeviceLost):
            self.attempts.end()
        for journals in self._journals.values():
            journals.close()

    def append(self, rows: Mapping[Question, Row], stamps: Mapping[Path, Stamp]) -> None:
        """When it returns the rows outlive this process, but only `force` makes them outlive the machine.

        `stamps` are those of the videos when they were read."""
        for name, journals in self._journals.items():
            own = [each for each in rows if each.source == name and not self._is_stored(each, rows[each])]
            seen = {question.key: stamps[question.video] for question in own if question.video in stamps}
            if own:
                journals.append({question.key: rows[question] for question in own}, seen)

    def _is_stored(self, question: Question, row: Row) -> bool:
        return "error" in row and row["error"] == self._stored_failures.get(question)

    def force(self) -> None:
        """Returns when the disk has all rows that were appended before. From any thread."""
        for journals in self._journals.values():
            journals.force()

    def bring_back(self) -> None:
        """Restores this replica's journals where they were deleted meanwhile: process 0 is about to read them."""
        for journals in self._journals.values():
            journals.bring_back()

    def failed_row(self, question: Question, reason: str) -> Row:
        return failed_row(question, reason_without_root(question, reason), self.runs[question.source])

    def result_path(self, source: str) -> Path:
        return self._journals[source].result_path

    def write_result(self, source: str) -> dict[str, Row]:
        """Joins all replicas' journals into the result file of a data set; its rows by question key."""
        return self._journals[source].write_results()


def reason_without_root(question: Question, reason: str) -> str:
    """A reason names the video by its place in the benchmark: rows of two machines are then alike."""
    return reason.replace(str(question.video), question.vid_path)


def open_store(context: RunContext) -> Store:
    """With what cannot be asked already stored as failed.

    Raises InputError where a folder or setting is wrong, or where another job holds the folder."""
    settings, job, plan = context.settings, context.job, context.plan
    identity = run_identity(settings, context.checkpoint)
    journals: dict[str, Journals] = {}
    runs: dict[str, Run] = {}
    for name, qa_path in ((source.name, source.qa_path) for source in settings.sources):
        facts = source_facts(qa_path)
        asked = [each for each in (*plan.prompts, *plan.beyond_limit) if each.source == name]
        seen = SeenVideos({each.key: each.video for each in asked})
        journals[name] = Journals(settings.output_folder, name, identity, job.replica, question_rows(asked), seen)
        runs[name] = run_facts(settings, context.device, identity | facts)
    attempts = Attempts(settings.output_folder, settings.sources[0].name)
    begun = _begin(context, journals, attempts) if job.is_first else None
    # One list for all processes: when the others could read the journals, process 0 may already be adding to its own.
    start = job.broadcast("start", begun)
    questions = list(plan.prompts)
    unanswered = [questions[index] for index in start["unanswered"]]
    at_forced_end(attempts.end)
    if job.is_leader:
        for each in journals.values():
            each.open()
    died = {each: f"{each.video}: {DIED}" for each in unanswered if str(each.video) in start["died"]}
    reasons = plan.failures | died
    left = [each for each in unanswered if each not in reasons]
    kept = len(questions) - len(unanswered)
    stored_failures = {questions[int(index)]: reason for index, reason in start["failures"].items()}
    store = Store(job.replica, journals, runs, attempts, left, kept, start["weights"], stored_failures)
    if job.is_first:
        store.append({each: store.failed_row(each, reasons[each]) for each in unanswered if each in reasons}, {})
        store.force()
    return store


class SeenVideos:
    """Whether the videos of stored replies are still those that were seen: by stamp, or else by content."""

    def __init__(self, videos: Mapping[str, Path]) -> None:
        self._videos = videos  # by question key
        self._hashes: dict[tuple[Path, Stamp], str] = {}

    def __call__(self, key: str, sha256: str, stamp: Any) -> bool:
        """True, too, for a video that is gone, or that cannot be read: nothing says that it was another one."""
        video = self._videos[key]
        now = stamp_of(video)
        if now is None or stamp == list(now):
            return True
        if (video, now) not in self._hashes:
            try:
                self._hashes[video, now] = sha256_of_video(video)
            except OSError:
                return True
        return self._hashes[video, now] == sha256


def _begin(context: RunContext, journals: Mapping[str, Journals], attempts: Attempts) -> dict[str, Any]:
    """On process 0: what the others must know of the journals, as JSON. Nothing is moved until all are locked."""
    for each in journals.values():
        each.lock()
    if context.settings.overwrite:
        _set_old_aside(context.job, journals, attempts)
    for each in journals.values():
        each.check_result()
    done = {name: each.read_and_report() for name, each in journals.items()}
    index = {question: number for number, question in enumerate(context.plan.prompts)}
    # Those that failed are tried again.
    left = [each for each in index if "error" in done[each.source].get(each.key, {"error": "not asked yet"})]
    runs = [row["run"] for rows in done.values() for row in rows.values() if isinstance(row.get("run"), dict)]
    weights = {str(run["weights_sha256"]) for run in runs if "weights_sha256" in run}
    unanswered = [index[each] for each in costliest_first(context.plan, left)]
    failures = {index[each]: done[each.source][each.key]["error"] for each in left if each.key in done[each.source]}
    died = attempts.read_deaths()
    return {"unanswered": unanswered, "died": died, "weights": sorted(weights), "failures": failures}


def _set_old_aside(job: Job, journals: Mapping[str, Journals], attempts: Attempts) -> None:
    """Unless an earlier start of this very job did: its own answers stay."""
    if job.was_noted(OLD_SET_ASIDE):
        return
    for each in journals.values():
        each.set_aside()
    attempts.remove_all()
    job.note(OLD_SET_ASIDE)
