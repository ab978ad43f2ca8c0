"""Checkpoints known by their sizes alone, as the estimates need them; and files of weights without content."""

import json
import struct
from pathlib import Path
from types import SimpleNamespace

from videobench.model.checkpoint import WeightFiles


def checkpoint_of(in_vision=0, in_rest=0, **text):
    return SimpleNamespace(
        config=SimpleNamespace(
            text_config=SimpleNamespace(**text),
            vision_config=SimpleNamespace(patch_size=14, image_size=336, hidden_size=1024, intermediate_size=4096),
        ),
        pixel_spec=SimpleNamespace(crop_height=336, crop_width=336),
        weights=WeightFiles((), {"vision_tower.a": (in_vision,), "lm_head": (in_rest,)}),
    )


VICUNA_7B = {
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "hidden_size": 4096
}  # fmt: skip
YI_34B = {
    "num_hidden_layers": 60, "num_attention_heads": 56, "num_key_value_heads": 8, "hidden_size": 7168
}  # fmt: skip


def write_hollow_weights(folder: Path) -> None:
    """The weights that a folder's config.json asks for, under the names of the installed transformers: a true header,
    and a hole for content in bfloat16, which takes no room on the disk."""
    import torch
    from transformers import LlavaNextVideoConfig, LlavaNextVideoForConditionalGeneration

    with torch.device("meta"):
        weights = LlavaNextVideoForConditionalGeneration(LlavaNextVideoConfig.from_pretrained(folder)).state_dict()
    header, end = {}, 0
    for name, weight in weights.items():
        begin, end = end, end + 2 * weight.numel()
        header[name] = {"dtype": "BF16", "shape": list(weight.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


def as_wide_as_vicuna_7b(folder: Path, **entries):
    """Turns a copy of the small model into one that is as wide as LLaVA-NeXT-Video-7B, without content; `entries` go
    into its text_config."""
    config = json.loads((folder / "config.json").read_text())
    for name in ("rope_parameters", "head_dim"):
        config["text_config"].pop(name, None)
    sizes = {"hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 32}
    config["text_config"] |= sizes | {"max_position_embeddings": 4096, **entries}
    (folder / "config.json").write_text(json.dumps(config))
    write_hollow_weights(folder)
