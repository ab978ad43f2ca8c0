"""The weights in the files are those of the config: of the five checkpoints as they are on the hub, and of copies with
older or newer names. Their hash is that of all bytes."""

import hashlib
import os
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlavaNextVideoConfig, LlavaNextVideoForConditionalGeneration

from videobench.errors import InputError
from videobench.model.checkpoint import load_checkpoint
from videobench.model.weights import WeightFiles, check_weights, read_weight_headers, start_hashing

HIDDEN, INNER, PATCH, SIDE = 1024, 4096, 14, 336  # CLIP ViT-L/14 at 336 pixels, in all five


def uploaded(hidden, inner, layers, key_value, vocabulary):
    """Name -> shape, as in the files of llava-hf/LLaVA-NeXT-Video-*-hf."""
    vision = "vision_tower.vision_model"
    shapes = {
        "image_newline": (hidden,),
        "language_model.lm_head.weight": (vocabulary, hidden),
        "language_model.model.embed_tokens.weight": (vocabulary, hidden),
        "language_model.model.norm.weight": (hidden,),
        "multi_modal_projector.linear_1.weight": (hidden, HIDDEN),
        "multi_modal_projector.linear_1.bias": (hidden,),
        "multi_modal_projector.linear_2.weight": (hidden, hidden),
        "multi_modal_projector.linear_2.bias": (hidden,),
        f"{vision}.embeddings.class_embedding": (HIDDEN,),
        f"{vision}.embeddings.patch_embedding.weight": (HIDDEN, 3, PATCH, PATCH),
        f"{vision}.embeddings.position_embedding.weight": ((SIDE // PATCH) ** 2 + 1, HIDDEN),
    }
    for name in ("pre_layrnorm", "post_layernorm"):
        shapes |= {f"{vision}.{name}.{kind}": (HIDDEN,) for kind in ("weight", "bias")}
    for layer in range(24):
        here = f"{vision}.encoder.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= {f"{here}.self_attn.{name}.weight": (HIDDEN, HIDDEN), f"{here}.self_attn.{name}.bias": (HIDDEN,)}
        for name in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{here}.{name}.{kind}": (HIDDEN,) for kind in ("weight", "bias")}
        shapes |= {f"{here}.mlp.fc1.weight": (INNER, HIDDEN), f"{here}.mlp.fc1.bias": (INNER,)}
        shapes |= {f"{here}.mlp.fc2.weight": (HIDDEN, INNER), f"{here}.mlp.fc2.bias": (HIDDEN,)}
    for layer in range(layers):
        here = f"language_model.model.layers.{layer}"
        for name, width in (("q_proj", hidden), ("k_proj", key_value), ("v_proj", key_value), ("o_proj", hidden)):
            shapes[f"{here}.self_attn.{name}.weight"] = (width, hidden)
        shapes |= {f"{here}.mlp.{name}.weight": (inner, hidden) for name in ("gate_proj", "up_proj")}
        shapes[f"{here}.mlp.down_proj.weight"] = (hidden, inner)
        shapes |= {f"{here}.{name}.weight": (hidden,) for name in ("input_layernorm", "post_attention_layernorm")}
    return shapes


# What their text_config states beside what transformers has by default.
VICUNA = {"model_type": "llama", "max_position_embeddings": 4096, "rms_norm_eps": 1e-05, "vocab_size": 32064}
MISTRAL = {
    "model_type": "mistral", "max_position_embeddings": 32768, "rope_theta": 1e6, "sliding_window": None,
    "intermediate_size": 14336, "num_key_value_heads": 8, "vocab_size": 32064,
}  # fmt: skip
YI = {
    "model_type": "llama", "hidden_size": 7168, "intermediate_size": 20480, "num_hidden_layers": 60,
    "num_attention_heads": 56, "num_key_value_heads": 8, "rope_theta": 5e6, "max_position_embeddings": 4096,
    "vocab_size": 64064,
}  # fmt: skip
CHECKPOINTS = {
    "7B-and-7B-DPO": (VICUNA | {"rope_scaling": {"factor": 2.5, "type": "linear"}}, (4096, 11008, 32, 4096, 32064)),
    "7B-32K": (MISTRAL, (4096, 14336, 32, 1024, 32064)),
    "34B-and-34B-DPO": (YI, (7168, 20480, 60, 1024, 64064)),
}


@pytest.mark.parametrize(("text", "sizes"), CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_the_weights_of_the_five_checkpoints_are_those_of_their_configs(text, sizes):
    shapes, config = uploaded(*sizes), LlavaNextVideoConfig(text_config=text)
    check_weights(Path("model"), WeightFiles((), shapes), config)
    last = f"language_model.model.layers.{sizes[2] - 1}.mlp.up_proj.weight"
    for changed, found in (
        ({name: shape for name, shape in shapes.items() if name != last}, r"1 weights missing, layers\.\d+\.mlp\.up_p"),
        (shapes | {last: (7, 7)}, r"up_proj.weight is of shape 7x7, by config.json of \d+x\d+; the files"),
        (shapes | {last.replace(f".{sizes[2] - 1}.", ".99."): (7, 7)}, "1 weights not in the model .*layers.99.mlp"),
        (shapes | {"lm_head.weight": (7, 7)}, "1 weights not in the model of its config.json, .*lm_head.weight first"),
    ):
        with pytest.raises(InputError, match=found):
            check_weights(Path("model"), WeightFiles((), changed), config)


@pytest.fixture
def save(tiny_model_path, tmp_path):
    """Saves the small model with other weights; the copy's folder."""

    def save(weights):
        for path in tiny_model_path.glob("*.json"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
        save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
        return tmp_path

    return save


def test_copies_saved_by_the_installed_transformers_are_whole(tiny_model_path, save):
    model = LlavaNextVideoForConditionalGeneration.from_pretrained(tiny_model_path)
    assert load_checkpoint(save({name: each.contiguous() for name, each in model.state_dict().items()}))


def test_numbers_that_transformers_computes_itself_may_be_in_the_files(tiny_model_path, save):
    """Old copies hold them."""
    weights = load_file(tiny_model_path / "model.safetensors")
    total = load_checkpoint(tiny_model_path).weights.total
    weights["vision_tower.vision_model.embeddings.position_ids"] = torch.arange(37)[None]
    weights["language_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(16, dtype=torch.float64)
    assert load_checkpoint(save(weights)).weights.total == total


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_may_be_missing_only_where_it_is_tied(tiny_model_path, save, tied):
    weights = load_file(tiny_model_path / "model.safetensors")
    del weights["language_model.lm_head.weight"]
    folder = save(weights)
    config = (folder / "config.json").read_text()
    if tied:
        (folder / "config.json").write_text(
            config.replace('"tie_word_embeddings": false', '"tie_word_embeddings": true')
        )
        assert load_checkpoint(folder)
    else:
        with pytest.raises(InputError, match=r"1 weights missing, lm_head\.weight first"):
            load_checkpoint(folder)


def test_one_file_comes_before_an_index_as_in_transformers(tiny_model_path, save):
    folder = save(load_file(tiny_model_path / "model.safetensors"))
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"x": "another.safetensors"}}')
    assert read_weight_headers(folder).paths == (folder / "model.safetensors",)


def test_the_hash_is_that_of_all_bytes_and_names(tmp_path):
    paths = [tmp_path / f"model-0000{number}-of-00006.safetensors" for number in range(1, 7)]
    for path in paths:
        path.write_bytes(os.urandom(300_000))
    lines = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in paths)
    assert start_hashing(paths).result(60) == hashlib.sha256(lines.encode()).hexdigest()
    with paths[3].open("r+b") as file:  # between the blocks of the fingerprint
        file.seek(100_001)
        file.write(struct.pack("B", file.read(1)[0] ^ 1))
    assert start_hashing(paths).result(60) != hashlib.sha256(lines.encode()).hexdigest()


def test_a_file_that_cannot_be_hashed_is_named(tmp_path):
    with pytest.raises(InputError, match=r"b\.safetensors: cannot be read \(No such file"):
        start_hashing([tmp_path / "b.safetensors"]).result(60)
