"""Choose questions, copy their videos, write the sample: two teams with one seed get the same bytes."""

import hashlib
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from videobench.dataset import SAMPLE_NAME, SAMPLE_QA_FILE, Question, load_answers, load_questions, qa_file
from videobench.errors import InputError
from videobench.files import read_json, sha256_of_file, write_json

SAMPLE_ANSWER_FILE = "sampling_answer.json"
SAMPLE_MANIFEST_FILE = "sampling_manifest.json"


@dataclass(frozen=True)
class SampleSettings:
    qa_root: Path  # holds Eval_QA/
    video_root: Path  # holds Eval_video/
    answer_path: Path
    output_folder: Path  # videos go to <output_folder>/sampling_data/<dataset>/<file>
    json_folder: Path  # the three JSON files go here
    names: tuple[str, ...]  # data sets to draw from
    nums: int
    seed: int
    copy_mode: str  # "copy", "hardlink" or "symlink"


@dataclass(frozen=True)
class Candidates:
    questions: list[Question]  # that have their video and their answer
    answers: dict[tuple[str, str], str]
    without_video: int
    without_answer: int


def load_candidates(settings: SampleSettings) -> Candidates:
    """Every question of the chosen sets that has its answer and whose video is there."""
    answers = load_answers(settings.answer_path)
    questions = []
    for name in settings.names:
        questions += load_questions(qa_file(settings.qa_root, name), name, settings.video_root.joinpath)
    present = {video: video.is_file() and video.stat().st_size > 0 for video in {each.video for each in questions}}
    answered = [each for each in questions if (each.dataset, each.id) in answers]
    usable = [each for each in answered if present[each.video]]
    return Candidates(usable, answers, len(answered) - len(usable), len(questions) - len(answered))


def choose(candidates: Candidates, nums: int, seed: int) -> list[Question]:
    """`nums` questions, each equally likely, in the order of the QA files.

    A question's place in the draw is the SHA-256 of the seed and its name: it depends on neither the machine nor the
    version of Python nor on which other videos are there, and a sample of n lies whole in every larger one."""
    questions = candidates.questions
    if len(questions) < nums:
        raise InputError(
            f"{nums} questions asked for, but only {len(questions)} have both their video and their answer "
            f"({candidates.without_video} lack the video, {candidates.without_answer} the answer); "
            "check --Eval_Video_root or ask for fewer with --nums"
        )
    order = sorted(range(len(questions)), key=lambda index: _place_in_draw(questions[index], seed))
    return [questions[index] for index in sorted(order[:nums])]


def _place_in_draw(question: Question, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}/{question.dataset}/{question.id}".encode()).digest()


def sample_path(question: Question) -> PurePosixPath:
    """`<dataset>/<file>`: file names are unique within a set only."""
    return PurePosixPath(question.dataset, *PurePosixPath(question.vid_path).parts[2:])


def copy_videos(questions: Iterable[Question], settings: SampleSettings) -> dict[str, str]:
    """Put each chosen video in its place; `<dataset>/<file>` -> SHA-256, sorted by name."""
    videos = {str(sample_path(each)): each.video for each in questions}
    hashes = {}
    for name in tqdm(sorted(videos), desc="copy", unit="video", file=sys.stderr, disable=None):
        hashes[name] = sha256_of_file(videos[name])
        target = settings.output_folder / SAMPLE_NAME / name
        try:
            _place(videos[name], target, settings.copy_mode)
        except OSError as error:
            raise InputError(
                f"{target}: cannot be written ({error.strerror}); free space or another --copy_mode"
            ) from None
    return hashes


def _place(source: Path, target: Path, mode: str) -> None:
    """Write beside the final name and rename, so that no half a video ever stands under it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and target.samefile(source) and (mode == "symlink") == target.is_symlink():
        return
    part = target.with_name(target.name + ".part")
    part.unlink(missing_ok=True)
    if mode == "symlink":
        part.symlink_to(source.resolve())
    elif mode == "hardlink":
        os.link(source.resolve(), part)
    else:
        shutil.copyfile(source, part)
    part.replace(target)


def write_sample(questions: list[Question], candidates: Candidates, settings: SampleSettings) -> list[Path]:
    """Copy the videos, then write QA file, answer file and manifest; the paths of the three."""
    hashes = copy_videos(questions, settings)
    sources = {name: qa_file(settings.qa_root, name) for name in settings.names}
    rows = {name: read_json(path) for name, path in sources.items()}
    qa_rows: dict[str, Any] = {}
    answer_rows: dict[str, dict[str, Any]] = {}
    for each in questions:
        key = f"{each.dataset}/{each.id}"
        place = PurePosixPath(settings.output_folder.resolve().name, SAMPLE_NAME, sample_path(each))
        qa_rows[key] = {**rows[each.dataset][each.id], "vid_path": str(place), "dataset": each.dataset}
        answer_rows.setdefault(each.dataset, {})[key] = {"answer": candidates.answers[each.dataset, each.id]}
    paths = [settings.json_folder / name for name in (SAMPLE_QA_FILE, SAMPLE_ANSWER_FILE, SAMPLE_MANIFEST_FILE)]
    write_json(paths[0], qa_rows)
    write_json(paths[1], answer_rows)
    write_json(paths[2], _manifest(questions, settings, [settings.answer_path, *sources.values()], hashes, paths[:2]))
    return paths


def _manifest(
    questions: list[Question], settings: SampleSettings, inputs: list[Path], hashes: dict[str, str], outputs: list[Path]
) -> dict[str, Any]:
    videos = Counter(name.split("/")[0] for name in hashes)
    return {
        "seed": settings.seed,
        "nums": settings.nums,
        "datasets": {
            name: {"questions": count, "videos": videos[name]}
            for name, count in Counter(each.dataset for each in questions).items()
        },
        "inputs_sha256": {path.name: sha256_of_file(path) for path in inputs},
        "outputs_sha256": {path.name: sha256_of_file(path) for path in outputs},
        "videos_sha256": hashes,
    }
