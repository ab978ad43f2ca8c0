"""A sample's manifest: what the sample was made from and what it contains, so that a copy of it can be checked."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from videobench.data.dataset import CONTROL_CHARACTER, SAMPLE_QA_FILE
from videobench.errors import InputError
from videobench.files import read_json, sha256_of_file

SAMPLE_ANSWER_FILE = "sampling_answer.json"
SAMPLE_MANIFEST_FILE = "sampling_manifest.json"


@dataclass(frozen=True)
class SizeAndHash:
    """What identifies the content of a file."""

    num_bytes: int
    sha256: str  # hexadecimal


@dataclass(frozen=True)
class Manifest:
    """The part of a manifest that --verify and the run scripts need (whole: sampling/placing.build_manifest)."""

    path: Path
    videos_folder: str  # "Eval_video/sampling_data": as in the QA file's vid_path
    json_sha256: dict[str, str]  # name of the QA and the answer file, beside the manifest -> hexadecimal SHA-256
    videos: dict[str, SizeAndHash]  # by the place below sampling_data, "<dataset>/<file>"


def load_manifest(path: Path) -> Manifest:
    """Raises InputError if the file is not a manifest of this suite, or names a file outside of the sample."""
    content = read_json(path)
    try:
        sizes, hashes = content["videos_bytes"], content["videos_sha256"]
        manifest = Manifest(
            path=path,
            videos_folder=_require_place(_require_text(content["videos_folder"])),
            json_sha256={
                _require_place(name, parts=1): _require_text(digest)
                for name, digest in content["outputs_sha256"].items()
            },
            videos={
                _require_place(name): SizeAndHash(_require_size(sizes[name]), _require_text(digest))
                for name, digest in hashes.items()
            },
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        found = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise InputError(
            f"{path}: not the {SAMPLE_MANIFEST_FILE} of a sample ({found}); get it from where the sample was made"
        ) from None
    if not manifest.videos or not manifest.json_sha256 or sizes.keys() != hashes.keys():
        raise InputError(f"{path}: does not describe a whole sample; get it from where the sample was made")
    return manifest


def _require_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value


def _require_place(name: str, parts: int | None = None) -> str:
    """A path below the sample's folder, of so many parts; not that folder itself ("", ".")."""
    found = PurePosixPath(name).parts
    if not found or name.startswith("/") or ".." in found or CONTROL_CHARACTER.search(name):
        raise ValueError(f"{name!r} is not a path below the sample's folder")
    if parts not in (None, len(found)) or (parts == 1 and found[0] != name):
        raise ValueError(f"{name!r} is not a file name")
    return name


def _require_size(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is not a size in bytes")
    return value


def manifest_hash(qa_path: Path, qa_sha256: str) -> dict[str, str]:
    """What a run stores of the manifest beside a sample's QA file: {} for another set, or where there is no manifest.

    Raises InputError if the manifest belongs to another QA file: part of the sample was replaced or changed."""
    path = qa_path.with_name(SAMPLE_MANIFEST_FILE)
    if qa_path.name != SAMPLE_QA_FILE or not path.is_file():
        return {}
    if load_manifest(path).json_sha256.get(qa_path.name) != qa_sha256:
        raise InputError(
            f"{qa_path}: not the file that {path.name} beside it was written with; make or copy the sample again"
        )
    return {"manifest_sha256": sha256_of_file(path)}
