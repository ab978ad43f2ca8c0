"""The safetensors files of a checkpoint, by their headers alone: are they whole, and how many numbers do they hold?"""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from videobench.errors import InputError
from videobench.files import parse_json, read_json

FINGERPRINT_SAMPLES = 16  # blocks of a weight file that enter the fingerprint: reading 69 GB whole would take minutes
FINGERPRINT_BLOCK_BYTES = 1 << 16
MAX_HEADER_BYTES = 100_000_000  # of a safetensors file; the limit of the library that loads it
WEIGHT_DTYPES = ("F16", "BF16", "F32", "I64")  # as safetensors calls them; I64 are the position ids of old copies


@dataclass(frozen=True)
class WeightFiles:
    """A checkpoint's weights as they lie on the disk."""

    paths: tuple[Path, ...]
    sizes: Mapping[str, int]  # by the name of a weight: how many numbers it has

    @property
    def total(self) -> int:
        return sum(self.sizes.values())

    @property
    def in_vision(self) -> int:
        return sum(size for name, size in self.sizes.items() if "vision_tower" in name)

    @property
    def in_rest(self) -> int:
        """In projector and text model."""
        return self.total - self.in_vision


def check_folder(path: Path) -> None:
    """Raises InputError where a checkpoint's path is no folder."""
    if not path.is_dir():
        raise InputError(f"{path}: not a folder; --model_path is the folder of a LLaVA-NeXT-Video checkpoint")


def read_weight_headers(path: Path) -> WeightFiles:
    """Of a checkpoint's folder; raises InputError, naming the file, unless each file is whole by its own header.

    Pickled weights are refused: unpickling runs their code."""
    index = path / "model.safetensors.index.json"
    by_weight = _read_index(index) if index.is_file() else {}
    names = sorted(set(by_weight.values())) or ["model.safetensors"]
    missing = [name for name in names if not (path / name).is_file()]
    if missing:
        pickled = " (only pickled .bin weights are there, which are not loaded)" if list(path.glob("*.bin")) else ""
        raise InputError(f"{path}: {', '.join(missing)} missing{pickled}; download the checkpoint's safetensors files")
    held = {name: _check_weights(path / name) for name in names}
    for weight, name in by_weight.items():
        if weight not in held[name]:
            raise InputError(f"{path / name}: {weight} is not in it, but {index.name} says so; download both anew")
    sizes = {weight: size for file in held.values() for weight, size in file.items()}
    return WeightFiles(tuple(path / name for name in names), sizes)


def _read_index(path: Path) -> dict[str, str]:
    """Weight -> name of the file that holds it, which lies beside the index."""
    content = read_json(path)
    by_weight = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(by_weight, dict) or not by_weight:
        raise InputError(f"{path}: holds no weight_map; download it anew")
    for name in by_weight.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise InputError(f"{path}: {name!r} is no safetensors file beside it; download it anew")
    return by_weight


def _check_weights(path: Path) -> dict[str, int]:
    """Weight -> how many numbers it has, by the file's header: 8 bytes of length, the header, the tensors.

    Raises InputError where the size shows that it was cut short, or where a weight is not in 16 or 32 bits."""
    try:
        with path.open("rb") as file:
            header_bytes = struct.unpack("<Q", file.read(8))[0]
            header = parse_json(file.read(min(header_bytes, MAX_HEADER_BYTES)).decode())
        weights = {name: entry for name, entry in header.items() if name != "__metadata__"}
        whole = 8 + header_bytes + max((int(entry["data_offsets"][1]) for entry in weights.values()), default=0)
        others = [name for name, entry in weights.items() if entry["dtype"] not in WEIGHT_DTYPES]
        sizes = {name: int(math.prod(entry["shape"])) for name, entry in weights.items()}
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError):
        raise InputError(f"{path}: not a safetensors file; download it anew") from None
    if path.stat().st_size != whole:
        raise InputError(f"{path}: {path.stat().st_size} bytes, but its header tells of {whole}; download it anew")
    if others:
        raise InputError(
            f"{path}: {others[0]} is of dtype {weights[others[0]]['dtype']}, which is not supported; "
            "get the checkpoint in 16 or 32 bits"
        )
    return sizes


def sampled_bytes(path: Path) -> bytes:
    """Blocks spread evenly over a file, which stand for its whole content in a fingerprint."""
    size = path.stat().st_size
    blocks = []
    with path.open("rb") as file:
        for index in range(FINGERPRINT_SAMPLES):
            file.seek(index * max(size - FINGERPRINT_BLOCK_BYTES, 0) // (FINGERPRINT_SAMPLES - 1))
            blocks.append(file.read(FINGERPRINT_BLOCK_BYTES))
    return b"".join(blocks)
