"""Weights that transformers leaves in the files, or names otherwise, load whole; their hash is that of all bytes."""

import hashlib
import os
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlavaNextVideoForConditionalGeneration

from videobench.device.devices import open_device
from videobench.errors import InputError
from videobench.model.checkpoint import load_checkpoint, start_hashing
from videobench.model.engine import load_engine


def load(folder):
    """The checkpoint, of which the engine has loaded every weight."""
    checkpoint = load_checkpoint(folder)
    load_engine(checkpoint, open_device("cpu"), "float32", max_new_tokens=4)
    return checkpoint


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
    assert load(save({name: each.contiguous() for name, each in model.state_dict().items()}))


def test_numbers_that_transformers_computes_itself_may_be_in_the_files(tiny_model_path, save):
    """Old copies hold them."""
    weights = load_file(tiny_model_path / "model.safetensors")
    total = load_checkpoint(tiny_model_path).weights.total
    weights["vision_tower.vision_model.embeddings.position_ids"] = torch.arange(37)[None]
    weights["language_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(16, dtype=torch.float64)
    assert load(save(weights)).weights.total == total


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_may_be_missing_only_if_it_is_tied(tiny_model_path, save, tied):
    weights = load_file(tiny_model_path / "model.safetensors")
    del weights["language_model.lm_head.weight"]
    folder = save(weights)
    config = (folder / "config.json").read_text()
    if tied:
        (folder / "config.json").write_text(
            config.replace('"tie_word_embeddings": false', '"tie_word_embeddings": true')
        )
        assert load(folder)
    else:
        with pytest.raises(InputError, match=r"1 weights missing, such as lm_head\.weight"):
            load(folder)


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
