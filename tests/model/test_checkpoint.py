"""A checkpoint is known to be whole and consistent before its weights are read."""

import json
import math
import shutil

import pytest
from safetensors import safe_open

from tests.support.checkpoints import as_wide_as_vicuna_7b
from videobench.errors import InputError
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


def test_old_copies_call_themselves_llava_next(copy):
    change(copy / "config.json", model_type="llava_next")
    assert load_checkpoint(copy).tokens_per_frame == 9


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


def remove(name):
    return lambda path: (path / name).unlink()


def cut(path):
    content = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(content[:-1])


def pickle_only(path):
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def lose_a_shard(path):
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (path / "model.safetensors").rename(path / "model-00001-of-00002.safetensors")
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def enlarge_crop(path):
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        if (path / name).exists():
            change(path / name, crop_size={"height": 48, "width": 48}, size={"shortest_edge": 48})


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        pytest.param(remove("config.json"), r"config\.json: cannot be read", id="no-config"),
        pytest.param(
            lambda path: change(path / "config.json", model_type="llama"), "model_type is 'llama'", id="other-model"
        ),
        pytest.param(remove("model.safetensors"), r"model\.safetensors missing; download", id="no-weights"),
        pytest.param(pickle_only, r"only pickled \.bin weights", id="pickled-weights"),
        pytest.param(cut, "not a whole safetensors file", id="weights-cut-short"),
        pytest.param(
            lambda path: (path / "model.safetensors").write_bytes(b"version https://git-lfs"),
            "not a whole safetensors file",
            id="git-lfs-pointer",
        ),
        pytest.param(lose_a_shard, "model-00002-of-00002.safetensors missing", id="missing-shard"),
        pytest.param(remove("tokenizer.json"), "tokenizer cannot be used", id="no-tokenizer"),
        pytest.param(
            lambda path: change(path / "config.json", video_token_index=7),
            "is token 7, the tokenizer says",
            id="token-id",
        ),
        pytest.param(enlarge_crop, "cropped to 48x48", id="crop-does-not-fit-the-vision-tower"),
        pytest.param(
            lambda path: change(path / "config.json", vision_feature_select_strategy="full"),
            "is 'full', not default",
            id="select-strategy",
        ),
    ],
)
def test_a_faulty_checkpoint_is_refused(copy, damage, found):
    damage(copy)
    with pytest.raises(InputError, match=found):
        load_checkpoint(copy)


def test_a_path_that_is_no_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="not a folder"):
        load_checkpoint(tmp_path / "nowhere")


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
