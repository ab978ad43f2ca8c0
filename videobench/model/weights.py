"""The safetensors files of a checkpoint: are they there and whole, which weights do they hold, and their hash."""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Thread

from safetensors import SafetensorError, safe_open

from videobench.errors import InputError
from videobench.files import open_regular, read_json, sha256_of_file

FINGERPRINT_SAMPLES = 16  # blocks of a weight file that enter the fingerprint, which is compared before any is read
FINGERPRINT_BLOCK_BYTES = 1 << 16
# In old copies: numbers that transformers today computes, and leaves in the files.
COMPUTED = re.compile(r".*\.(position_ids|rotary_emb\.inv_freq)")
HASH_THREADS = 4  # SHA-256 takes 1 to 2 GB/s on one core: these keep up with a fast disk


@dataclass(frozen=True)
class WeightFiles:
    """A checkpoint's weights as they lie on the disk."""

    paths: tuple[Path, ...]  # in the order of their names
    shapes: Mapping[str, tuple[int, ...]]  # by a weight's name as the files have it; without those COMPUTED

    @cached_property
    def sizes(self) -> dict[str, int]:
        """By the name of a weight: how many numbers it has."""
        return {name: math.prod(shape) for name, shape in self.shapes.items()}

    @property
    def total(self) -> int:
        """Numbers in all weights."""
        return sum(self.sizes.values())

    @property
    def in_vision(self) -> int:
        """Numbers in the vision tower."""
        return sum(size for name, size in self.sizes.items() if "vision_tower" in name)

    @property
    def in_rest(self) -> int:
        """Numbers in projector and text model."""
        return self.total - self.in_vision


def check_folder(path: Path) -> None:
    """Raises InputError if a checkpoint's path is not a folder, or is that of an adapter."""
    if not path.is_dir():
        fix = "--model_path is the folder of a LLaVA-NeXT-Video checkpoint"
        if not path.exists() and path.name.startswith("LLaVA-NeXT-Video"):
            fix = f"hf download llava-hf/{path.name} --local-dir {path.name}, then --model_path {path.name}"
        raise InputError(f"{path}: not a folder; {fix}")
    if (path / "adapter_config.json").exists():  # transformers would load the checkpoint that it names
        raise InputError(f"{path}: holds an adapter (adapter_config.json); merge it into a checkpoint of its own")


def read_weight_headers(path: Path) -> WeightFiles:
    """Reads the headers of a checkpoint's weight files; their numbers stay on the disk.

    Raises InputError, naming the file, if one is missing or cut short. Pickled weights are refused: unpickling runs
    their code."""
    index = path / "model.safetensors.index.json"
    # As transformers: if both are there, the index is not read.
    has_index = index.is_file() and not (path / "model.safetensors").is_file()
    by_weight: dict[str, str] = read_json(index)["weight_map"] if has_index else {}
    names = sorted(set(by_weight.values())) or ["model.safetensors"]
    missing = [name for name in names if not (path / name).is_file()]
    if missing:
        pickled = " (only pickled .bin weights are there, which are not loaded)" if list(path.glob("*.bin")) else ""
        raise InputError(f"{path}: {', '.join(missing)} missing{pickled}; download the checkpoint's safetensors files")
    held = {name: _read_header(path / name) for name in names}
    for weight, name in by_weight.items():
        if weight not in held[name] and not COMPUTED.fullmatch(weight):
            raise InputError(f"{path / name}: {weight} is not in it, though {index.name} lists it; download both again")
    shapes = {weight: shape for file in held.values() for weight, shape in file.items()}
    return WeightFiles(tuple(path / name for name in names), shapes)


def _read_header(path: Path) -> dict[str, tuple[int, ...]]:
    """Weight -> shape. safetensors itself compares the header with the file's size."""
    try:
        with open_regular(path), safe_open(path, framework="np") as file:
            names = [name for name in file.keys() if not COMPUTED.fullmatch(name)]  # noqa: SIM118
            return {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror or error}); check it, or download it again"
        ) from None
    except SafetensorError as error:
        raise InputError(f"{path}: not a whole safetensors file ({error}); download it again") from None


def sampled_bytes(path: Path) -> bytes:
    """Blocks spread evenly over a file, which stand for its whole content in a fingerprint."""
    size = path.stat().st_size
    blocks = []
    with open_regular(path) as file:
        for index in range(FINGERPRINT_SAMPLES):
            file.seek(index * max(size - FINGERPRINT_BLOCK_BYTES, 0) // (FINGERPRINT_SAMPLES - 1))
            blocks.append(file.read(FINGERPRINT_BLOCK_BYTES))
    return b"".join(blocks)


def start_hashing(paths: Sequence[Path]) -> "Future[str]":
    """The SHA-256 of files, computed by threads: of their hashes and names as `sha256sum` prints them, in this order.

    The future raises InputError where a file cannot be read. The threads end with the process: a run that is stopped
    does not wait for them."""
    hashes: dict[Path, Future[str]] = {path: Future() for path in paths}
    todo, whole = iter(hashes.items()), Future[str]()

    def hash_some() -> None:
        for path, future in todo:  # the threads share the iterator: each file goes to one of them
            try:
                future.set_result(sha256_of_file(path))
            except OSError as error:
                future.set_exception(InputError(f"{path}: cannot be read ({error.strerror}); get the file again"))

    def join() -> None:
        try:
            lines = "".join(f"{future.result()}  {path.name}\n" for path, future in hashes.items())
            whole.set_result(hashlib.sha256(lines.encode()).hexdigest())
        except InputError as error:
            whole.set_exception(error)

    for work in [hash_some] * min(HASH_THREADS, len(paths)) + [join]:
        Thread(target=work, daemon=True).start()
    return whole
