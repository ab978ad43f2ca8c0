"""A checkpoint's folder -> what the suite must know of it, all of it checked before the weights are read."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videobench.console import warn_once
from videobench.device.devices import LENGTH_MULTIPLES
from videobench.errors import InputError
from videobench.files import read_bytes
from videobench.model.config import head_dim, read_config, read_end_ids
from videobench.model.prompts import PromptBuilder
from videobench.model.templates import TURNS, VIDEO_PLACEHOLDER, Turn, find_template, known_form, read_turn
from videobench.model.weights import (
    MAX_SMALL_FILE_BYTES,
    WeightFiles,
    check_folder,
    check_weights,
    is_small_file,
    read_weight_headers,
    sampled_bytes,
)
from videobench.video.spec import PixelSpec, load_pixel_spec

if TYPE_CHECKING:
    from transformers import LlavaNextVideoConfig, PreTrainedTokenizerBase

UNUSUAL_TEXT = "What is \U0001f3ac \u5b57 \u0416?"  # needs the unknown token of a tokenizer that has one


@dataclass(frozen=True)
class Checkpoint:
    """A LLaVA-NeXT-Video checkpoint whose files agree with each other, as `load_checkpoint` gives it."""

    path: Path
    config: "LlavaNextVideoConfig"  # made of the entries in model/config.py alone
    tokenizer: "PreTrainedTokenizerBase"  # all of its ids are rows of the text model's embedding
    pixel_spec: PixelSpec
    positions: int  # tokens that prompt and reply may take together
    weights: WeightFiles
    end_ids: tuple[int, ...]  # of the tokens that end a reply; at least one

    @property
    def tokens_per_frame(self) -> int:
        """Patches a side, pooled by the stride, squared: 24 x 24 -> 12 x 12 = 144 for the five checkpoints."""
        patch, stride = self.config.vision_config.patch_size, self.config.spatial_pool_stride
        height, width = self.pixel_spec.crop_height // patch, self.pixel_spec.crop_width // patch
        return int((height // stride) * (width // stride))

    def prompt_builder(self, num_frames: int) -> PromptBuilder:
        """Renders the chat template once. Raises InputError where it cannot hold a video and a question.

        Warns where the template's turn is not the known one of the text backbone (early uploads of 7B-32K)."""
        known = TURNS[known_form(self.config.text_config.model_type, self.tokenizer)]
        turn = self._read_turn() or known
        if not _is_same_turn(turn, known, self.tokenizer.bos_token):
            warn_once(
                f"warning: {self.path}: the chat template writes {turn.around('?')!r}, but this text backbone was "
                f"trained on {known.around('?')!r}; if this is an early upload, get the checkpoint again"
            )
        num_video_tokens = num_frames * self.tokens_per_frame
        return PromptBuilder(self.tokenizer, turn, self.config.video_token_index, num_video_tokens)

    def _read_turn(self) -> Turn | None:
        template = find_template(self.path, self.tokenizer)
        try:
            return None if template is None else read_turn(template, self.tokenizer.special_tokens_map)
        except InputError as error:
            raise InputError(f"{self.path}: {error}; get its files again") from None

    @cached_property
    def sha256(self) -> str:
        """Identity of the checkpoint: small files whole, of a weight file its length and 16 blocks spread over it.

        A fingerprint in seconds, for what is compared before the weights are read; `weights.start_hashing` reads all
        of them."""
        digest = hashlib.sha256()
        small = [path for path in sorted(self.path.iterdir()) if is_small_file(path) and path.is_file()]
        for path in [*small, *self.weights.paths]:
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            digest.update(read_bytes(path, MAX_SMALL_FILE_BYTES) if path in small else sampled_bytes(path))
        return digest.hexdigest()


def load_checkpoint(path: Path) -> Checkpoint:
    """Raises InputError, naming the file and the fix, for a folder that is not a whole LLaVA-NeXT-Video checkpoint."""
    check_folder(path)
    content = read_config(path / "config.json")
    weights = read_weight_headers(path)
    with _refused(f"{path / 'config.json'}: not a LLaVA-NeXT-Video config"):
        config = _build_config(content)
        check_weights(path, weights, config)
    with _refused(f"{path}: the tokenizer cannot be used"):
        tokenizer = _load_tokenizer(path, config)
        _check_tokenizer(path, tokenizer, config)
    spec, positions = load_pixel_spec(path), _positions(config)
    end_ids = read_end_ids(path, config.text_config.vocab_size) or (tokenizer.eos_token_id,)
    if end_ids == (None,):
        raise InputError(f"{path}: no file of it states the eos_token_id, which ends a reply; get the checkpoint again")
    checkpoint = Checkpoint(path, config, tokenizer, spec, positions, weights, end_ids)
    _check_sizes(checkpoint)
    _warn_of_missing_rope_factor(checkpoint)
    return checkpoint


@contextmanager
def _refused(found: str) -> Iterator[None]:
    """Turns whatever the libraries raise for a file that they cannot take into an InputError."""
    try:
        yield
    except InputError:
        raise
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":  # of the tokenizers' Rust code
            raise InputError(f"{found} ({str(error) or type(error).__name__}); get the checkpoint again") from None
        raise


def _build_config(content: dict[str, Any]) -> "LlavaNextVideoConfig":
    from transformers import LlavaNextVideoConfig

    return LlavaNextVideoConfig(**{name: value for name, value in content.items() if name != "model_type"})


def _load_tokenizer(path: Path, config: "LlavaNextVideoConfig") -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    # False, not left out: for a tokenizer that brings code of its own, transformers would ask at the terminal.
    return AutoTokenizer.from_pretrained(path, config=config, local_files_only=True, trust_remote_code=False)


def _check_tokenizer(path: Path, tokenizer: "PreTrainedTokenizerBase", config: "LlavaNextVideoConfig") -> None:
    most = max([*tokenizer.get_vocab().values(), *tokenizer(UNUSUAL_TEXT)["input_ids"]], default=0)
    if most >= (rows := config.text_config.vocab_size):
        raise InputError(
            f"{path}: the tokenizer has the id {most}, but the text model has {rows} of them; get the checkpoint again"
        )
    stated, known = config.video_token_index, tokenizer.convert_tokens_to_ids(VIDEO_PLACEHOLDER)
    if stated != known:
        raise InputError(
            f"{path}: config.json says that {VIDEO_PLACEHOLDER} is token {stated}, the tokenizer says {known}; the "
            "files are of different uploads: get the checkpoint again"
        )


def _positions(config: "LlavaNextVideoConfig") -> int:
    """Positions of the text model, stretched by a linear rope factor as in the 7B checkpoints.

    No more than a sliding window takes: transformers counts in it the padding before a question, too, and tokens that
    it pushed out would make an answer depend on its batch."""
    positions = int(config.text_config.max_position_embeddings * (_linear_rope_factor(config) or 1))
    window = getattr(config.text_config, "sliding_window", None)
    return positions if window is None else min(positions, window - max(LENGTH_MULTIPLES.values()) + 1)


def _linear_rope_factor(config: "LlavaNextVideoConfig") -> float | None:
    text: Any = config.text_config
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}  # 5.x or 4.x name it so
    linear = rope.get("rope_type", rope.get("type")) == "linear"
    return float(rope["factor"]) if linear else None


def _check_sizes(checkpoint: Checkpoint) -> None:
    config, spec = checkpoint.config, checkpoint.pixel_spec
    text, vision = config.text_config, config.vision_config
    if (spec.crop_height, spec.crop_width) != (vision.image_size, vision.image_size):
        raise InputError(
            f"{checkpoint.path}: frames are cropped to {spec.crop_height}x{spec.crop_width} by the preprocessor, "
            f"but the vision tower takes {vision.image_size}x{vision.image_size}; get the checkpoint again"
        )
    for fits, found in (
        (checkpoint.tokens_per_frame > 0, "patch_size and spatial_pool_stride leave no token of a frame"),
        (
            -vision.num_hidden_layers - 1 <= config.vision_feature_layer <= vision.num_hidden_layers,
            "vision_feature_layer is beyond the layers",
        ),
        (
            text.num_attention_heads % text.num_key_value_heads == 0,
            "num_key_value_heads does not divide num_attention_heads",
        ),
        (head_dim(text) % 2 == 0, "head_dim is odd"),
    ):
        if not fits:
            raise InputError(f"{checkpoint.path / 'config.json'}: {found}; get the file again")


def _warn_of_missing_rope_factor(checkpoint: Checkpoint) -> None:
    """The 7B checkpoints were trained with a linear rope factor of 2.5 that their early uploads lack."""
    text = checkpoint.config.text_config
    is_vicuna_7b = known_form(text.model_type, checkpoint.tokenizer) == "vicuna" and text.hidden_size == 4096
    if is_vicuna_7b and text.max_position_embeddings == 4096 and _linear_rope_factor(checkpoint.config) is None:
        warn_once(
            f"warning: {checkpoint.path / 'config.json'}: no linear rope factor, as in early uploads of the 7B "
            'weights: answers are silently worse; get config.json again (in text_config: "rope_scaling": '
            '{"type": "linear", "factor": 2.5})'
        )


def _is_same_turn(turn: Turn, known: Turn, bos: str | None) -> bool:
    """White space and the begin-of-text token aside, since templates differ in both and tokenizers add the latter."""
    found = turn.around("?").removeprefix(bos or "")
    return "".join(found.split()).endswith("".join(known.around("?").split()))
