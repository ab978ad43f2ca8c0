"""Put a sample on the disk: copy or link the videos that are not there yet, then write its JSON files."""

import os
import shutil
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from videobench.console import StatusLine, one_line
from videobench.data.dataset import (
    SAMPLE_ANSWER_FILE,
    SAMPLE_MANIFEST_FILE,
    SAMPLE_NAME,
    SAMPLE_QA_FILE,
    Question,
    SizeAndHash,
    qa_file,
)
from videobench.errors import InputError
from videobench.files import read_json, replacing, sha256_of_file, write_json
from videobench.sampling.selection import Candidates, Sample, SampleSettings, sample_path

F = TypeVar("F")
T = TypeVar("T")


def check_free_space(sample: Sample, candidates: Candidates, settings: SampleSettings) -> None:
    """Raises InputError if the videos that still have to be copied are larger than the free space."""
    if settings.copy_mode != "copy":
        return
    folder = settings.output_folder
    needed = sum(
        candidates.video_bytes[source]
        for name, source in _sources(sample, settings).items()
        if not _is_copy(folder / SAMPLE_NAME / name, source)
    )
    free = shutil.disk_usage(
        next(each for each in (folder, *Path(os.path.realpath(folder)).parents) if each.is_dir())
    ).free
    if needed > free:
        raise InputError(
            f"{folder}: the videos to copy take {needed} bytes, but only {free} are free; free space, choose another "
            "--sampling_output_folder, or use --copy_mode hardlink or symlink"
        )


def _sources(sample: Sample, settings: SampleSettings) -> dict[str, Path]:
    """Map each video's place below sampling_data to its path in the benchmark, sorted by place.

    Raises InputError if two videos would get the same place, even if only on a disk that ignores case or Unicode forms.
    """
    sources: dict[str, Path] = {}
    first: dict[str, Question] = {}
    for each in sample.questions:
        name = str(sample_path(each))
        other = first.setdefault(unicodedata.normalize("NFC", name).casefold(), each)
        if other.video != each.video:
            raise InputError(
                f"{qa_file(settings.qa_root, each.dataset)}: question {each.id!r} of {each.dataset}: its video "
                f"{each.vid_path} would get the same place in the sample as {other.vid_path} of {other.dataset}/"
                f"{other.id}; rename one of the two videos, here and in its vid_path, or --exclude its questions"
            )
        sources[name] = each.video
    return dict(sorted(sources.items()))


def place_videos(sample: Sample, candidates: Candidates, settings: SampleSettings) -> dict[str, SizeAndHash]:
    """Put each chosen video in its place; return size and hash by the place below sampling_data, sorted.

    A correct file that exists is kept, so that a second start continues an interrupted one."""
    sources = _sources(sample, settings)
    originals = _originals(candidates)
    place = _copy if settings.copy_mode == "copy" else partial(_link, symbolic=settings.copy_mode == "symlink")

    def place_one(name: str) -> SizeAndHash:
        target = settings.output_folder / SAMPLE_NAME / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if _real_place(target) in originals:
                raise InputError(
                    f"{target}: is itself a video of the benchmark; choose another --sampling_output_folder"
                )
            return place(sources[name], target)
        except OSError as error:
            raise InputError(
                f"{target}: cannot be made from {sources[name]} ({error.strerror}); check permissions and free space, "
                "or choose another --sampling_output_folder or --copy_mode"
            ) from None

    return for_each_file(place_one, sources, settings.num_workers, settings.copy_mode)


def clear_others(sample: Sample, candidates: Candidates, settings: SampleSettings) -> None:
    """Remove files from the sample's folder that do not belong to it, such as videos of another seed.

    Without --overwrite only name them on stderr. Videos of the benchmark itself stay."""
    folder = settings.output_folder / SAMPLE_NAME
    own, originals = {folder / name for name in _sources(sample, settings)}, _originals(candidates)
    there = {Path(parent, name) for parent, _, names in os.walk(folder) for name in names}
    others = sorted(each for each in there - own if _real_place(each) not in originals)
    if not others:
        return
    if settings.overwrite:
        for each in others:
            each.unlink()
        print(f"{folder}: {len(others)} files removed that are not of this sample", file=sys.stderr)
        return
    found = f"warning: {folder}: {len(others)} files, first {others[0].relative_to(folder)}, are not of this sample"
    print(one_line(f"{found} (another --seed or --nums?) and stay; --overwrite removes them"), file=sys.stderr)


def _originals(candidates: Candidates) -> set[str]:
    """The paths of the benchmark's own videos, and of the links to them."""
    return {place for video in candidates.video_bytes for place in (os.path.realpath(video), _real_place(video))}


def _real_place(path: Path) -> str:
    """The real path of the entry itself: if it is a link, it is not followed."""
    return os.path.join(os.path.realpath(path.parent), path.name)


def for_each_file(work: Callable[[F], T], files: Collection[F], num_workers: int, label: str) -> dict[F, T]:
    """Call `work` on each file in `num_workers` threads; return the results by file, in the order of `files`."""
    results: dict[F, T] = {}
    with ThreadPoolExecutor(num_workers) as executor, closing(StatusLine()) as status:
        for file, result in zip(files, executor.map(work, files), strict=True):
            results[file] = result
            status.show(f"{label}: {len(results)}/{len(files)} files")
    return results


def size_and_hash(path: Path) -> SizeAndHash:
    return SizeAndHash(path.stat().st_size, sha256_of_file(path))


def _is_copy(target: Path, source: Path) -> bool:
    """Whether `target` is a separate file of the same size, not a link of either kind to the source."""
    if target.is_symlink() or not target.is_file():
        return False
    return target.stat().st_size == source.stat().st_size and not target.samefile(source)


def _copy(source: Path, target: Path) -> SizeAndHash:
    """Write under another name, read back, rename: the final name is always a complete video."""
    expected = size_and_hash(source)
    if not (_is_copy(target, source) and sha256_of_file(target) == expected.sha256):
        with replacing(target) as part:
            shutil.copyfile(source, part)
            if size_and_hash(part) != expected:
                raise InputError(f"{target}: the copy differs from {source}; check the disk and start again")
    return expected


def _link(source: Path, target: Path, symbolic: bool) -> SizeAndHash:
    if not (target.is_symlink() == symbolic and target.exists() and target.samefile(source)):
        with replacing(target) as part:
            (os.symlink if symbolic else os.link)(source.resolve(), part)
    return size_and_hash(target)


def write_json_files(
    sample: Sample, candidates: Candidates, settings: SampleSettings, videos: Mapping[str, SizeAndHash]
) -> list[Path]:
    """Write QA file, answer file and manifest; return their paths. Questions are in the order of the draw, so that
    --limit takes a fair part."""
    sources = {name: qa_file(settings.qa_root, name) for name in settings.names}
    rows = {name: read_json(path) for name, path in sources.items()}
    qa_rows: dict[str, Any] = {}
    answer_rows: dict[str, dict[str, Any]] = {}
    for each in sample.questions:
        key = f"{each.dataset}/{each.id}"
        place = PurePosixPath(settings.output_folder.resolve().name, SAMPLE_NAME, sample_path(each))
        qa_rows[key] = {**rows[each.dataset][each.id], "vid_path": str(place), "dataset": each.dataset}
        answer_rows.setdefault(each.dataset, {})[key] = {"answer": candidates.answers[each.dataset, each.id]}
    paths = [settings.json_folder / name for name in (SAMPLE_QA_FILE, SAMPLE_ANSWER_FILE, SAMPLE_MANIFEST_FILE)]
    inputs = [settings.answer_path, *sources.values(), *([settings.exclude_path] if settings.exclude_path else [])]
    write_json(paths[0], qa_rows)
    write_json(paths[1], answer_rows)
    write_json(paths[2], build_manifest(sample, settings, inputs, paths[:2], videos))
    return paths


def build_manifest(
    sample: Sample,
    settings: SampleSettings,
    inputs: Iterable[Path],
    outputs: Iterable[Path],
    videos: Mapping[str, SizeAndHash],
) -> dict[str, Any]:
    """Build the manifest. It contains no path of this machine, so that two teams' manifests are equal to the byte."""
    num_questions = Counter(each.dataset for each in sample.questions)
    num_videos = Counter(dataset for dataset, _ in {(each.dataset, each.video) for each in sample.questions})
    return {
        "seed": settings.seed,
        "nums": settings.nums,
        "strategy": settings.strategy,
        "one_per_video": settings.one_per_video,
        "check_videos": settings.check_videos,
        "undecodable": list(sample.undecodable),
        "datasets": {
            name: {"questions": num_questions[name], "videos": num_videos[name]}
            for name in settings.names
            if num_questions[name]
        },
        "inputs_sha256": {path.name: sha256_of_file(path) for path in inputs},
        "outputs_sha256": {path.name: sha256_of_file(path) for path in outputs},
        "videos_folder": str(PurePosixPath(settings.output_folder.resolve().name, SAMPLE_NAME)),
        "videos_bytes": {name: each.num_bytes for name, each in videos.items()},
        "videos_sha256": {name: each.sha256 for name, each in videos.items()},
    }
