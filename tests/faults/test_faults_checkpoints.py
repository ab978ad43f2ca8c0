"""Checkpoints whose files are broken, foreign or hostile: each its own line, before the weights are read where that can
be. By the script itself; what config.json states: test_faults_configs.py."""

import json
import os
import pickle
import shutil
import time
from pathlib import Path

import pytest

from tests.support.checkpoint_damages import (
    change,
    change_between_fingerprint_blocks,
    change_header,
    cut_a_shard,
    empty,
    make_socket,
    make_sparse,
    overlap,
    pickled_only,
    rename_a_weight,
    replaced,
    set_first,
    set_in,
    shard,
    tokenizer,
    write,
)
from tests.support.fault_tools import Bench, assert_refused


@pytest.fixture
def bench(tmp_path, capsys, record_property):
    bench = Bench(tmp_path, capsys, record_property)
    bench.model = shutil.copytree(bench.model, tmp_path / "model")
    return bench


@pytest.fixture
def no_weights(monkeypatch):
    """Whoever still reads the weights ends with a TypeError."""
    monkeypatch.setattr("videobench.model.engine.load_engine", None)


FILES = [
    pytest.param(shutil.rmtree, "model: not a folder", id="missing"),
    pytest.param(empty, "config.json: cannot be read", id="empty"),
    pytest.param(replaced("config.json", os.mkfifo), "config.json: neither a regular file nor", id="config-is-a-pipe"),
    pytest.param(replaced("model.safetensors", os.mkfifo), "neither a regular file nor", id="weights-are-a-pipe"),
    pytest.param(replaced("README.md", make_socket), "README.md: neither a regular file nor", id="a-socket"),
    pytest.param(
        replaced("tokenizer.json", lambda path: path.symlink_to("/dev/zero")), "neither a regular", id="a-device"
    ),
    pytest.param(
        replaced("tokenizer.json", lambda path: path.symlink_to("../blobs/gone")),
        r"tokenizer.json: cannot be read \(No such file",
        id="half-copied-cache-of-the-hub",
    ),
    pytest.param(
        replaced("config.json", lambda path: path.symlink_to(path.name)), "Too many levels of symbolic", id="link-loop"
    ),
    pytest.param(
        replaced("config.json", Path.mkdir), r"config.json: cannot be read \(Is a dir", id="config-is-a-folder"
    ),
    pytest.param(replaced("model.safetensors", Path.mkdir), "model.safetensors missing", id="weights-are-a-folder"),
    pytest.param(replaced("tokenizer.json", make_sparse), "1000000000000 bytes, more than such a file", id="huge"),
    pytest.param(write("adapter_config.json", b"{}"), "holds an adapter", id="adapter"),
]
NO_WEIGHTS = "model.safetensors: not a whole safetensors file"
WEIGHTS = [
    pytest.param(write("model.safetensors", b""), NO_WEIGHTS, id="empty"),
    pytest.param(write("model.safetensors", b"\xff" * 64), NO_WEIGHTS, id="header-longer-than-the-file"),
    pytest.param(lambda model: change_header(model, lambda header: b"[]"), NO_WEIGHTS, id="header-is-a-list"),
    pytest.param(lambda model: change_header(model, lambda header: b'{"a":' * 9999), NO_WEIGHTS, id="header-nested"),
    pytest.param(lambda model: change_header(model, overlap), NO_WEIGHTS, id="offsets-overlap"),
    pytest.param(set_first("data_offsets", 5), NO_WEIGHTS, id="offsets-are-a-number"),
    pytest.param(set_first("data_offsets", [0, 10**12]), NO_WEIGHTS, id="offsets-beyond-the-end"),
    pytest.param(set_first("data_offsets", [-8, 0]), NO_WEIGHTS, id="offsets-below-0"),
    pytest.param(set_first("data_offsets", [0, 2**64]), NO_WEIGHTS, id="offsets-beyond-64-bits"),
    pytest.param(set_first("dtype", "F16"), NO_WEIGHTS, id="dtype-of-half-the-bytes"),
    pytest.param(set_first("dtype", "pickle"), NO_WEIGHTS, id="dtype-unknown"),
    pytest.param(set_first("dtype", "I32"), "of dtype I32, which is not supported", id="dtype-of-whole-numbers"),
    pytest.param(set_first("shape", [2**40, 2**40]), NO_WEIGHTS, id="shape-beyond-64-bits"),
    pytest.param(set_first("shape", ["128"]), NO_WEIGHTS, id="shape-of-texts"),
    pytest.param(set_first("shape", [2, 64]), "is of shape 2x64, by config.json of 128", id="shape-of-another-model"),
    pytest.param(pickled_only, "only pickled .bin weights are there", id="pickled"),
    pytest.param(cut_a_shard, "b.safetensors: not a whole safetensors file", id="shard-cut-short"),
    pytest.param(lambda model: shard(model, weight_map=None), "holds no weight_map", id="index-without-weights"),
    pytest.param(
        lambda model: shard(model, weight_map={"x": "c.safetensors"}), "c.safetensors missing", id="missing-shard"
    ),
    pytest.param(
        lambda model: shard(model, weight_map={"x": "a.safetensors"}),
        "x is not in it, though",
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
    pytest.param(rename_a_weight, "1 weights missing, lm_head.weight first", id="weight-of-another-name"),
]
TOKENIZERS = [
    pytest.param(write("tokenizer.json", b"{}"), "tokenizer cannot be used", id="empty"),
    pytest.param(write("tokenizer.json", b"[" * 10**6), "tokenizer cannot be used", id="nested"),
    pytest.param(write("tokenizer_config.json", b"[" * 10**6), "tokenizer cannot be used", id="nested-settings"),
    pytest.param(write("tokenizer_config.json", b"[]"), "tokenizer cannot be used", id="settings-are-a-list"),
    pytest.param(
        tokenizer(lambda content: content["model"].update(unk_token="<none>")),
        "tokenizer cannot be used",
        id="unknown-token-is-unknown",
    ),
    pytest.param(
        tokenizer(lambda content: content["model"]["vocab"].update({"x": 2**40})), "cannot be used", id="id-1e12"
    ),
    pytest.param(
        tokenizer(lambda content: content["model"]["vocab"].update({"huge": 2**31})),
        "tokenizer has the id 2147483648, but the text model has 281",
        id="id-2e9",
    ),
    pytest.param(
        tokenizer(
            lambda content: content["added_tokens"].append(
                content["added_tokens"][0] | {"id": 2**31, "content": "brand new"}
            )
        ),
        "tokenizer has the id 281, but the text model has 281",
        id="added-id-2e9",
    ),
    pytest.param(
        tokenizer(lambda content: content["model"].update(type="os.system")), "cannot be used", id="model-type"
    ),
    pytest.param(set_in("tokenizer_config.json", {"eos_token": {"x": 1}}), "tokenizer", id="end-is-an-object"),
    pytest.param(
        set_in("tokenizer_config.json", {"tokenizer_class": 5}), "tokenizer cannot be used", id="class-is-a-number"
    ),
    # Templates.
    pytest.param(write("chat_template.json", b"{"), "chat_template.json: not JSON", id="template-cut-short"),
    pytest.param(write("chat_template.jinja", b"\xff"), "cannot be used|not UTF-8", id="template-not-UTF-8"),
    pytest.param(write("chat_template.jinja", b" " * (2 << 20)), "larger than 1048576 bytes", id="template-large"),
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
        write("chat_template.jinja", b"{% for a in range(99999) %}{{ 'x' * 9999 }}{% endfor %}"),
        "it writes more than 100000 characters",
        id="template-that-writes-gigabytes",
    ),
    pytest.param(
        write("chat_template.jinja", b"{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"),
        "is not rendered within 5 s of processor time",
        id="template-that-does-not-end",
    ),
]


@pytest.mark.parametrize(("damage", "found"), [*FILES, *WEIGHTS, *TOKENIZERS])
def test_a_broken_checkpoint_is_refused_before_the_weights_are_read(bench, no_weights, damage, found):
    damage(bench.model)
    begun = time.monotonic()
    assert_refused(bench.answer(), bench.model, found)
    assert time.monotonic() - begun < 60
    assert not (bench.folder / "out").exists()


@pytest.mark.parametrize("damage", [shard, lambda model: change(model, "config.json", model_type="llava_next")])
def test_shards_and_old_copies_are_answered(bench, damage):
    damage(bench.model)
    assert bench.answer("--limit", 2).status == 0


def test_two_models_that_only_their_whole_weights_tell_apart_do_not_get_into_one_result(bench):
    assert bench.answer("--limit", 2).status == 0
    before = json.loads(bench.result.read_bytes())
    [first] = {row["run"]["weights_sha256"] for row in before.values()}
    change_between_fingerprint_blocks(bench.model)
    outcome = bench.answer("--limit", 4)
    last = f"error: {bench.model}: its weights (SHA-256 "
    assert outcome.status == 2
    assert outcome.err.splitlines()[-1].startswith(last), outcome.err
    assert f"are not those of the replies so far ({first:.12}); use the former, another" in outcome.err
    assert "weights_sha256" not in bench.journal.read_text().splitlines()[0]  # known too late for the identity
    assert set(json.loads(bench.result.read_bytes())) == set(before)  # no row of the second
    assert bench.answer("--limit", 4, "--overwrite").status == 0
    after = json.loads(bench.result.read_bytes())
    [second] = {row["run"]["weights_sha256"] for row in after.values()}
    assert first != second
    assert {row["run"]["checkpoint_sha256"] for row in (*before.values(), *after.values())} == {
        row["run"]["checkpoint_sha256"] for row in before.values()
    }


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
