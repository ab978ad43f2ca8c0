"""What is stored beside each reply: which run it comes from, and what that run's numbers depend on."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from videobench.data.dataset import SAMPLE_QA_FILE
from videobench.data.manifest import SAMPLE_MANIFEST_FILE, load_manifest, manifest_facts
from videobench.device.devices import Device, device_facts
from videobench.files import sha256_of_file
from videobench.results.rows import Row, Run
from videobench.run.options import RunSettings

if TYPE_CHECKING:
    from videobench.model.checkpoint import Checkpoint


SUITE_VERSION = "0.1.0"


def run_identity(settings: RunSettings, checkpoint: "Checkpoint") -> Run:
    """What a reply depends on: a journal goes on only where all of this is the same. Not the batch size: after running
    out of memory a run must be able to go on with a smaller one; the rows hold it. Nor the QA file: each row holds its
    own question, so that a sample can be enlarged."""
    return {
        "device": settings.device,
        "dtype": settings.dtype,
        "num_frames": settings.num_frames,
        "max_new_tokens": settings.max_new_tokens,
        "max_input_length": settings.max_input_length,
        "checkpoint_sha256": checkpoint.sha256,
        "deterministic": settings.deterministic,
    }


def source_facts(qa_path: Path) -> Run:
    """Which questions: hashes of the QA file, and of the manifest beside it where the file is a sample's.

    Raises InputError where it is not the file of that manifest."""
    qa_sha256 = sha256_of_file(qa_path)
    return {"qa_sha256": qa_sha256, **manifest_facts(qa_path, qa_sha256)}


def foreign_videos(qa_path: Path, rows: Iterable[Row]) -> list[str]:
    """The vid_paths of `rows` whose video is not the one that the sample's manifest lists."""
    path = qa_path.with_name(SAMPLE_MANIFEST_FILE)
    if qa_path.name != SAMPLE_QA_FILE or not path.is_file():
        return []
    manifest = load_manifest(path)
    listed = {f"{manifest.videos_folder}/{name}": facts.sha256 for name, facts in manifest.videos.items()}
    seen = {row["vid_path"]: row["video_sha256"] for row in rows if row.get("video_sha256")}
    return [vid_path for vid_path, sha256 in seen.items() if listed.get(vid_path, sha256) != sha256]


def run_facts(settings: RunSettings, device: Device, known: Run) -> Run:
    """The `run` entry of every row: what is `known`, identity and source, and what else explains a difference."""
    import torch
    import transformers

    return known | {
        **device_facts(device),
        "tensor_parallel": settings.tensor_parallel,
        "checkpoint": settings.model_path.resolve().name,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "suite": SUITE_VERSION,
    }
