"""Checkpoints that are broken, foreign or hostile: each its own line, before the weights are read where that can be.

The parts that tests/model/test_checkpoint.py tries one by one are gone through here by the script itself."""

import json
import pickle
import re
import shutil
import struct

import pytest

from tests.support.fault_tools import Bench, assert_refused


@pytest.fixture
def bench(tmp_path, capsys, record_property):
    bench = Bench(tmp_path, capsys, record_property)
    bench.model = shutil.copytree(bench.model, tmp_path / "model")
    return bench


@pytest.fixture
def no_weights(monkeypatch):
    """Whoever reads the weights all the same ends with a TypeError."""
    monkeypatch.setattr("videobench.model.engine.load_engine", None)


def change(model, name, **entries):
    (model / name).write_text(json.dumps(json.loads((model / name).read_text()) | entries))


def change_part(part, **entries):
    """A damage to an object in config.json; None: to the outermost one."""

    def damage(model):
        whole = json.loads((model / "config.json").read_text())
        change(model, "config.json", **({part: whole[part] | entries} if part else entries))

    return damage


def change_header(model, change_entries):
    """The header of the weights, with its length; the tensors behind it stay."""
    path = model / "model.safetensors"
    content = path.read_bytes()
    end = 8 + struct.unpack("<Q", content[:8])[0]
    header = change_entries(json.loads(content[8:end]))
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + content[end:])


def shard(model, **changes):
    """Two shards and their index, as large checkpoints come; `changes` to the index."""
    shutil.copy(model / "model.safetensors", model / "a.safetensors")
    shutil.move(model / "model.safetensors", model / "b.safetensors")
    header = (model / "a.safetensors").read_bytes()
    weights = json.loads(header[8 : 8 + struct.unpack("<Q", header[:8])[0]])
    names = [name for name in weights if name != "__metadata__"]
    by_weight = {name: "a.safetensors" if index % 2 else "b.safetensors" for index, name in enumerate(names)}
    index = {"metadata": {}, "weight_map": by_weight} | changes
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    return by_weight


def write(name, content):
    return lambda model: (model / name).write_bytes(content)


def set_first(field, value):
    def entries(header):
        name = next(name for name in header if name != "__metadata__")
        return header | {name: header[name] | {field: value}}

    return lambda model: change_header(model, entries)


def cut_a_shard(model):
    shard(model)
    path = model / "b.safetensors"
    path.write_bytes(path.read_bytes()[:-7])


def empty(model):
    shutil.rmtree(model)
    model.mkdir()


def pickled_only(model):
    (model / "model.safetensors").rename(model / "pytorch_model.bin")


DAMAGES = [
    pytest.param(shutil.rmtree, "model: not a folder", id="missing"),
    pytest.param(empty, "config.json: cannot be read", id="empty"),
    pytest.param(write("config.json", b"{"), "config.json: not JSON", id="config-cut-short"),
    pytest.param(write("config.json", b"[]"), "config.json: model_type is 'no object'", id="config-is-a-list"),
    pytest.param(
        lambda model: change(model, "config.json", model_type="llava"), "model_type is 'llava'", id="other-model"
    ),
    pytest.param(
        lambda model: change(model, "config.json", model_type=["x"]), r"model_type is \['x'\]", id="type-is-a-list"
    ),
    pytest.param(
        lambda model: change(model, "config.json", vision_config=5), "not a LLaVA-NeXT-Video config", id="config"
    ),
    pytest.param(lambda model: change(model, "config.json", spatial_pool_stride=0), "pool stride is 0", id="stride-0"),
    pytest.param(
        lambda model: change(model, "config.json", video_token_index=3), "token 3, the tokenizer says", id="token-id"
    ),
    pytest.param(
        lambda model: change(model, "config.json", quantization_config={"quant_method": "awq"}),
        "a quantised copy",
        id="quantised",
    ),
    pytest.param(
        change_part("text_config", quantization_config={"quant_method": "awq"}), "a quantised copy", id="quantised-part"
    ),
    pytest.param(
        change_part("text_config", model_type="lightglue", keypoint_detector_config={"_name_or_path": "evil/code"}),
        "text_config is of 'lightglue', not of llama or mistral",
        id="part-that-loads-others",
    ),
    pytest.param(
        change_part("vision_config", model_type=["x"]), r"vision_config is of \['x'\], not of clip", id="part-is-a-list"
    ),
    *(
        pytest.param(
            change_part(part, **{name: value}),
            f"{name} is .*, not eager or sdpa",
            id=f"attention-{number}",
        )
        for number, (part, name, value) in enumerate(
            (
                (None, "_attn_implementation_internal", "evil/code"),
                (None, "attn_implementation", {"text_config": "evil/code"}),
                ("text_config", "_attn_implementation_internal", "evil/code@main"),
                ("vision_config", "_attn_implementation", "flash_attention_2"),
            )
        )
    ),
    pytest.param(write("model.safetensors", b""), "not a safetensors file", id="weights-empty"),
    pytest.param(write("model.safetensors", b"\xff" * 64), "not a safetensors file", id="header-longer-than-the-file"),
    pytest.param(
        lambda model: change_header(model, lambda header: b"[]"), "not a safetensors file", id="header-is-a-list"
    ),
    pytest.param(
        lambda model: change_header(model, lambda header: b'{"a":' * 9999), "not a safetensors", id="header-nested"
    ),
    pytest.param(set_first("data_offsets", 5), "not a safetensors file", id="offsets-are-a-number"),
    pytest.param(set_first("data_offsets", [0, 10**12]), "header tells of 1000000", id="offsets-beyond-the-end"),
    pytest.param(set_first("dtype", "I8"), "of dtype I8, which is not supported", id="8-bit-weights"),
    pytest.param(pickled_only, "only pickled .bin weights are there", id="pickled-weights"),
    pytest.param(cut_a_shard, "b.safetensors: [0-9]+ bytes, but its header", id="shard-cut-short"),
    pytest.param(lambda model: shard(model, weight_map=None), "holds no weight_map", id="index-without-weights"),
    pytest.param(
        lambda model: shard(model, weight_map={"x": "c.safetensors"}), "c.safetensors missing", id="missing-shard"
    ),
    pytest.param(
        lambda model: shard(model, weight_map={"x": "a.safetensors"}),
        "x is not in it, but",
        id="index-of-another-upload",
    ),
    pytest.param(
        lambda model: shard(model, weight_map={"x": "../../a.safetensors"}),
        "is no safetensors file",
        id="shard-elsewhere",
    ),
    pytest.param(
        lambda model: shard(model, weight_map={"x": "pytorch_model.bin"}),
        "is no safetensors file",
        id="shard-is-pickled",
    ),
    pytest.param(write("tokenizer.json", b"{}"), "tokenizer cannot be loaded", id="tokenizer-empty"),
    pytest.param(write("chat_template.json", b"{"), "chat template cannot be read", id="template-cut-short"),
    pytest.param(write("chat_template.jinja", b"\xff"), "cannot be (read|loaded)", id="template-not-UTF-8"),
    pytest.param(write("chat_template.jinja", b"{% for"), "cannot hold a video and a question", id="template-broken"),
    pytest.param(
        write("chat_template.jinja", b"hello"), "cannot hold a video and a question", id="template-without-question"
    ),
    pytest.param(
        write("chat_template.jinja", b"{{ ''.__class__.__mro__[1].__subclasses__() }}{{ messages[0]['content'] }}"),
        "cannot hold a video and a question: access to attribute '__class__'",
        id="template-that-reaches-for-python",
    ),
    pytest.param(
        lambda model: change(model, "video_preprocessor_config.json", image_mean=[1, 2]),
        "three numbers",
        id="mean-of-two",
    ),
]


@pytest.mark.parametrize(("damage", "found"), DAMAGES)
def test_a_broken_checkpoint_is_refused_before_the_weights_are_read(bench, no_weights, damage, found):
    damage(bench.model)
    assert_refused(bench.answer(), bench.model, found)
    assert not (bench.folder / "out").exists()


def test_frames_that_do_not_fit_are_refused_before_the_weights_are_read(bench, no_weights):
    assert_refused(bench.answer("--num_frames", 4000), "", "4000 frames take .* positions: use fewer --num_frames")


def test_a_missing_rope_factor_is_a_warning(bench, no_weights):
    text = json.loads((bench.model / "config.json").read_text())["text_config"]
    for name in ("rope_parameters", "rope_scaling", "head_dim"):
        text.pop(name, None)
    text |= {"hidden_size": 4096, "num_attention_heads": 32, "max_position_embeddings": 4096}
    change(bench.model, "config.json", text_config=text)
    outcome = bench.answer("--dry_run")
    assert outcome.status == 0
    assert "warning: " in outcome.err
    assert "no linear rope factor" in outcome.err


@pytest.mark.parametrize("damage", [shard, lambda model: change(model, "config.json", model_type="llava_next")])
def test_shards_and_old_copies_are_answered(bench, damage):
    damage(bench.model)
    assert bench.answer("--limit", 2).status == 0


def test_a_weight_that_is_missing_is_named(bench):
    change_header(
        bench.model, lambda header: {("x" + name if "lm_head" in name else name): header[name] for name in header}
    )
    outcome = bench.answer()
    assert outcome.status == 2
    # Before it transformers has its own report; 4.x calls the weight language_model.lm_head.weight.
    assert re.search(r"1 weights missing, (language_model\.)?lm_head", outcome.err.splitlines()[-1])


class Evil:
    def __reduce__(self):
        return open, ("pickle was run", "w")


def test_nothing_of_a_checkpoint_is_run(bench, monkeypatch, tmp_path):
    """Neither its Python files, nor pickles of any name; and nobody is asked whether they may."""
    code = "open('code was run', 'w')\nclass Mine: pass\n"
    (bench.model / "evil.py").write_text(code)
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json"):
        change(
            bench.model,
            name,
            auto_map=dict.fromkeys(("AutoConfig", "AutoModel", "AutoProcessor", "AutoImageProcessor"), "evil.Mine")
            | {"AutoTokenizer": ["evil.Mine", "evil.Mine"]},
            trust_remote_code=True,
        )
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "tokenizer.pkl", "added_tokens.bin"):
        (bench.model / name).write_bytes(pickle.dumps(Evil()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asks at the terminal"))
    outcome = bench.answer("--limit", 2)
    assert outcome.status == 0
    assert not list(tmp_path.rglob("*was run"))
    change(bench.model, "tokenizer_config.json", tokenizer_class="MineTokenizer")
    bench.answer("--limit", 3)  # whether transformers finds a tokenizer for it or not
    assert not list(tmp_path.rglob("*was run"))
