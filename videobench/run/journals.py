"""Where a run's replies are kept: the journals of its data sets, opened before the weights are read."""

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from videobench.commands import Command, keep_command
from videobench.console import warn_once
from videobench.data.dataset import SAMPLE_MANIFEST_FILE, SAMPLE_QA_FILE, Question, load_manifest, manifest_hash
from videobench.data.journal import FULL_DISK, Journal
from videobench.data.rows import Row, failed_row, question_fields
from videobench.device.devices import Device, card_numbers, describe_device
from videobench.errors import DeviceLost, InputError, OtherProcessFailed
from videobench.files import MAX_JSON_BYTES, read_bytes, sha256_of_file
from videobench.jobs.job import Job
from videobench.jobs.processes import at_forced_end
from videobench.model.checkpoint import start_hashing
from videobench.model.prompts import Prompt
from videobench.run.options import RunSettings
from videobench.run.plan import RunContext, costliest_first
from videobench.video.identity import Stamp, sha256_of_video, stamp_of

if TYPE_CHECKING:
    from videobench.model.checkpoint import Checkpoint

SUITE_VERSION = "0.2.0"


def run_identity(settings: RunSettings, checkpoint: "Checkpoint") -> Row:
    """What a reply depends on: a journal is resumed only if all of this is the same.

    The batch size is left out, so that a run can resume with a smaller one after running out of memory; the rows hold
    it. So is the QA file: each row holds its own question, so that a sample can be enlarged."""
    return {
        "device": settings.device,
        "dtype": settings.dtype,
        "num_frames": settings.num_frames,
        "max_new_tokens": settings.max_new_tokens,
        "max_input_length": settings.max_input_length,
        "checkpoint_sha256": checkpoint.sha256,
        "deterministic": settings.deterministic,
    }


def start_hashing_weights(job: Job, checkpoint: "Checkpoint", earlier: Collection[str]) -> Callable[[], str]:
    """Start hashing all bytes of the weights; return a function that waits for the hash.

    That function raises InputError if the weights differ from those of `earlier` replies or of the first machine."""
    # A reply is bound to its weights in two steps. The fingerprint in the identity (16 blocks of each file) takes no
    # time, so a journal of other settings or another model is refused before the weights are read. The hash of all
    # bytes is computed while they load, from the same pages of memory, by threads of one process on each machine.
    # The first answer waits for it, and each answer's `run` holds it.
    key = f"weights/{job.process - job.local_rank}"
    hashed = start_hashing(checkpoint.weights.paths) if job.local_rank == 0 else None
    if hashed and job.store is not None:
        hashed.add_done_callback(lambda done: None if done.exception() else job.store.set(key, done.result()))

    @cache
    def wait() -> str:
        sha256 = hashed.result() if hashed else job.wait_for(key)
        first = sha256 if job.store is None else job.wait_for("weights/0")
        if first != sha256:
            raise InputError(
                f"{checkpoint.path}: its weights are not those of the first machine (SHA-256 {sha256:.12}, there "
                f"{first:.12}); copy the checkpoint again"
            )
        if others := sorted({*earlier} - {sha256}):
            raise InputError(
                f"{checkpoint.path}: its weights (SHA-256 {sha256:.12}) are not those of the replies so far "
                f"({others[0]:.12}); use the former, another output folder, or --overwrite"
            )
        return sha256

    return wait


def source_hashes(qa_path: Path) -> Row:
    """Hash the QA file, and the manifest beside it if there is one; raise InputError if the two do not match."""
    qa_sha256 = sha256_of_file(qa_path)
    return {"qa_sha256": qa_sha256, **manifest_hash(qa_path, qa_sha256)}


def foreign_videos(qa_path: Path, rows: Iterable[Row]) -> list[str]:
    """List the vid_paths of `rows` whose video is not the one in the sample's manifest."""
    path = qa_path.with_name(SAMPLE_MANIFEST_FILE)
    if qa_path.name != SAMPLE_QA_FILE or not path.is_file():
        return []
    manifest = load_manifest(path)
    listed = {f"{manifest.videos_folder}/{name}": each.sha256 for name, each in manifest.videos.items()}
    seen = {row["vid_path"]: row["video_sha256"] for row in rows if row.get("video_sha256")}
    return [vid_path for vid_path, sha256 in seen.items() if listed.get(vid_path, sha256) != sha256]


def run_entry(settings: RunSettings, device: Device, known: Row) -> Row:
    """Build the `run` entry of every row: `known` (identity and source), and what else may explain a difference."""
    import av
    import torch
    import transformers

    return known | {
        **describe_device(device),
        "tensor_parallel": settings.tensor_parallel,
        **({} if device.kind == "cpu" else {"cards": ",".join(card_numbers(device, settings.tensor_parallel))}),
        "checkpoint": settings.model_path.resolve().name,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "av": av.__version__,
        "suite": SUITE_VERSION,
    }


VERSIONS = ("torch", "transformers", "av")  # what a row's numbers depend on besides the identity
OLD_SET_ASIDE = "--overwrite has been done"  # tells later starts of the same job


DIED = "a process died while it worked on this video; the same command asks again"


class InFlight:
    """The videos that this process is working on, noted in its own file in `<folder>/journal/`.

    An orderly end removes the note. A start records the videos that it finds in notes as failed and continues with the
    others, so that a video that kills its process does not stop the job. When the job is done the notes are removed,
    and the next start asks about these videos again."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder / "journal"
        self._pattern = f"{name}.attempt-*.json"
        self._path = self._folder / self._pattern.replace("*", uuid4().hex)
        self._is_ending = False
        self.videos: list[str] = []  # paths

    def read_deaths(self) -> list[str]:
        """Return the videos that were in flight when a process died. For process 0, before any video is taken."""
        died: set[str] = set()
        for path in self._folder.glob(self._pattern):
            content = read_bytes(path, MAX_JSON_BYTES)
            with suppress(ValueError, TypeError):  # cut short when the machine died
                died.update(map(str, json.loads(content)))
        return sorted(died)

    def take(self, videos: Iterable[Path]) -> None:
        """Note that these videos, and no others, are in flight from now on. Raises InputError if the disk is full.

        The note is not forced to the disk, which would delay the device: it must outlive the process, not the machine.
        """
        if self._is_ending:
            return
        self.videos = [str(video) for video in videos]
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps(self.videos))
        except OSError as error:
            raise InputError(f"{self._path}: cannot be written ({error.strerror}); {FULL_DISK}") from None

    def drop(self) -> None:
        """Note that nothing is in flight."""
        with suppress(OSError):
            self._path.unlink()

    def end(self) -> None:
        """Remove the note, since the process ends on request or for a reason that is no video's fault. Thread-safe."""
        self._is_ending = True
        self.drop()

    def remove_all(self) -> None:
        """Remove all notes: the job is done, or starts over."""
        for path in self._folder.glob(self._pattern):
            with suppress(OSError):
                path.unlink()


@dataclass
class Journals:
    """The journals of a run, one for each data set: this replica adds its rows; process 0 joins those of all."""

    replica: int
    by_set: Mapping[str, Journal]  # by the name of the data set
    runs: Mapping[str, Row]  # by the name of the data set: the `run` entry of its rows
    in_flight: InFlight
    left: list[Question]  # to answer, in the order of claiming
    kept: int  # how many were answered before this start
    earlier_weights: list[str]  # `weights_sha256` of the stored answers: one, or none so far
    weights_sha256: Callable[[], str] = field(init=False)  # of this start's answers; set when loading begins

    def __enter__(self) -> "Journals":
        return self

    def __exit__(self, _: object, error: BaseException | None, __: TracebackType | None) -> None:
        # An error such as a full disk is no video's fault.
        is_orderly = isinstance(error, KeyboardInterrupt | InputError | OtherProcessFailed | OSError)
        if is_orderly and not isinstance(error, DeviceLost):
            self.in_flight.end()
        for journal in self.by_set.values():
            journal.close()

    def append(self, rows: Mapping[Question, Row], stamps: Mapping[Path, Stamp]) -> None:
        """Append rows; they now survive a crash of this process. Only `force` makes them survive a power cut."""
        for name, journal in self.by_set.items():
            own = [each for each in rows if each.source == name]
            seen = {question.key: stamps[question.video] for question in own if question.video in stamps}
            if own:
                journal.append({question.key: rows[question] for question in own}, seen)

    def keep_command(self, command: Command) -> None:
        """Store the command beside the journals, for a comparison that needs more answers."""
        for journal in self.by_set.values():
            keep_command(journal.command_path, command)

    def force(self) -> None:
        """Return once all appended rows are on the disk."""
        for journal in self.by_set.values():
            journal.force()

    def bring_back(self) -> None:
        """Bring back the journals that were deleted (JsonLines.bring_back)."""
        for journal in self.by_set.values():
            journal.bring_back()

    def failed_row(self, question: Question, reason: str) -> Row:
        """Build the row of a failed question. It names the video by its path in the benchmark, as on any machine."""
        return failed_row(question, reason.replace(str(question.video), question.vid_path), self.runs[question.source])


def open_journals(context: RunContext) -> Journals:
    """Open the journals, and store the questions that cannot be asked as failed.

    Raises InputError if another job is using the folder, or if its replies have other settings."""
    settings, job, plan = context.settings, context.job, context.plan
    by_set, runs = _journals_by_set(context)
    in_flight = InFlight(settings.output_folder, settings.sources[0].name)
    begun = _begin(context, by_set, runs, in_flight) if job.is_first else None
    # Process 0 makes the list for all: by the time the others could read the journals, it may be writing its own.
    start = job.broadcast("start", begun)
    questions = list(plan.prompts)
    unanswered = [questions[index] for index in start["unanswered"]]
    at_forced_end(in_flight.end)
    if job.is_leader:
        for each in by_set.values():
            each.open()
    died = {each: f"{each.video}: {DIED}" for each in unanswered if str(each.video) in start["died"]}
    reasons = plan.failures | died
    left = [each for each in unanswered if each not in reasons]
    kept = len(questions) - len(unanswered)
    journals = Journals(job.replica, by_set, runs, in_flight, left, kept, start["weights"])
    if job.is_first:
        journals.append({each: journals.failed_row(each, reasons[each]) for each in unanswered if each in reasons}, {})
        journals.force()
    return journals


def find_left(context: RunContext) -> list[Question]:
    """List the questions that a run would still have to answer, without writing anything."""
    by_set, _ = _journals_by_set(context)
    if context.settings.overwrite:
        return list(context.plan.prompts)
    return _unanswered(context, {name: each.read(report=True) for name, each in by_set.items()})


def _journals_by_set(context: RunContext) -> tuple[dict[str, Journal], dict[str, Row]]:
    """Return, by the name of the data set, its journal and the `run` entry of its rows."""
    settings, plan = context.settings, context.plan
    identity = run_identity(settings, context.checkpoint)
    by_set: dict[str, Journal] = {}
    runs: dict[str, Row] = {}
    for source in settings.sources:
        asked = [each for each in (*plan.prompts, *plan.beyond_limit) if each.source == source.name]
        videos = {each.key: each.video for each in asked}
        prompts = {each.key: plan.prompts[each] for each in asked if each in plan.prompts}
        by_set[source.name] = Journal(
            settings.output_folder,
            source.name,
            identity,
            context.job.replica,
            {each.key: question_fields(each) for each in asked},
            partial(_is_seen_video, videos),
            partial(_prompt_sha256, prompts),
        )
        runs[source.name] = run_entry(settings, context.device, identity | source_hashes(source.qa_path))
    return by_set, runs


def _prompt_sha256(prompts: Mapping[str, Prompt], key: str) -> str:
    return prompts[key].sha256 if key in prompts else ""


def _unanswered(context: RunContext, done: Mapping[str, Mapping[str, Row]]) -> list[Question]:
    """List the questions without an answer; failed ones are tried again."""
    not_asked: Row = {"error": "not asked yet"}
    return [each for each in context.plan.prompts if "error" in done[each.source].get(each.key, not_asked)]


def _is_seen_video(videos: Mapping[str, Path], key: str, sha256: str, stamp: Any) -> bool | None:
    """Whether a stored reply's video is unchanged, by its stamp or else its content; None if it cannot be read."""
    now = stamp_of(videos[key])
    if now is None:
        return None
    if stamp == list(now):
        return True
    try:
        return _sha256_at(videos[key], now) == sha256
    except OSError:
        return None


@cache
def _sha256_at(video: Path, stamp: Stamp) -> str:
    return sha256_of_video(video)


def _begin(
    context: RunContext, by_set: Mapping[str, Journal], runs: Mapping[str, Row], in_flight: InFlight
) -> dict[str, Any]:
    """Return as JSON what the other processes must know about the journals. Moves nothing until all are locked."""
    for each in by_set.values():
        each.lock()
    if context.settings.overwrite:
        _set_old_aside(context.job, by_set, in_flight)
    for each in by_set.values():
        each.check_result()
    done = {name: each.read(report=True) for name, each in by_set.items()}
    index = {question: number for number, question in enumerate(context.plan.prompts)}
    earlier = [row["run"] for rows in done.values() for row in rows.values() if "error" not in row and "run" in row]
    weights = {str(run["weights_sha256"]) for run in earlier if "weights_sha256" in run}
    _name_other_versions(earlier, next(iter(runs.values())))
    unanswered = [index[each] for each in costliest_first(context.plan, _unanswered(context, done))]
    return {"unanswered": unanswered, "died": in_flight.read_deaths(), "weights": sorted(weights)}


def _name_other_versions(earlier: Iterable[Row], now: Row) -> None:
    """Warn in one line on stderr if stored replies were made with other releases."""
    found: Counter[str] = Counter()
    for run in earlier:
        others = [name for name in VERSIONS if name in run and run[name] != now[name]]
        found[", ".join(f"{name} {run[name]} (now {now[name]})" for name in others)] += 1
    del found[""]
    if found:
        text = "; ".join(f"{count} of {others}" for others, count in found.items())
        warn_once(f"stored replies of other releases are kept: {text}; --overwrite answers all with one")


def _set_old_aside(job: Job, by_set: Mapping[str, Journal], in_flight: InFlight) -> None:
    """Set the old replies aside, unless an earlier start of this very job did: its own answers stay."""
    if job.was_noted(OLD_SET_ASIDE):
        return
    for each in by_set.values():
        each.set_aside()
    in_flight.remove_all()
    job.note(OLD_SET_ASIDE)
