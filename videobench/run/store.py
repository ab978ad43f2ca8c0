"""Where a run's replies are kept: the journals of its data sets, opened before the weights are read."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from videobench.console import warn_once
from videobench.data.dataset import Question
from videobench.data.journal import Journals
from videobench.data.rows import Row, Run, failed_row, question_fields
from videobench.errors import DeviceLost, InputError, OtherProcessFailed
from videobench.jobs.crashes import DIED, Attempts
from videobench.jobs.job import Job
from videobench.jobs.signals import at_forced_end
from videobench.model.prompts import Prompt
from videobench.run.context import RunContext
from videobench.run.plan import costliest_first
from videobench.run.provenance import run_facts, run_identity, source_facts
from videobench.video.identity import Stamp, sha256_of_video, stamp_of

VERSIONS = ("torch", "transformers", "av")  # what the numbers of a row depend on beside the identity
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

    def others(self, source: str) -> int:
        """How many answers the journals hold to questions that are not asked: they are not in the result file."""
        return self._journals[source].others

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
    journals, runs = _journals(context)
    attempts = Attempts(settings.output_folder, settings.sources[0].name)
    begun = _begin(context, journals, runs, attempts) if job.is_first else None
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


def find_left(context: RunContext) -> list[Question]:
    """What a run would have to answer, its journals as they are; nothing is written."""
    journals, _ = _journals(context)
    if context.settings.overwrite:
        return list(context.plan.prompts)
    done = {name: each.read_and_report() for name, each in journals.items()}
    return _unanswered(context, done)


def _journals(context: RunContext) -> tuple[dict[str, Journals], dict[str, Run]]:
    """By the name of the data set: its journals, and the `run` entry of each row."""
    settings, plan = context.settings, context.plan
    identity = run_identity(settings, context.checkpoint)
    journals: dict[str, Journals] = {}
    runs: dict[str, Run] = {}
    for source in settings.sources:
        asked = [each for each in (*plan.prompts, *plan.beyond_limit) if each.source == source.name]
        seen = SeenVideos({each.key: each.video for each in asked})
        prompts = {each.key: plan.prompts[each] for each in asked if each in plan.prompts}
        journals[source.name] = Journals(
            settings.output_folder,
            source.name,
            identity,
            context.job.replica,
            {each.key: question_fields(each) for each in asked},
            seen,
            partial(_prompt_sha256, prompts),
            {"checkpoint_sha256": context.checkpoint.former_sha256},
        )
        runs[source.name] = run_facts(settings, context.device, identity | source_facts(source.qa_path))
    return journals, runs


def _prompt_sha256(prompts: Mapping[str, Prompt], key: str) -> str:
    return prompts[key].sha256 if key in prompts else ""


def _unanswered(context: RunContext, done: Mapping[str, Mapping[str, Row]]) -> list[Question]:
    """Those that failed are tried again."""
    not_asked: Row = {"error": "not asked yet"}
    return [each for each in context.plan.prompts if "error" in done[each.source].get(each.key, not_asked)]


class SeenVideos:
    """Whether the videos of stored replies are still those that were seen: by stamp, or else by content."""

    def __init__(self, videos: Mapping[str, Path]) -> None:
        self._videos = videos  # by question key
        self._hashes: dict[tuple[Path, Stamp], str] = {}

    def __call__(self, key: str, sha256: str, stamp: Any) -> bool | None:
        """None for a video that is gone, or that cannot be read."""
        video = self._videos[key]
        now = stamp_of(video)
        if now is None:
            return None
        if stamp == list(now):
            return True
        if (video, now) not in self._hashes:
            try:
                self._hashes[video, now] = sha256_of_video(video)
            except OSError:
                return None
        return self._hashes[video, now] == sha256


def _begin(
    context: RunContext, journals: Mapping[str, Journals], runs: Mapping[str, Run], attempts: Attempts
) -> dict[str, Any]:
    """On process 0: what the others must know of the journals, as JSON. Nothing is moved until all are locked."""
    for each in journals.values():
        each.lock()
    if context.settings.overwrite:
        _set_old_aside(context.job, journals, attempts)
    for each in journals.values():
        each.check_result()
    done = {name: each.read_and_report() for name, each in journals.items()}
    index = {question: number for number, question in enumerate(context.plan.prompts)}
    left = _unanswered(context, done)
    earlier = [row["run"] for rows in done.values() for row in rows.values() if isinstance(row.get("run"), dict)]
    weights = {str(run["weights_sha256"]) for run in earlier if "weights_sha256" in run}
    answered = [row["run"] for rows in done.values() for row in rows.values() if "error" not in row and "run" in row]
    _name_other_versions(answered, next(iter(runs.values())))
    unanswered = [index[each] for each in costliest_first(context.plan, left)]
    failures = {index[each]: done[each.source][each.key]["error"] for each in left if each.key in done[each.source]}
    died = attempts.read_deaths()
    return {"unanswered": unanswered, "died": died, "weights": sorted(weights), "failures": failures}


def _name_other_versions(earlier: Iterable[Run], now: Run) -> None:
    """One line on stderr if stored replies are of other releases than this start's."""
    found: Counter[tuple[str, ...]] = Counter()
    for run in earlier:
        others = [name for name in VERSIONS if name in run and run[name] != now[name]]
        found[tuple(f"{name} {run[name]} (now {now[name]})" for name in others)] += 1
    del found[()]
    if found:
        text = "; ".join(f"{count} of {', '.join(others)}" for others, count in found.items())
        warn_once(f"stored replies of other releases are kept: {text}; --overwrite answers all with one")


def _set_old_aside(job: Job, journals: Mapping[str, Journals], attempts: Attempts) -> None:
    """Unless an earlier start of this very job did: its own answers stay."""
    if job.was_noted(OLD_SET_ASIDE):
        return
    for each in journals.values():
        each.set_aside()
    attempts.remove_all()
    job.note(OLD_SET_ASIDE)
