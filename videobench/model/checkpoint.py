"""Read and check everything in a checkpoint's folder except the weights' values.

A checkpoint is trusted as transformers trusts it: weights only from safetensors, no remote code, no downloads.
"""

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from videobench.console import warn_once
from videobench.device.devices import LENGTH_MULTIPLES
from videobench.errors import InputError
from videobench.files import open_regular, read_json, sha256_of_file
from videobench.model.prompts import VIDEO_PLACEHOLDER, PromptBuilder
from videobench.video.pixels import PixelSpec, load_pixel_spec

if TYPE_CHECKING:
    from transformers import LlavaNextVideoConfig, PreTrainedTokenizerBase

# Marks the question in a rendered template. If a template writes it as Python or JSON, the tab becomes "\t", escaped.
PROBE = "What is\tshown?"

# The turns of the three known text backbones, for checkpoints without a template: Vicuna (7B, 7B-DPO), Mistral
# Instruct (7B-32K), ChatML (34B, 34B-DPO). Source: the model cards of the five checkpoints.
TURNS = {
    "vicuna": "USER: <video>\n{} ASSISTANT:",
    "mistral": "[INST] <video>\n{} [/INST]",
    "chatml": "<|im_start|>user\n<video>\n{}<|im_end|>\n<|im_start|>assistant\n",
}


def known_form(text_model_type: str, tokenizer: "PreTrainedTokenizerBase") -> str:
    """Find a text backbone's key in TURNS: Mistral by its config, Yi by ChatML's token, else Vicuna."""
    if text_model_type == "mistral":
        return "mistral"
    return "chatml" if "<|im_start|>" in tokenizer.get_vocab() else "vicuna"


def find_template(checkpoint: Path, tokenizer: "PreTrainedTokenizerBase") -> str | None:
    """Find a checkpoint's chat template in any of the places where versions of transformers store it.

    The processor's template comes first: the tokenizer's may be the text backbone's, which does not support videos."""
    if (path := checkpoint / "chat_template.jinja").is_file():
        return path.read_text("utf-8")
    for name in ("chat_template.json", "processor_config.json"):
        if (path := checkpoint / name).is_file():
            content = read_json(path)
            if isinstance(content, dict) and isinstance(content.get("chat_template"), str):
                return str(content["chat_template"])
    template = tokenizer.chat_template
    return template.get("default") if isinstance(template, dict) else template


def renderer(template: str, tokenizer: "PreTrainedTokenizerBase") -> Callable[[str], str]:
    """Return a function that renders a question and one video with `template`. Raise ValueError if the result does not
    have both, video first."""
    apply = partial(tokenizer.apply_chat_template, chat_template=template, add_generation_prompt=True, tokenize=False)

    def of_parts(question: str) -> str:  # the form for processors' templates
        content = [{"type": "video"}, {"type": "text", "text": question}]
        return str(apply([{"role": "user", "content": content}]))

    def of_text(question: str) -> str:  # the form for tokenizers' templates
        return str(apply([{"role": "user", "content": f"{VIDEO_PLACEHOLDER}\n{question}"}]))

    failures = []
    for turn in (of_parts, of_text):
        try:
            text = turn(PROBE)
        except Exception as error:  # templates may raise anything: jinja2's errors, TypeError, ...
            failures.append(str(error) or type(error).__name__)
            continue
        before, _, after = text.partition(PROBE)
        if text.count(PROBE) == 1 and before.count(VIDEO_PLACEHOLDER) == 1 and VIDEO_PLACEHOLDER not in after:
            return turn
        failures.append(f"it renders {text!r:.500}")
    raise ValueError(f"the chat template cannot hold a video and a question: {'; '.join(failures)}")


LFS_POINTER = b"version https://git-lfs"  # how git-lfs begins a file that it puts in another's place
FINGERPRINT_SAMPLES = 16  # blocks per weight file in the fingerprint, which is compared before the weights are read
FINGERPRINT_BLOCK_BYTES = 1 << 16
# Buffers in old checkpoints that transformers now computes instead of reading.
COMPUTED = re.compile(r".*\.(position_ids|rotary_emb\.inv_freq)")
HASH_THREADS = 4  # SHA-256 runs at 1 to 2 GB/s per core: four keep up with a fast disk


@dataclass(frozen=True)
class WeightFiles:
    """A checkpoint's weight files and the shapes of the weights in them."""

    paths: tuple[Path, ...]  # in the order of their names
    shapes: Mapping[str, tuple[int, ...]]  # by weight name as in the files; without COMPUTED ones

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Number of elements by weight name."""
        return {name: math.prod(shape) for name, shape in self.shapes.items()}

    @property
    def total(self) -> int:
        """Number of elements in all weights."""
        return sum(self.sizes.values())

    @property
    def in_vision(self) -> int:
        """Number of elements in the vision tower."""
        return sum(size for name, size in self.sizes.items() if "vision_tower" in name)

    @property
    def in_rest(self) -> int:
        """Number of elements in projector and text model."""
        return self.total - self.in_vision


def check_folder(path: Path) -> None:
    """Raise InputError if the path is not a checkpoint's folder, or holds an adapter."""
    if not path.is_dir():
        fix = "--model_path is the folder of a LLaVA-NeXT-Video checkpoint"
        if not path.exists() and path.name.startswith("LLaVA-NeXT-Video"):
            fix = f"hf download llava-hf/{path.name} --local-dir {path.name}, then --model_path {path.name}"
        raise InputError(f"{path}: not a folder; {fix}")
    if not (path / "config.json").exists() and not (path / "adapter_config.json").exists():
        below = sorted([*path.glob("*/config.json"), *path.glob("snapshots/*/config.json")])
        fix = f"use {below[0].parent}, which has one" if below else "check --model_path, or download its files"
        raise InputError(f"{path}: not the folder of a checkpoint: it has no config.json; {fix}")
    if (path / "adapter_config.json").exists():  # transformers would load its base checkpoint
        raise InputError(f"{path}: an adapter (adapter_config.json); merge it into its base checkpoint first")


def read_weight_headers(path: Path) -> WeightFiles:
    """Read the headers of a checkpoint's weight files. Raise InputError if a file is missing, cut short or pickled:
    unpickling runs code."""
    index = path / "model.safetensors.index.json"
    # If both exist, the index is ignored, as in transformers.
    has_index = index.is_file() and not (path / "model.safetensors").is_file()
    by_weight: dict[str, str] = read_json(index)["weight_map"] if has_index else {}
    names = sorted(set(by_weight.values())) or ["model.safetensors"]
    missing = [name for name in names if not (path / name).is_file()]
    if missing:
        pickled = " (pickled .bin weights are not loaded)" if list(path.glob("*.bin")) else ""
        raise InputError(f"{path}: {', '.join(missing)} missing{pickled}; download the checkpoint's safetensors files")
    held = {name: _read_header(path / name) for name in names}
    for weight, name in by_weight.items():
        if weight not in held[name] and not COMPUTED.fullmatch(weight):
            raise InputError(f"{path / name}: {weight} is not in it, though {index.name} lists it; download both again")
    shapes = {weight: shape for file in held.values() for weight, shape in file.items()}
    return WeightFiles(tuple(path / name for name in names), shapes)


def _read_header(path: Path) -> dict[str, tuple[int, ...]]:
    """Return weight -> shape. safetensors itself checks the file's size against the header."""
    try:
        with open_regular(path), safe_open(path, framework="np") as file:
            names = [name for name in file.keys() if not COMPUTED.fullmatch(name)]  # noqa: SIM118
            return {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except OSError as error:
        found = f"cannot be read ({error.strerror or error})"
        raise InputError(f"{path}: {found}; check it, or download it again") from None
    except SafetensorError as error:
        with path.open("rb") as file:
            is_pointer = file.read(len(LFS_POINTER)) == LFS_POINTER
        fix = "it is a pointer of git-lfs: get the file with git lfs pull" if is_pointer else "download it again"
        raise InputError(f"{path}: not a whole safetensors file ({error}); {fix}") from None


def sampled_bytes(path: Path) -> bytes:
    """Read blocks spread evenly over a file, for its fingerprint."""
    size = path.stat().st_size
    blocks = []
    with open_regular(path) as file:
        for index in range(FINGERPRINT_SAMPLES):
            file.seek(index * max(size - FINGERPRINT_BLOCK_BYTES, 0) // (FINGERPRINT_SAMPLES - 1))
            blocks.append(file.read(FINGERPRINT_BLOCK_BYTES))
    return b"".join(blocks)


def start_hashing(paths: Sequence[Path]) -> "Future[str]":
    """Start computing the SHA-256 of what `sha256sum` would print for the files; the result may be an InputError. The
    threads end with the process: a stopped run does not wait for them."""
    hashes: dict[Path, Future[str]] = {path: Future() for path in paths}
    todo, whole = iter(hashes.items()), Future[str]()

    def hash_some() -> None:
        for path, future in todo:  # the threads share the iterator, so a file goes to only one of them
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


# Allowed model_type of config.json and of its parts. Old copies of the 7B weights have "llava_next". The five
# checkpoints use no other text models, some of whose classes load whatever a config names, including code
# (CVE-2026-5241).
MODEL_TYPES = ("llava_next_video", "llava_next")
PART_TYPES = {"text_config": ("llama", "mistral"), "vision_config": ("clip_vision_model",)}
READ_FILES = (  # read by transformers and this suite besides the weights: other files do not affect answers
    *("added_tokens.json", "chat_template.jinja", "chat_template.json", "config.json", "generation_config.json"),
    *("model.safetensors.index.json", "preprocessor_config.json", "processor_config.json", "special_tokens_map.json"),
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "video_preprocessor_config.json"),
)


@dataclass(frozen=True)
class Checkpoint:
    """A LLaVA-NeXT-Video checkpoint whose files agree with each other, from `load_checkpoint`."""

    path: Path
    config: "LlavaNextVideoConfig"
    tokenizer: "PreTrainedTokenizerBase"  # all its ids are within the text model's embedding
    pixel_spec: PixelSpec
    positions: int  # most tokens of prompt and reply together
    weights: WeightFiles
    end_ids: tuple[int, ...]  # ids of the tokens that end a reply; at least one

    @property
    def tokens_per_frame(self) -> int:
        """Number of patches after pooling: 24 x 24 -> 12 x 12 = 144 in the five checkpoints."""
        patch, stride = self.config.vision_config.patch_size, self.config.spatial_pool_stride
        height, width = self.pixel_spec.crop_height // patch, self.pixel_spec.crop_width // patch
        return int((height // stride) * (width // stride))

    def prompt_builder(self, num_frames: int) -> PromptBuilder:
        """Create the builder of prompts. Raise InputError if the chat template cannot render a video and a question;
        warn if it does not fit the text backbone (early uploads of 7B-32K)."""
        known = TURNS[known_form(self.config.text_config.model_type, self.tokenizer)].format
        with naming_checkpoint(self.path):
            template = find_template(self.path, self.tokenizer)
            render = known if template is None else renderer(template, self.tokenizer)
        # Ignore white space and the begin-of-text token: templates differ in both, and tokenizers add the token.
        found = render("?").removeprefix(self.tokenizer.bos_token or "")
        if not "".join(found.split()).endswith("".join(known("?").split())):
            warn_once(
                f"warning: {self.path}: the chat template writes {render('?')!r}, but this text backbone was "
                f"trained on {known('?')!r}; if this is an early upload, download the checkpoint again"
            )
        num_video_tokens = num_frames * self.tokens_per_frame
        return PromptBuilder(self.tokenizer, render, self.config.video_token_index, num_video_tokens)

    @cached_property
    def sha256(self) -> str:
        """A fingerprint that takes only seconds, compared before the weights are read. It covers READ_FILES completely,
        and the size and 16 blocks of every weight file."""
        digest = hashlib.sha256()
        files = (self.path / name for name in READ_FILES)
        for path in [*(each for each in files if each.is_file()), *self.weights.paths]:
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            digest.update(sampled_bytes(path) if path in self.weights.paths else path.read_bytes())
        return digest.hexdigest()


def load_checkpoint(path: Path) -> Checkpoint:
    """Read everything except the weights' values, which load_engine checks. Raise InputError if the folder is not a
    complete LLaVA-NeXT-Video checkpoint."""
    check_folder(path)
    content = _read_config(path / "config.json")
    from transformers import AutoTokenizer, LlavaNextVideoConfig

    with naming_checkpoint(path):
        weights = read_weight_headers(path)
        config = LlavaNextVideoConfig.from_dict(content | {"model_type": MODEL_TYPES[0]})
        if not any((path / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
            raise InputError(f"{path}: has neither tokenizer.json nor tokenizer.model; download its files again")
        # Without an explicit False, transformers would ask at the terminal if a tokenizer has code of its own.
        tokenizer = AutoTokenizer.from_pretrained(path, config=config, local_files_only=True, trust_remote_code=False)
        tokenizer("a")  # a wrong type in tokenizer_config.json may show only here
        end_ids = _read_end_ids(path, content, tokenizer)
        checkpoint = Checkpoint(path, config, tokenizer, load_pixel_spec(path), _positions(config), weights, end_ids)
        _check_agreement(checkpoint)
        _warn_of_missing_rope_factor(checkpoint)
    return checkpoint


@contextmanager
def naming_checkpoint(path: Path, *passed: type[Exception]) -> Iterator[None]:
    """Turn errors of transformers, safetensors or tokenizers into an InputError, except for the types `passed`."""
    try:
        yield
    except Exception as error:
        if isinstance(error, (InputError, ImportError, MemoryError, *passed)):  # cli.py names a package that fails
            raise
        found = f"{type(error).__name__}: {error}"
        raise InputError(f"{path}: cannot be read as a checkpoint ({found}); download its files again") from None


def _read_config(path: Path) -> dict[str, Any]:
    """Read config.json. Raise InputError for another kind of model, and for a quantised one."""
    content = read_json(path)
    found = content.get("model_type") if isinstance(content, dict) else None
    if found not in MODEL_TYPES:
        raise InputError(f"{path}: model_type is {found!r:.60}, not {MODEL_TYPES[0]!r}; choose another checkpoint")
    parts: dict[str, Any] = {name: content.get(name, {}) for name in PART_TYPES}
    for name, part in parts.items():
        if not isinstance(part, dict) or part.get("model_type", PART_TYPES[name][0]) not in PART_TYPES[name]:
            wanted = " or ".join(PART_TYPES[name])
            raise InputError(f"{path}: {name} is not that of a {wanted} model; choose another checkpoint")
    if any(part.get("quantization_config") for part in (content, *parts.values())):
        raise InputError(f"{path}: a quantised copy; use the checkpoint in 16 or 32 bits")
    return dict(content)


def _read_end_ids(path: Path, config: dict[str, Any], tokenizer: "PreTrainedTokenizerBase") -> tuple[int, ...]:
    """Read `eos_token_id` from generation_config.json, else config.json, else the tokenizer.

    transformers' config object is not used: it does not show whether an id is stated or its default."""
    generation = path / "generation_config.json"
    parts = (read_json(generation) if generation.is_file() else {}, config, config.get("text_config", {}))
    for stated in (*(part.get("eos_token_id") for part in parts), tokenizer.eos_token_id):
        if stated not in (None, []):
            ids = tuple(stated) if isinstance(stated, list) else (stated,)
            if not all(isinstance(each, int) for each in ids):
                raise InputError(f"{path}: eos_token_id is {stated!r:.60}, not a number; download it again")
            return ids
    raise InputError(f"{path}: none of its files states the eos_token_id, which ends a reply; download it again")


def _positions(config: "LlavaNextVideoConfig") -> int:
    """Positions of the text model, including a linear rope factor as in the 7B checkpoints.

    Limited to the sliding window if there is one. In transformers the padding before a question counts towards the
    window, so tokens pushed out of it would make an answer depend on its batch."""
    positions = int(config.text_config.max_position_embeddings * (_linear_rope_factor(config) or 1))
    window = getattr(config.text_config, "sliding_window", None)
    return positions if window is None else min(positions, window - max(LENGTH_MULTIPLES.values()) + 1)


def _linear_rope_factor(config: "LlavaNextVideoConfig") -> float | None:
    text: Any = config.text_config
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}  # names in 5.x and 4.x
    linear = rope.get("rope_type", rope.get("type")) == "linear"
    return float(rope["factor"]) if linear else None


def _check_agreement(checkpoint: Checkpoint) -> None:
    """Raise InputError for mismatches that transformers would notice only at the first answer, or never: files of
    different uploads, and token counts that do not fit the prompts."""
    config, tokenizer, spec = checkpoint.config, checkpoint.tokenizer, checkpoint.pixel_spec
    rows, side = config.text_config.vocab_size, config.vision_config.image_size
    stated, known = config.video_token_index, tokenizer.convert_tokens_to_ids(VIDEO_PLACEHOLDER)
    for fits, found in (
        (stated == known, f"config.json says that {VIDEO_PLACEHOLDER} is token {stated}, the tokenizer says {known}"),
        (len(tokenizer) <= rows, f"the tokenizer has {len(tokenizer)} tokens, the text model {rows}"),
        (
            (spec.crop_height, spec.crop_width) == (side, side),
            f"frames are cropped to {spec.crop_height}x{spec.crop_width}, the vision tower takes {side}x{side}",
        ),
        (checkpoint.tokens_per_frame > 0, "patch_size and spatial_pool_stride leave no token of a frame"),
        (config.vision_feature_select_strategy == "default", "vision_feature_select_strategy is not 'default'"),
    ):
        if not fits:
            raise InputError(
                f"{checkpoint.path}: {found}; choose a LLaVA-NeXT-Video checkpoint, all files of one upload"
            )


def _warn_of_missing_rope_factor(checkpoint: Checkpoint) -> None:
    """Warn about early uploads of the 7B checkpoints, which lack the linear rope factor of 2.5 used in training."""
    text = checkpoint.config.text_config
    is_vicuna_7b = known_form(text.model_type, checkpoint.tokenizer) == "vicuna" and text.hidden_size == 4096
    if is_vicuna_7b and text.max_position_embeddings == 4096 and _linear_rope_factor(checkpoint.config) is None:
        warn_once(
            f"warning: {checkpoint.path / 'config.json'}: no linear rope factor, as in early uploads of the 7B "
            'weights: answers are silently worse; download config.json again (in text_config: "rope_scaling": '
            '{"type": "linear", "factor": 2.5})'
        )
