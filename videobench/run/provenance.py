"""What is stored beside each reply: which run it comes from, and what that run's numbers depend on."""

from collections.abc import Callable, Collection, Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from videobench.data.dataset import SAMPLE_QA_FILE
from videobench.data.manifest import SAMPLE_MANIFEST_FILE, load_manifest, manifest_facts
from videobench.data.rows import Row, Run
from videobench.device.devices import Device, device_facts
from videobench.errors import InputError
from videobench.files import sha256_of_file
from videobench.jobs.job import Job
from videobench.model.weights import start_hashing
from videobench.run.options import RunSettings

if TYPE_CHECKING:
    from videobench.model.checkpoint import Checkpoint


SUITE_VERSION = "0.2.0"


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


def start_hashing_weights(job: Job, checkpoint: "Checkpoint", earlier: Collection[str]) -> Callable[[], str]:
    """Starts to compute `weights_sha256`, over all bytes of the weights; the function that it returns waits for it.

    That one raises InputError where a file cannot be read, where the weights are not those of `earlier` replies, and
    where they are not those of the first machine."""
    # A reply is bound to its weights in two steps. The fingerprint in the identity (16 blocks of each file) takes no
    # time: a journal of other settings or another model is refused before the weights are read. Their hash is known
    # once they have been read: it is computed while they load, out of the same pages of memory, by threads of one
    # process on each machine. The first answer waits for it, and each answer's `run` holds it.
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
    import av
    import torch
    import transformers

    return known | {
        **device_facts(device),
        "tensor_parallel": settings.tensor_parallel,
        "checkpoint": settings.model_path.resolve().name,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "av": av.__version__,
        "suite": SUITE_VERSION,
    }
