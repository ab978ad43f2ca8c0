"""config.json -> the entries that the suite takes from it, each of them checked.

transformers sees these alone. What else a file may name, such as code to fetch, other checkpoints, a number of labels,
or settings of generation, it never reaches.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from videobench.errors import InputError
from videobench.files import read_json

MODEL_TYPES = ("llava_next_video", "llava_next")  # the second stands in old copies of the 7B weights
# What an entry may be: of a `range` a whole number in it, of a `_Between` a number above its first and up to its
# second, of a tuple one of its texts, of bool a truth value, of a mapping an object of such entries.
SIZE = range(1, 1 << 20)
COUNT = range(1, 1 << 10)
POSITIONS = range(1, 1 << 24)
TOKEN_ID = range(1 << 20)
ACTIVATIONS = ("silu", "gelu", "quick_gelu", "gelu_new", "gelu_pytorch_tanh", "relu")


class _Between(tuple[float, float]):
    pass


EPSILON = _Between((0, 1))
POSITIVE = _Between((0, 1e12))
ROPE: Mapping[str, Any] = {
    "rope_type": ("default", "linear", "dynamic", "yarn", "llama3"),
    "type": ("default", "linear", "dynamic", "yarn", "llama3"),  # before transformers 4.43
    **dict.fromkeys(("rope_theta", "factor", "attention_factor", "beta_fast", "beta_slow"), POSITIVE),
    **dict.fromkeys(("low_freq_factor", "high_freq_factor", "mscale", "mscale_all_dim"), POSITIVE),
    "original_max_position_embeddings": POSITIONS,
}
ENTRIES: Mapping[str, Any] = {
    "model_type": MODEL_TYPES,
    "image_token_index": TOKEN_ID,
    "video_token_index": TOKEN_ID,
    "projector_hidden_act": ACTIVATIONS,
    "multimodal_projector_bias": bool,
    "spatial_pool_mode": ("average", "max"),
    "spatial_pool_stride": COUNT,
    "vision_feature_layer": range(-1023, 1024),
    "vision_feature_select_strategy": ("default",),
    "tie_word_embeddings": bool,
    "text_config": {
        # transformers makes each part by its own model_type, and among its classes are some that load what a config
        # names, code included (CVE-2026-5241). These only read sizes; where the type is left out, it takes the first.
        "model_type": ("llama", "mistral"),
        **dict.fromkeys(("vocab_size", "hidden_size", "intermediate_size", "head_dim"), SIZE),
        **dict.fromkeys(("num_hidden_layers", "num_attention_heads", "num_key_value_heads"), COUNT),
        **dict.fromkeys(("max_position_embeddings", "sliding_window"), POSITIONS),
        **dict.fromkeys(("attention_bias", "mlp_bias", "tie_word_embeddings"), bool),
        "hidden_act": ACTIVATIONS,
        "rms_norm_eps": EPSILON,
        "rope_theta": POSITIVE,
        **dict.fromkeys(("rope_scaling", "rope_parameters"), ROPE),  # of transformers 4.x, of 5.x
    },
    "vision_config": {
        "model_type": ("clip_vision_model",),
        **dict.fromkeys(("hidden_size", "intermediate_size", "projection_dim", "image_size", "patch_size"), SIZE),
        **dict.fromkeys(("num_hidden_layers", "num_attention_heads"), COUNT),
        "num_channels": range(3, 4),
        "hidden_act": ACTIVATIONS,
        "layer_norm_eps": EPSILON,
    },
}
# null there has a meaning of its own (no window, as many heads, a quotient), or that of an entry that is left out
NULLABLE = ("head_dim", "num_key_value_heads", "sliding_window", "rope_scaling", "rope_parameters", *ROPE)


def read_config(path: Path) -> dict[str, Any]:
    """The ENTRIES that a checkpoint's config.json has; InputError, naming file, entry and value, where one is unfit."""
    content = read_json(path)
    if not isinstance(content, dict) or content.get("model_type") not in MODEL_TYPES:
        found = content.get("model_type") if isinstance(content, dict) else "no object"
        raise InputError(f"{path}: model_type is {found!r:.60}, not {MODEL_TYPES[0]!r}; choose another checkpoint")
    for part in (content, content.get("text_config"), content.get("vision_config")):
        if isinstance(part, dict) and part.get("quantization_config") is not None:
            raise InputError(f"{path}: a quantised copy; get the checkpoint in 16 or 32 bits")
    return _take(path, content, ENTRIES, "")


def read_end_ids(folder: Path, vocab_size: int) -> tuple[int, ...]:
    """The ids of the tokens that end a reply: `eos_token_id` of generation_config.json, or else of config.json.

    Empty where neither states any. Raises InputError where one is no id of a vocabulary of that size."""
    for path in (folder / "generation_config.json", folder / "config.json"):
        content = read_json(path) if path.is_file() else {}
        for part in (content, content.get("text_config") if isinstance(content, dict) else None):
            stated = part.get("eos_token_id") if isinstance(part, dict) else None
            ids = stated if isinstance(stated, list) else [] if stated is None else [stated]
            for each in ids:
                if not _fits(each, range(vocab_size)):
                    raise _unfit(path, "eos_token_id", each, range(vocab_size))
            if ids:
                return tuple(ids)
    return ()


def head_dim(text_config: Any) -> int:
    """Numbers that a token has for each attention head of the text model, by transformers' object for it."""
    return int(getattr(text_config, "head_dim", None) or text_config.hidden_size // text_config.num_attention_heads)


def _take(path: Path, content: Any, entries: Mapping[str, Any], inside: str) -> dict[str, Any]:
    taken: dict[str, Any] = {}
    for name, wanted in entries.items():
        value, where = content.get(name), f"{inside}{name}"
        if value is None and (name not in content or name in NULLABLE):
            taken |= {name: None} if name in content else {}
        elif isinstance(wanted, Mapping) and isinstance(value, dict):
            taken[name] = _take(path, value, wanted, f"{where}.")
        elif _fits(value, wanted):
            taken[name] = value
        else:
            raise _unfit(path, where, value, wanted)
    return taken


def _fits(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, range):
        return type(value) is int and value in wanted
    if isinstance(wanted, _Between):
        return type(value) in (int, float) and wanted[0] < value <= wanted[1]
    if isinstance(wanted, tuple):
        return isinstance(value, str) and value in wanted
    return wanted is bool and type(value) is bool


def _unfit(path: Path, where: str, value: Any, wanted: Any) -> InputError:
    if isinstance(wanted, range):
        words = f"a whole number from {wanted[0]} to {wanted[-1]}"
    elif isinstance(wanted, _Between):
        words = f"a number above {wanted[0]:g} and up to {wanted[1]:g}"
    else:
        words = " or ".join(wanted) if isinstance(wanted, tuple) else "true or false" if wanted is bool else "an object"
    return InputError(f"{path}: {where} is {value!r:.60}, not {words}; get the file again")
