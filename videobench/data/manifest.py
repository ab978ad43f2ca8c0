"""A sample's manifest: what the sample was made of and what it holds, so that a copy of it can be checked."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from videobench.data.dataset import CONTROL_CHARACTER, SAMPLE_QA_FILE
from videobench.errors import InputError
from videobench.files import read_json, sha256_of_file

SAMPLE_ANSWER_FILE = "sampling_answer.json"
SAMPLE_MANIFEST_FILE = "sampling_manifest.json"


@dataclass(frozen=True)
class FileFacts:
    num_bytes: int
    sha256: str  # hexadecimal


@dataclass(frozen=True)
class Manifest:
    """What --verify and the run scripts need of the file."""

    path: Path
    videos_folder: str  # "Eval_video/sampling_data": as in the QA file's vid_path
    json_sha256: dict[str, str]  # file name -> SHA-256 of the QA and the answer file
    videos: dict[str, FileFacts]  # by "<dataset>/<file>"


def load_manifest(path: Path) -> Manifest:
    """Raises InputError where the file is not a manifest of this suite, or names what lies outside of the sample."""
    content = read_json(path)
    try:
        sizes, hashes = content["videos_bytes"], content["videos_sha256"]
        manifest = Manifest(
            path=path,
            videos_folder=_place(_text(content["videos_folder"])),
            json_sha256={_file_name(name): _text(digest) for name, digest in content["outputs_sha256"].items()},
            videos={_place(name): FileFacts(_size(sizes[name]), _text(digest)) for name, digest in hashes.items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        found = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise InputError(
            f"{path}: not the {SAMPLE_MANIFEST_FILE} of a sample ({found}); get it from where the sample was made"
        ) from None
    if not manifest.videos or not manifest.json_sha256 or sizes.keys() != hashes.keys():
        raise InputError(f"{path}: names no whole sample; get it from where the sample was made")
    return manifest


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value


def _place(name: str) -> str:
    """Below the sample's folder and nowhere else; "" and "." would be that folder itself."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or CONTROL_CHARACTER.search(name):
        raise ValueError(f"{name!r} is no place below the sample's folder")
    return name


def _file_name(name: str) -> str:
    if PurePosixPath(_place(name)).parts != (name,):
        raise ValueError(f"{name!r} is no file name")
    return name


def _size(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is no size in bytes")
    return value


def manifest_facts(qa_path: Path, qa_sha256: str) -> dict[str, str]:
    """What a run stores of the manifest beside a sample's QA file; nothing for another set or where there is none.

    Raises InputError where the manifest tells of another QA file: the sample was made anew, or changed, in part."""
    path = qa_path.with_name(SAMPLE_MANIFEST_FILE)
    if qa_path.name != SAMPLE_QA_FILE or not path.is_file():
        return {}
    if load_manifest(path).json_sha256.get(qa_path.name) != qa_sha256:
        raise InputError(
            f"{qa_path}: not the file that {path.name} beside it was written with; make or copy the sample anew"
        )
    return {"manifest_sha256": sha256_of_file(path)}
