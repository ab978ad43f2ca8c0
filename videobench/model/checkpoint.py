"""A checkpoint's folder -> what the suite must know of it, all of it checked before the weights are read."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videobench.console import warn_once
from videobench.device.devices import SUFFIX_MULTIPLES
from videobench.errors import InputError
from videobench.files import read_json
from videobench.model.prompts import TEMPLATES, VIDEO_PLACEHOLDER, PromptBuilder, find_template, known_form
from videobench.model.weights import WeightFiles, check_folder, read_weight_headers, sampled_bytes
from videobench.video.spec import PixelSpec, load_pixel_spec

if TYPE_CHECKING:
    from transformers import LlavaNextVideoConfig, PreTrainedTokenizerBase

MODEL_TYPES = ("llava_next_video", "llava_next")  # the second stands in old copies of the 7B weights
# transformers makes each part by its own model_type, and among its classes are some that load what a config names, code
# included (CVE-2026-5241). These only read sizes; where the type is left out, it takes the first.
PART_TYPES = {"text_config": ("llama", "mistral"), "vision_config": ("clip_vision_model",)}
# How attention is computed, as a config may ask for it. transformers 4.56 to 5.2 takes other texts for code to be
# downloaded and run (CVE-2026-4372).
ATTENTION = (None, "eager", "sdpa")


@dataclass(frozen=True)
class Checkpoint:
    path: Path
    config: "LlavaNextVideoConfig"
    tokenizer: "PreTrainedTokenizerBase"
    pixel_spec: PixelSpec
    positions: int  # tokens that prompt and reply may take together
    weights: WeightFiles

    @property
    def tokens_per_frame(self) -> int:
        """Patches a side, pooled by the stride, squared: 24 x 24 -> 12 x 12 = 144 for the five checkpoints."""
        patch, stride = self.config.vision_config.patch_size, self.config.spatial_pool_stride
        height, width = self.pixel_spec.crop_height // patch, self.pixel_spec.crop_width // patch
        return int((height // stride) * (width // stride))

    def prompt_builder(self, num_frames: int) -> PromptBuilder:
        """Warns where the template's turn is not the known one of the text backbone (early uploads of 7B-32K)."""
        form = known_form(self.config.text_config.model_type, self.tokenizer)
        template = self._find_template()
        num_video_tokens = num_frames * self.tokens_per_frame
        video_token_id = self.config.video_token_index
        try:
            builder = PromptBuilder(self.tokenizer, template, form, video_token_id, num_video_tokens)
        except InputError as error:
            raise InputError(f"{self.path}: {error}; get its files anew") from None
        known = PromptBuilder(self.tokenizer, TEMPLATES[form], form, video_token_id, num_video_tokens)
        if not _same_turn(builder.render("?"), known.render("?"), self.tokenizer.bos_token):
            warn_once(
                f"warning: {self.path}: the chat template writes {builder.render('?')!r}, but this text backbone was "
                f"trained on {known.render('?')!r}; if this is an early upload, get the checkpoint anew"
            )
        return builder

    def _find_template(self) -> str | None:
        try:
            return find_template(self.path, self.tokenizer)
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise InputError(f"{self.path}: the chat template cannot be read ({error}); get its files anew") from None

    @cached_property
    def sha256(self) -> str:
        """Identity of the checkpoint: small files whole, of a weight file its length and 16 blocks spread over it."""
        digest = hashlib.sha256()
        small = [path for path in sorted(self.path.iterdir()) if path.suffix in (".json", ".jinja", ".model", ".txt")]
        for path in [*small, *self.weights.paths]:
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes() if path in small else sampled_bytes(path))
        return digest.hexdigest()


def load_checkpoint(path: Path) -> Checkpoint:
    """Raises InputError, naming the file and the mend, for a folder that is not a whole LLaVA-NeXT-Video checkpoint."""
    check_folder(path)
    content = read_json(path / "config.json")
    if not isinstance(content, dict) or content.get("model_type") not in MODEL_TYPES:
        found = content.get("model_type") if isinstance(content, dict) else "no object"
        raise InputError(
            f"{path / 'config.json'}: model_type is {found!r}, not {MODEL_TYPES[0]!r}; choose another checkpoint"
        )
    _check_config(path / "config.json", content)
    weights = read_weight_headers(path)
    config, tokenizer = _load_config(path), _load_tokenizer(path)
    checkpoint = Checkpoint(path, config, tokenizer, load_pixel_spec(path), _positions(config), weights)
    _check_video_token(checkpoint)
    _check_vision(checkpoint)
    _warn_of_missing_rope_factor(checkpoint)
    return checkpoint


def _check_config(path: Path, content: dict[str, Any]) -> None:
    """Before transformers sees it: raises InputError where it would load more than the checkpoint's own weights."""
    for name, known in PART_TYPES.items():
        part = content.get(name)
        found = part.get("model_type", known[0]) if isinstance(part, dict) else known[0]
        if found not in known:
            raise InputError(f"{path}: {name} is of {found!r}, not of {' or '.join(known)}; choose another checkpoint")
    for name, value in _entries(content):
        if name == "quantization_config" and value is not None:
            raise InputError(f"{path}: a quantised copy; get the checkpoint in 16 or 32 bits")
        if name.removeprefix("_").startswith("attn_implementation") and value not in (*ATTENTION, True, False):
            raise InputError(f"{path}: {name} is {value!r:.60}, not eager or sdpa; remove it, or get the file anew")


def _entries(content: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Of an object and all objects in it."""
    left = [content]
    while left:
        for name, value in left.pop().items():
            yield name, value
            if isinstance(value, dict):
                left.append(value)


def _load_config(path: Path) -> "LlavaNextVideoConfig":
    from transformers import LlavaNextVideoConfig

    try:
        config = LlavaNextVideoConfig.from_pretrained(path, local_files_only=True)
        # transformers 4.45 takes a prompt with fewer video tokens than this for one whose placeholder is not repeated
        # yet, and repeats it: a single frame would go wrong (tests/run/test_runner.py: 4 frames of the small model).
        config.video_seq_length = 0
        for part in (config.vision_config, config.text_config):
            part.to_dict()  # transformers 4.45 lets a number pass for a configuration
        return config
    except Exception as error:  # transformers raises many kinds for a config that it cannot take
        raise InputError(
            f"{path / 'config.json'}: not a LLaVA-NeXT-Video config ({error}); get the checkpoint anew"
        ) from None


def _load_tokenizer(path: Path) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    try:
        # False, not left out: for a tokenizer that brings code of its own, transformers would ask at the terminal.
        return AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # as above, and those of tokenizers and sentencepiece
        raise InputError(f"{path}: the tokenizer cannot be loaded ({error}); get its files anew") from None


def _positions(config: "LlavaNextVideoConfig") -> int:
    """Positions of the text model, stretched by a linear rope factor as in the 7B checkpoints.

    No more than a sliding window takes: transformers counts in it the padding before a question, too, and tokens that
    it pushed out would make an answer depend on its batch."""
    positions = int(config.text_config.max_position_embeddings * (_linear_rope_factor(config) or 1))
    window = getattr(config.text_config, "sliding_window", None)
    return positions if window is None else min(positions, window - max(SUFFIX_MULTIPLES.values()) + 1)


def _linear_rope_factor(config: "LlavaNextVideoConfig") -> float | None:
    text: Any = config.text_config
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}  # 5.x or 4.x name it so
    linear = rope.get("rope_type", rope.get("type")) == "linear"
    return float(rope["factor"]) if linear else None


def _check_video_token(checkpoint: Checkpoint) -> None:
    stated = checkpoint.config.video_token_index
    known = checkpoint.tokenizer.convert_tokens_to_ids(VIDEO_PLACEHOLDER)
    if stated != known:
        raise InputError(
            f"{checkpoint.path}: config.json says that {VIDEO_PLACEHOLDER} is token {stated}, the tokenizer says "
            f"{known}; the files are of different uploads: get the checkpoint anew"
        )


def _check_vision(checkpoint: Checkpoint) -> None:
    config, spec = checkpoint.config, checkpoint.pixel_spec
    for name, length in (("patch_size", config.vision_config.patch_size), ("pool stride", config.spatial_pool_stride)):
        if not isinstance(length, int) or length < 1:
            raise InputError(f"{checkpoint.path / 'config.json'}: {name} is {length!r}; get the checkpoint anew")
    size = config.vision_config.image_size
    if (spec.crop_height, spec.crop_width) != (size, size):
        raise InputError(
            f"{checkpoint.path}: frames are cropped to {spec.crop_height}x{spec.crop_width} by the preprocessor, "
            f"but the vision tower takes {size}x{size}; get the checkpoint anew"
        )
    if config.vision_feature_select_strategy != "default" or config.spatial_pool_mode not in ("average", "max"):
        raise InputError(
            f"{checkpoint.path / 'config.json'}: an unknown way to select or pool features; choose another checkpoint"
        )


def _warn_of_missing_rope_factor(checkpoint: Checkpoint) -> None:
    """The 7B checkpoints were trained with a linear rope factor of 2.5 that their early uploads lack."""
    text = checkpoint.config.text_config
    is_vicuna_7b = known_form(text.model_type, checkpoint.tokenizer) == "vicuna" and text.hidden_size == 4096
    if is_vicuna_7b and text.max_position_embeddings == 4096 and _linear_rope_factor(checkpoint.config) is None:
        warn_once(
            f"warning: {checkpoint.path / 'config.json'}: no linear rope factor, as in early uploads of the 7B "
            'weights: answers are silently worse; get config.json anew (in text_config: "rope_scaling": '
            '{"type": "linear", "factor": 2.5})'
        )


def _same_turn(rendered: str, known: str, bos: str | None) -> bool:
    """White space and the begin-of-text token aside, since templates differ in both and tokenizers add the latter."""
    return "".join(rendered.removeprefix(bos or "").split()).endswith("".join(known.split()))
