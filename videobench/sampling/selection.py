"""Choose the questions of a sample; the same seed gives two teams the same bytes."""

import hashlib
import itertools
import stat
import sys
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from videobench.commands import Command
from videobench.data.dataset import (
    DATASET_NAMES,
    Question,
    QuestionName,
    VideoRoot,
    canonical_name,
    is_known,
    load_answers,
    load_questions,
    qa_file,
)
from videobench.data.missing import place_hint
from videobench.errors import InputError
from videobench.files import MAX_JSON_BYTES, decode_utf8, read_bytes, read_json

STRATEGIES = ("uniform", "stratified", "proportional")


def draw_order(
    questions: Sequence[Question],
    strategy: str,
    seed: int,
    one_per_video: bool = False,
    unusable: Set[Path] = frozenset(),
) -> list[Question]:
    """Sort questions into the order of the draw: a sample of n is the first n, so a larger sample contains a smaller.

    They are sorted by the SHA-256 of the seed and their name: the order does not depend on the machine, on Python, or
    on which videos exist. Questions on an `unusable` video are left out, and with `one_per_video` all but the first on
    each video. If the strategy is "uniform", the next question of all takes the place of one that is left out,
    otherwise the next of its own set, as long as there is one."""
    sizes = Counter(each.dataset for each in questions)
    left = [each for each in questions if each.video not in unusable]
    left.sort(key=lambda each: hashlib.sha256(f"{seed}/{each.dataset}/{each.id}".encode()).digest())
    if one_per_video:
        first: dict[Path, Question] = {}
        for each in left:
            first.setdefault(each.video, each)
        left = list(first.values())
    if strategy == "uniform":
        return left
    by_set: dict[str, deque[Question]] = {name: deque() for name in sorted(sizes, key=DATASET_NAMES.index)}
    for each in left:
        by_set[each.dataset].append(each)
    return _stratified(by_set, sizes) if strategy == "stratified" else _proportional(by_set, sizes)


def _proportional(by_set: Mapping[str, Sequence[Question]], sizes: Mapping[str, int]) -> list[Question]:
    """Interleave the sets in proportion to their sizes, by the method of Webster and Sainte-Lague.

    The k-th question of a set, from 0, comes at (2 k + 1) / size. Unlike with largest remainders, a larger sample never
    has fewer questions of a set."""
    places = [
        (_quotient(k, sizes[name]), number, question)
        for number, (name, queue) in enumerate(by_set.items())
        for k, question in enumerate(queue)
    ]
    return [question for *_, question in sorted(places, key=lambda place: place[:2])]


def _stratified(by_set: Mapping[str, deque[Question]], sizes: Mapping[str, int]) -> list[Question]:
    """Take one question of each set per round, the largest set first.

    When a set is used up, its turns go to the others by their sizes, as in _proportional. So each of S sets gives at
    least n // S questions, or all it has."""
    order: list[Question] = []
    names = sorted(by_set, key=lambda name: -sizes[name])  # sets of equal size in the order of the benchmark
    inherited = dict.fromkeys(names, 0)  # turns taken over from other sets
    for turn in itertools.cycle(names):
        live = [name for name in names if by_set[name]]
        if not live:
            break
        heir = turn if by_set[turn] else min(live, key=lambda name: _quotient(inherited[name], sizes[name]))
        inherited[heir] += heir != turn
        order.append(by_set[heir].popleft())
    return order


def _quotient(k: int, size: int) -> float:
    """What Webster's method sorts by. For sets below a million questions rounding cannot change the order."""
    return (2 * k + 1) / size


@dataclass(frozen=True)
class SampleSettings:
    """The flags of extract_dataset.py, checked."""

    qa_root: Path  # holds Eval_QA/
    videos: VideoRoot  # holds Eval_video/
    answer_path: Path
    output_folder: Path  # Eval_video/<dataset>/<file> goes to <output_folder>/sampling_data/<dataset>/<file>
    json_folder: Path  # the three JSON files go here
    names: tuple[str, ...]  # data sets to draw from, in the order of the benchmark
    nums: int  # questions to draw
    seed: int  # any whole number; the same one gives the same sample
    strategy: str  # "uniform", "stratified" or "proportional"
    one_per_video: bool  # no two questions on one video
    exclude_path: Path | None  # its questions are not drawn
    check_videos: bool  # decode each chosen video, draw another question if that fails
    copy_mode: str  # "copy", "hardlink" or "symlink"
    num_workers: int  # videos copied, or decoded, at once
    overwrite: bool  # remove files from the sample's folder that do not belong to it
    command: Command  # what was typed


@dataclass(frozen=True)
class Candidates:
    """The questions that can be drawn, and how many cannot, by the first reason that applies."""

    questions: list[Question]  # in the order of the QA files; each has its answer and its video, and is not excluded
    answers: dict[QuestionName, str]  # every entry of the answer file: right letter
    video_bytes: dict[Path, int]  # size of every video that exists, even if its questions cannot be drawn
    without_answer: int
    without_video: list[Question]
    excluded: int


@dataclass(frozen=True)
class Sample:
    """The questions that were drawn."""

    questions: list[Question]  # in the order in which they were drawn
    available: int  # questions that could be drawn
    undecodable: tuple[str, ...] = ()  # "<dataset>/<file>", sorted, of videos that did not decode and were replaced


def load_candidates(settings: SampleSettings) -> Candidates:
    """Read the QA files of the chosen sets, the answers and the exclusions, and look for the videos."""
    answers = load_answers(settings.answer_path)
    questions: list[Question] = []
    locate = cache(settings.videos.locate)  # 17,036 questions are on 5,917 videos
    for name in settings.names:
        questions += load_questions(qa_file(settings.qa_root, name), name, locate)
    excluded = load_excluded(settings.exclude_path, questions) if settings.exclude_path else frozenset()
    video_bytes = _sizes_of_videos({each.video for each in questions})
    answered = [each for each in questions if (each.dataset, each.id) in answers]
    usable = [each for each in answered if each.video in video_bytes]
    drawable = [each for each in usable if (each.dataset, each.id) not in excluded]
    return Candidates(
        questions=drawable,
        answers=answers,
        video_bytes=video_bytes,
        without_video=[each for each in answered if each.video not in video_bytes],
        without_answer=len(questions) - len(answered),
        excluded=len(usable) - len(drawable),
    )


def _sizes_of_videos(videos: Iterable[Path]) -> dict[Path, int]:
    """Size in bytes of each file that exists and is not empty: an empty one is a download that did not begin."""
    sizes = {}
    for video in videos:
        try:
            status = video.stat()
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode) and status.st_size > 0:
            sizes[video] = status.st_size
    return sizes


def load_excluded(path: Path, questions: Iterable[Question]) -> frozenset[QuestionName]:
    """Read the questions named in a sample's QA, answer or result file, or in lines `<dataset>/<id>`.

    Raises InputError for an unknown name: a question whose name is misspelt would be drawn after all."""
    text = decode_utf8(read_bytes(path, MAX_JSON_BYTES), path).removeprefix("\ufeff")  # a BOM, which some editors write
    if text.lstrip().startswith(("{", "[")):
        keys = _keys_of_json(read_json(path))
    else:
        keys = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not keys:
        raise InputError(f"{path}: names no question; correct it or leave --exclude out")
    names: set[QuestionName] = set()
    for key in keys:
        dataset, _, id = key.partition("/")
        if not id or not is_known(dataset) or canonical_name(dataset) not in DATASET_NAMES:
            found = f"{path}: {key!r} is not <dataset>/<id> of Video-Bench"
            raise InputError(f"{found}; --exclude takes a sample's JSON file, or one question per line")
        names.add((canonical_name(dataset), id))
    known = {(each.dataset, each.id) for each in questions}
    sets = {dataset for dataset, _ in known}
    unknown = sorted(name for name in names if name[0] in sets and name not in known)
    if unknown:
        raise InputError(f"{path}: {'/'.join(unknown[0])} is in no QA file ({len(unknown)} such); correct the file")
    return frozenset(names)


def _keys_of_json(content: Any) -> list[str]:
    """Collect keys `<dataset>/<id>` from a sample's QA or result file, or an answer file (data set -> id -> answer)."""
    keys: list[str] = []
    for key, entry in content.items() if isinstance(content, dict) else ():  # a list has no keys and is refused
        is_set = key in DATASET_NAMES and isinstance(entry, dict)
        keys += [f"{key}/{id.removeprefix(f'{key}/')}" for id in entry] if is_set else [key]
    return keys


def choose(candidates: Candidates, settings: SampleSettings, undecodable: Set[Path] = frozenset()) -> Sample:
    """Take the first `nums` questions of the draw. Raises InputError with the counts if there are fewer."""
    order = draw_order(
        candidates.questions, settings.strategy, settings.seed, settings.one_per_video, unusable=undecodable
    )
    if len(order) < settings.nums:
        raise InputError(_too_few(len(order), candidates, settings, undecodable))
    return Sample(order[: settings.nums], len(order))


def _too_few(left: int, candidates: Candidates, settings: SampleSettings, undecodable: Set[Path]) -> str:
    lost = f"{len(candidates.without_video)} lack the video, {candidates.without_answer} the answer"
    if candidates.excluded:
        lost += f", {candidates.excluded} are excluded"
    if undecodable:
        lost += f", {sum(each.video in undecodable for each in candidates.questions)} have a video that does not decode"
    if settings.one_per_video:
        lost += ", and only one is drawn on each video"
    fix = f"use --nums {left} or fewer" if left else "draw from other questions"
    if candidates.without_answer:
        fix = "check --correct_answer_file, or use a smaller --nums"
    if candidates.without_video:
        fix = "check --Eval_Video_root, the folder that holds Eval_video/, or use a smaller --nums"
    hint = place_hint((settings.videos, each) for each in candidates.without_video)
    return f"{settings.nums} questions asked for, but only {left} can be drawn ({lost}); {hint or fix}"


def warn_of_lacking(candidates: Candidates, settings: SampleSettings) -> None:
    """Warn of questions without video or answer, with a hint how to get the videos to their places if there is one."""
    if candidates.without_video or candidates.without_answer:
        lost = f"{len(candidates.without_video)} questions lack their video, {candidates.without_answer} their answer"
        hint = place_hint((settings.videos, each) for each in candidates.without_video)
        print(f"warning: {lost}; the sample is drawn from the others{hint and f'; {hint}'}", file=sys.stderr)


def sample_path(question: Question) -> PurePosixPath:
    """The video's place below sampling_data: the same as below Eval_video, `<dataset>/<file>`. The folder may be
    another data set's than the question's."""
    return PurePosixPath(*PurePosixPath(question.vid_path).parts[1:])
