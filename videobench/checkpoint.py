"""A checkpoint's folder -> what the suite must know of it, all of it checked before the weights are read."""

import hashlib
import struct
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videobench.errors import InputError
from videobench.files import parse_json, read_json
from videobench.pixels import PixelSpec, load_pixel_spec
from videobench.prompts import TEMPLATES, VIDEO_PLACEHOLDER, PromptBuilder, find_template, known_form

if TYPE_CHECKING:
    from transformers import LlavaNextVideoConfig, PreTrainedTokenizerBase

MODEL_TYPES = ("llava_next_video", "llava_next")  # the second stands in old copies of the 7B weights
FINGERPRINT_SAMPLES = 16  # blocks of a weight file that enter the fingerprint: reading 69 GB whole would take minutes
FINGERPRINT_BLOCK_BYTES = 1 << 16
MAX_HEADER_BYTES = 100_000_000  # of a safetensors file; the limit of the library that loads it
WEIGHT_DTYPES = ("F16", "BF16", "F32", "I64")  # as safetensors calls them; I64 are the position ids of old copies


@dataclass(frozen=True)
class Checkpoint:
    path: Path
    config: "LlavaNextVideoConfig"
    tokenizer: "PreTrainedTokenizerBase"
    pixel_spec: PixelSpec
    positions: int  # tokens that prompt and reply may take together
    weight_files: tuple[Path, ...]

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
            warn(
                f"{self.path}: the chat template writes {builder.render('?')!r}, but this text backbone was trained on "
                f"{known.render('?')!r}; if this is an early upload, get the checkpoint anew"
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
        for path in [*small, *self.weight_files]:
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes() if path in small else _sampled_bytes(path))
        return digest.hexdigest()


def load_checkpoint(path: Path) -> Checkpoint:
    """Raises InputError, naming the file and the mend, for a folder that is not a whole LLaVA-NeXT-Video checkpoint."""
    if not path.is_dir():
        raise InputError(f"{path}: not a folder; --model_path is the folder of a LLaVA-NeXT-Video checkpoint")
    content = read_json(path / "config.json")
    if not isinstance(content, dict) or content.get("model_type") not in MODEL_TYPES:
        found = content.get("model_type") if isinstance(content, dict) else "no object"
        raise InputError(
            f"{path / 'config.json'}: model_type is {found!r}, not {MODEL_TYPES[0]!r}; choose another checkpoint"
        )
    if content.get("quantization_config") is not None:
        raise InputError(f"{path / 'config.json'}: a quantised copy; get the checkpoint in 16 or 32 bits")
    weight_files = _weight_files(path)
    config, tokenizer = _load_config(path), _load_tokenizer(path)
    checkpoint = Checkpoint(path, config, tokenizer, load_pixel_spec(path), _positions(config), weight_files)
    _check_video_token(checkpoint)
    _check_vision(checkpoint)
    _warn_of_missing_rope_factor(checkpoint)
    return checkpoint


def warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def _load_config(path: Path) -> "LlavaNextVideoConfig":
    from transformers import LlavaNextVideoConfig

    try:
        config = LlavaNextVideoConfig.from_pretrained(path, local_files_only=True)
        # transformers 4.45 takes a prompt with fewer video tokens than this for one whose placeholder is not repeated
        # yet, and repeats it: a single frame would go wrong (tests/test_runner.py: 4 frames of the small model).
        config.video_seq_length = 0
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


def _weight_files(path: Path) -> tuple[Path, ...]:
    """The safetensors files, each whole by its own header. Pickled weights are refused: unpickling runs their code."""
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
    return tuple(path / name for name in names)


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


def _check_weights(path: Path) -> set[str]:
    """The weights that a file holds, by its header: 8 bytes of length, the header, the tensors.

    Raises InputError where the size shows that it was cut short, or where a weight is not in 16 or 32 bits."""
    try:
        with path.open("rb") as file:
            header_bytes = struct.unpack("<Q", file.read(8))[0]
            header = parse_json(file.read(min(header_bytes, MAX_HEADER_BYTES)).decode())
        weights = {name: entry for name, entry in header.items() if name != "__metadata__"}
        whole = 8 + header_bytes + max((int(entry["data_offsets"][1]) for entry in weights.values()), default=0)
        others = [name for name, entry in weights.items() if entry["dtype"] not in WEIGHT_DTYPES]
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise InputError(f"{path}: not a safetensors file; download it anew") from None
    if path.stat().st_size != whole:
        raise InputError(f"{path}: {path.stat().st_size} bytes, but its header tells of {whole}; download it anew")
    if others:
        raise InputError(
            f"{path}: {others[0]} is of dtype {weights[others[0]]['dtype']}, which is not supported; "
            "get the checkpoint in 16 or 32 bits"
        )
    return set(weights)


def _positions(config: "LlavaNextVideoConfig") -> int:
    """Positions of the text model, stretched by a linear rope factor as in the 7B checkpoints."""
    return int(config.text_config.max_position_embeddings * (_linear_rope_factor(config) or 1))


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
        warn(
            f"{checkpoint.path / 'config.json'}: no linear rope factor, as in early uploads of the 7B weights: "
            'answers are silently worse; get config.json anew (in text_config: "rope_scaling": {"type": "linear", '
            '"factor": 2.5})'
        )


def _same_turn(rendered: str, known: str, bos: str | None) -> bool:
    """White space and the begin-of-text token aside, since templates differ in both and tokenizers add the latter."""
    return "".join(rendered.removeprefix(bos or "").split()).endswith("".join(known.split()))


def _sampled_bytes(path: Path) -> bytes:
    size = path.stat().st_size
    blocks = []
    with path.open("rb") as file:
        for index in range(FINGERPRINT_SAMPLES):
            file.seek(index * max(size - FINGERPRINT_BLOCK_BYTES, 0) // (FINGERPRINT_SAMPLES - 1))
            blocks.append(file.read(FINGERPRINT_BLOCK_BYTES))
    return b"".join(blocks)
