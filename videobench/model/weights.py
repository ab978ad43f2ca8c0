"""The safetensors files of a checkpoint: by their headers the weights that its config asks for, by their hash the same
as before."""

import copy
import hashlib
import math
import os
import re
import stat
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from videobench.errors import InputError
from videobench.files import open_regular, read_json, sha256_of_file

if TYPE_CHECKING:
    from transformers import LlavaNextVideoConfig

FINGERPRINT_SAMPLES = 16  # blocks of a weight file that enter the fingerprint, which is compared before any is read
FINGERPRINT_BLOCK_BYTES = 1 << 16
MAX_SMALL_FILE_BYTES = 1 << 26  # of all files but the weights; the largest, a tokenizer, has some megabytes
WEIGHT_DTYPES = ("F16", "BF16", "F32")  # as safetensors names them
# In old copies: numbers that transformers today computes, and leaves in the files.
COMPUTED = re.compile(r".*\.(position_ids|rotary_emb\.inv_freq)")
# Parts of a weight's name that the versions of transformers set or leave out: `language_model.model.layers.0.` is
# `model.language_model.layers.0.` since 4.52, and 5.x leaves out `vision_model`.
PREFIXES = re.compile(r"\b(model|language_model|vision_model)\.")
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
    """Raises InputError where a checkpoint's path is no folder, or where a file in it is missing behind its link, no
    regular one, or larger than any but the weights can be."""
    if not path.is_dir():
        fix = "--model_path is the folder of a LLaVA-NeXT-Video checkpoint"
        if not path.exists() and path.name.startswith("LLaVA-NeXT-Video"):
            fix = f"hf download llava-hf/{path.name} --local-dir {path.name}, then --model_path {path.name}"
        raise InputError(f"{path}: not a folder; {fix}")
    if (path / "adapter_config.json").exists():  # transformers would load the checkpoint that it names
        raise InputError(f"{path}: holds an adapter (adapter_config.json); merge it into a checkpoint of its own")
    for each in sorted([*path.iterdir(), *path.glob("additional_chat_templates/*")]):
        try:
            state = each.stat()
        except OSError as error:
            raise InputError(f"{each}: cannot be read ({error.strerror}); get the checkpoint again") from None
        if not stat.S_ISREG(state.st_mode) and not stat.S_ISDIR(state.st_mode):
            raise InputError(f"{each}: neither a regular file nor a folder; get the checkpoint again")
        if (is_small_file(each) or each.suffix == ".safetensors") and not os.access(each, os.R_OK):
            raise InputError(f"{each}: this user may not read it; check the permissions")
        if is_small_file(each) and state.st_size > MAX_SMALL_FILE_BYTES:
            raise InputError(f"{each}: {state.st_size} bytes, more than such a file has; get it again")


def is_small_file(path: Path) -> bool:
    """Whether a file of a checkpoint is one of settings, tokenizer or template, by its name."""
    return path.suffix in (".json", ".jinja", ".model", ".txt")


def read_weight_headers(path: Path) -> WeightFiles:
    """Of a checkpoint's folder; raises InputError, naming the file, unless each file is whole by its own header.

    Pickled weights are refused: unpickling runs their code."""
    index = path / "model.safetensors.index.json"
    # As transformers: where both are there, the index is not read.
    by_weight = _read_index(index) if index.is_file() and not (path / "model.safetensors").is_file() else {}
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


def _read_index(path: Path) -> dict[str, str]:
    """Weight -> name of the file that holds it, which lies beside the index."""
    content = read_json(path)
    by_weight = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(by_weight, dict) or not by_weight:
        raise InputError(f"{path}: holds no weight_map; download it again")
    for name in by_weight.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise InputError(f"{path}: {name!r} is no safetensors file beside it; download it again")
    return by_weight


def _read_header(path: Path) -> dict[str, tuple[int, ...]]:
    """Weight -> shape. safetensors itself checks that header, offsets, dtypes, shapes and the file's size agree."""
    try:
        with safe_open(path, framework="np") as file:
            weights = {name: file.get_slice(name) for name in file.keys() if not COMPUTED.fullmatch(name)}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: not a whole safetensors file ({error}); download it again") from None
    for name, weight in weights.items():
        if weight.get_dtype() not in WEIGHT_DTYPES:
            raise InputError(
                f"{path}: {name} is of dtype {weight.get_dtype()}, which is not supported; "
                "get the checkpoint in 16 or 32 bits"
            )
    return {name: tuple(weight.get_shape()) for name, weight in weights.items()}


def check_weights(path: Path, weights: WeightFiles, config: "LlavaNextVideoConfig") -> None:
    """Raises InputError unless the files hold every weight of the config's model, in its shape, and no other.

    transformers fills what is missing with random numbers, and drops what it does not know, as the layers beyond those
    that a config states."""
    expected = _expected_shapes(config)
    found = {PREFIXES.sub("", name): name for name in weights.shapes}
    if config.tie_word_embeddings and "lm_head.weight" not in found:
        del expected["lm_head.weight"]
    missing, unknown = expected.keys() - found.keys(), found.keys() - expected.keys()
    unknown = {found[name] for name in unknown} | {*weights.shapes} - {*found.values()}  # and what is there twice
    for words, names in (("missing", missing), ("not in the model of its config.json", unknown)):
        if names:
            raise InputError(f"{path}: {len(names)} weights {words}, {min(names)} first; get the checkpoint again")
    for name, shape in expected.items():
        if weights.shapes[found[name]] != shape:
            raise InputError(
                f"{path}: {found[name]} is of shape {_shown(weights.shapes[found[name]])}, by config.json of "
                f"{_shown(shape)}; the files are of different uploads: get the checkpoint again"
            )


def _expected_shapes(config: "LlavaNextVideoConfig") -> dict[str, tuple[int, ...]]:
    """Of all weights, by their names without PREFIXES: of a model without numbers, one layer of it for all."""
    import torch
    from transformers import LlavaNextVideoForConditionalGeneration

    parts = {"layers": config.text_config, "vision_tower.encoder.layers": config.vision_config}
    counts = {name: int(part.num_hidden_layers) for name, part in parts.items()}
    config = copy.deepcopy(config)
    config.text_config.num_hidden_layers = config.vision_config.num_hidden_layers = 1
    with torch.device("meta"):
        weights = LlavaNextVideoForConditionalGeneration(config).state_dict()
    shapes: dict[str, tuple[int, ...]] = {}
    for name, weight in weights.items():
        name = PREFIXES.sub("", name)
        layers, _, rest = name.partition(".0.")
        copies = [f"{layers}.{number}.{rest}" for number in range(counts[layers])] if layers in counts else [name]
        shapes |= dict.fromkeys(copies, tuple(weight.shape))
    return shapes


def _shown(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


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
