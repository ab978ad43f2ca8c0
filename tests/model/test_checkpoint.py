"""What is known of a checkpoint before its weights are read; those that are refused: tests/faults."""

import json
import math
import shutil

import pytest
from safetensors import safe_open

from tests.support.checkpoints import as_wide_as_vicuna_7b
from videobench.model.checkpoint import load_checkpoint


@pytest.fixture
def copy(tiny_model_path, tmp_path):
    return shutil.copytree(tiny_model_path, tmp_path / "model 模型")


def change(path, **entries):
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def test_what_is_read_from_a_checkpoint(tiny_model_path):
    checkpoint = load_checkpoint(tiny_model_path)
    assert checkpoint.tokens_per_frame == 9  # 36 px in patches of 6 are 6 x 6, pooled by 2: 3 x 3
    assert checkpoint.positions == 2048
    assert [path.name for path in checkpoint.weights.paths] == ["model.safetensors"]
    with safe_open(tiny_model_path / "model.safetensors", framework="np") as file:
        sizes = {name: math.prod(file.get_slice(name).get_shape()) for name in list(file.keys())}
    assert checkpoint.weights.in_vision == sum(size for name, size in sizes.items() if "vision_tower" in name) > 0
    assert checkpoint.weights.total == sum(sizes.values())


def test_a_linear_rope_factor_stretches_the_positions(copy):
    text = json.loads((copy / "config.json").read_text())["text_config"]
    text.pop("rope_parameters", None)
    text["rope_scaling"] = {"type": "linear", "factor": 2.5}
    change(copy / "config.json", text_config=text)
    assert load_checkpoint(copy).positions == 5120


@pytest.mark.parametrize(("window", "positions"), [(None, 2048), (4096, 2048), (200, 169)])
def test_a_sliding_window_takes_prompt_padding_and_reply(copy, window, positions):
    text = json.loads((copy / "config.json").read_text())["text_config"]
    change(copy / "config.json", text_config=text | {"model_type": "mistral", "sliding_window": window})
    assert load_checkpoint(copy).positions == positions  # at most 31 tokens of padding


def test_the_identity_follows_the_content_not_the_path(tiny_model_path, copy):
    first = load_checkpoint(tiny_model_path).sha256
    assert load_checkpoint(copy).sha256 == first
    content = bytearray((copy / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "model.safetensors").write_bytes(content)
    assert load_checkpoint(copy).sha256 != first


def test_a_7b_checkpoint_without_its_rope_factor_is_warned_of(copy, capsys):
    as_wide_as_vicuna_7b(copy)
    load_checkpoint(copy)
    assert "no linear rope factor" in capsys.readouterr().err
    as_wide_as_vicuna_7b(copy, rope_scaling={"type": "linear", "factor": 2.5})
    load_checkpoint(copy)
    assert capsys.readouterr().err == ""


def test_a_template_of_another_backbone_is_warned_of(copy, capsys):
    load_checkpoint(copy).prompt_builder(8)
    assert capsys.readouterr().err == ""
    text = "{% for message in messages %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% endfor %}"
    (copy / "chat_template.json").write_text(json.dumps({"chat_template": text}))
    load_checkpoint(copy).prompt_builder(8)
    assert "was trained on" in capsys.readouterr().err
