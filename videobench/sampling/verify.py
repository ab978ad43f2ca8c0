"""--verify: was a sample copied to this machine correctly? --check_videos: do its videos decode?"""

import os
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from videobench.console import StatusLine, one_line
from videobench.data.dataset import SAMPLE_NAME, Manifest, load_manifest
from videobench.device.devices import open_device
from videobench.errors import InputError
from videobench.files import sha256_of_file
from videobench.sampling.placing import for_each_file
from videobench.sampling.selection import Candidates, Sample, SampleSettings, choose, sample_path
from videobench.video.pixels import DEFAULT_NUM_FRAMES, PixelSpec

# Where a sample's videos may be: levels above the manifest's folder, and the path below; {} is the last part of
# --sampling_output_folder and sampling_data. First a sample in one folder, last the layout of the whole benchmark.
PLACES = ((0, SAMPLE_NAME), (0, "{}"), (1, "{}"), (2, "{}"), (2, "VideoBench/{}"))


def verify_sample(manifest_path: Path, output_folder: Path | None, num_workers: int) -> int:
    """Return exit status 0 after one line on stdout; if files are wrong, name them on stderr and raise InputError.

    QA and answer file are beside the manifest; `output_folder` holds sampling_data, or None: search near the manifest.
    Every file is compared by size, then by hash."""
    manifest = load_manifest(manifest_path)
    folder = find_videos_folder(manifest, output_folder)
    expected: dict[Path, tuple[str, int | None]] = {
        manifest.path.parent / name: (digest, None) for name, digest in manifest.json_sha256.items()
    }
    expected |= {folder / name: (each.sha256, each.num_bytes) for name, each in manifest.videos.items()}
    faults = for_each_file(lambda path: _fault(path, *expected[path]), expected, num_workers, "verify")
    wrong = {path: fault for path, fault in faults.items() if fault}
    for path, fault in wrong.items():
        print(f"wrong: {one_line(f'{path}: {fault}')}", file=sys.stderr)
    if wrong:
        raise InputError(
            f"{manifest.path}: {len(wrong)} of {len(faults)} files of the sample are wrong; copy them again"
        )
    size = sum(each.num_bytes for each in manifest.videos.values())
    print(f"{manifest.path}: the sample is whole: {len(manifest.videos)} videos ({size} bytes) in {folder}")
    return 0


def find_videos_folder(manifest: Manifest, output_folder: Path | None) -> Path:
    """Find sampling_data in the named folder, or else in the first of PLACES that exists. Raises InputError if none
    does."""
    if output_folder is not None:
        places = [output_folder / SAMPLE_NAME, *([output_folder] if output_folder.name == SAMPLE_NAME else [])]
    else:
        above = Path(os.path.abspath(manifest.path)).parents
        places = [above[up] / place.format(manifest.videos_folder) for up, place in PLACES if up < len(above)]
    for place in places:
        if place.is_dir():
            return place
    raise InputError(
        f"{manifest.path}: found no folder {' or '.join(map(str, places))}; name the one that holds {SAMPLE_NAME} with "
        "--sampling_output_folder"
    )


def _fault(path: Path, sha256: str, num_bytes: int | None) -> str | None:
    """What is wrong with a file, None if nothing is. For JSON files a manifest holds no size."""
    try:
        found_bytes = path.stat().st_size
        if num_bytes not in (found_bytes, None):
            return f"has {found_bytes} bytes, not {num_bytes}"
        return None if sha256_of_file(path) == sha256 else "has other content (its SHA-256 differs)"
    except FileNotFoundError:
        if path.is_symlink():
            return f"is a link to {os.readlink(path)}, which is missing; cp -rL copies the files that links lead to"
        return "missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


EDGE = 32  # pixels of the decoded frames, which are not used


def choose_decodable(candidates: Candidates, settings: SampleSettings) -> Sample:
    """Choose like `choose`, but leave out videos that do not decode or whose decoder hangs or dies.

    Their questions are replaced by the next in the draw; the reasons go to stderr."""
    open_device("cpu")  # before torch is imported
    from videobench.video.pool import DecodePool

    spec = PixelSpec(EDGE, EDGE, EDGE, "bilinear", mean=(0, 0, 0), std=(1, 1, 1))
    tried: set[Path] = set()
    undecodable: set[Path] = set()
    with DecodePool(spec, DEFAULT_NUM_FRAMES, settings.num_workers) as pool:
        while True:
            sample = choose(candidates, settings, undecodable)
            untried = list(dict.fromkeys(each.video for each in sample.questions if each.video not in tried))
            if not untried:
                names = {str(sample_path(each)) for each in candidates.questions if each.video in undecodable}
                return replace(sample, undecodable=tuple(sorted(names)))
            reasons: dict[Path, str] = {}
            with closing(StatusLine()) as status:
                for number, prepared in enumerate(pool.prepare(untried), 1):
                    if prepared.error is not None:
                        reasons[prepared.video] = prepared.error
                    status.show(f"decode: {number}/{len(untried)} videos")
            for reason in reasons.values():
                print(f"left out: {one_line(reason)}", file=sys.stderr)
            undecodable.update(reasons)
            tried.update(untried)
