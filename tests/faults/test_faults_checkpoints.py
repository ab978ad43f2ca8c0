"""What is wrong with a --model_path: one line each and status 2, before the weights are read if that can be."""

import json
import pickle
import shutil

import pytest
from safetensors.numpy import load_file, save_file

from tests.support.fault_tools import Bench, assert_refused


@pytest.fixture
def bench(tmp_path, capsys):
    bench = Bench(tmp_path, capsys)
    bench.model = shutil.copytree(bench.model, tmp_path / "model")
    return bench


def change(model, name, part=None, **entries):
    path = model / name
    whole = json.loads(path.read_text()) if path.exists() else {}
    (whole if part is None else whole[part]).update(entries)
    path.write_text(json.dumps(whole))


def changed(name, part=None, **entries):
    return lambda model: change(model, name, part, **entries)


def written(name, content):
    return lambda model: (model / name).write_bytes(content)


def empty(model):
    shutil.rmtree(model)
    model.mkdir()


def one_level_up(model):
    model.rename(model.with_name("aside"))
    model.mkdir()
    model.with_name("aside").rename(model / "it")


def cut(name):
    return lambda model: (model / name).write_bytes((model / name).read_bytes()[:-7])


def shard(model, **index):
    """Two shards and their index, as large checkpoints come; `index` replaces entries of the index."""
    weights = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    names = sorted(weights)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, held in shards.items():
        save_file({name: weights[name] for name in held}, model / file, {"format": "pt"})
    by_weight = {name: file for file, held in shards.items() for name in held}
    (model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": by_weight} | index))


def sharded(then):
    return lambda model: (shard(model), then(model))


def index(**entries):
    return lambda model: shard(model, **entries)


def pickled_only(model):
    (model / "model.safetensors").rename(model / "pytorch_model.bin")


def image_only(model):
    """LLaVA-NeXT for images calls itself as old copies of the 7B weights do; its tokenizer has no video token."""
    change(model, "config.json", model_type="llava_next")
    text = (model / "tokenizer.json").read_text()
    (model / "tokenizer.json").write_text(text.replace("<video>", "<other>"))


def no_end(model):
    (model / "generation_config.json").unlink()
    change(model, "config.json", "text_config", eos_token_id=None)
    change(model, "tokenizer_config.json", eos_token=None)


def larger_frames(model):
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        change(model, name, crop_size={"height": 48, "width": 48}, size={"shortest_edge": 48})


UNREADABLE = r"model: cannot be read as a checkpoint \("
WRONG = [
    pytest.param(shutil.rmtree, "model: not a folder", id="no-such-folder"),
    pytest.param(empty, "not the folder of a checkpoint: it has no config.json; check", id="empty-folder"),
    pytest.param(written("adapter_config.json", b"{}"), "an adapter", id="adapter"),
    pytest.param(one_level_up, "it has no config.json; use .*/it, which has one", id="one-level-up"),
    # Weights.
    pytest.param(
        written("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        "not a whole safetensors file .*; it is a pointer of git-lfs: get the file with git lfs pull",
        id="git-lfs",
    ),
    pytest.param(lambda model: (model / "model.safetensors").unlink(), "model.safetensors missing", id="no-weights"),
    pytest.param(pickled_only, r"pickled \.bin weights are not loaded", id="only-bin"),
    pytest.param(sharded(cut("b.safetensors")), "b.safetensors: not a whole safetensors file", id="cut-shard"),
    pytest.param(
        sharded(lambda model: (model / "b.safetensors").unlink()), "model: b.safetensors missing", id="missing-shard"
    ),
    pytest.param(index(weight_map=None), UNREADABLE, id="index-without-weights"),
    pytest.param(
        index(weight_map={"x": "a.safetensors"}), "x is not in it, though model.safetensors", id="index-of-another"
    ),
    # config.json.
    pytest.param(cut("config.json"), "config.json: not JSON", id="config-cut"),
    pytest.param(changed("config.json", model_type="llava"), "model_type is 'llava'", id="LLaVA"),
    pytest.param(
        written("generation_config.json", b'{"eos_token_id": "x"}'), "eos_token_id is 'x', not a number", id="end-token"
    ),
    pytest.param(image_only, "<video> is token 4, the tokenizer says", id="LLaVA-NeXT-for-images"),
    pytest.param(
        changed("config.json", "text_config", model_type="qwen2"), "text_config is not that of a llama", id="qwen2"
    ),
    pytest.param(changed("config.json", text_config=None), "text_config is not that of a llama", id="no-text-model"),
    pytest.param(changed("config.json", quantization_config={"bits": 4}), "a quantised copy", id="quantised"),
    pytest.param(changed("config.json", spatial_pool_stride=0), UNREADABLE + "ZeroDivision", id="stride-0"),
    pytest.param(changed("config.json", vision_feature_select_strategy="full"), "is not 'default'", id="strategy"),
    pytest.param(
        changed("config.json", "text_config", vocab_size=200), "has 281 tokens, the text model 200", id="vocabulary"
    ),
    # The other files.
    pytest.param(cut("tokenizer.json"), UNREADABLE, id="tokenizer-cut"),
    pytest.param(lambda model: (model / "tokenizer.json").unlink(), "neither tokenizer.json nor", id="no-tokenizer"),
    pytest.param(changed("tokenizer_config.json", model_max_length="x"), UNREADABLE + "TypeError", id="tokenizer-type"),
    pytest.param(written("generation_config.json", b"{"), "generation_config.json: not JSON", id="generation-cut"),
    pytest.param(no_end, "none of its files states the eos_token_id", id="no-end"),
    pytest.param(larger_frames, "cropped to 48x48, the vision tower takes 36x36", id="frames-of-another"),
    pytest.param(written("chat_template.json", b"{"), "chat_template.json: not JSON", id="template-cut"),
    pytest.param(written("chat_template.jinja", b"{% for"), "cannot hold a video and a question", id="template-broken"),
]


@pytest.mark.parametrize(("damage", "found"), WRONG)
def test_a_wrong_checkpoint_is_refused_before_the_weights_are_read(bench, monkeypatch, damage, found):
    monkeypatch.setattr("videobench.model.engine.load_engine", None)  # whoever reads the weights ends with a TypeError
    damage(bench.model)
    assert_refused(bench.answer(), bench.model, found)
    assert_refused(bench.start("run_npu", *bench.run_flags("--dry_run")), bench.model, found)
    assert not (bench.folder / "out").exists()


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (
            changed("config.json", "text_config", num_hidden_layers=5),
            "9 weights missing, such as model.language_model.layers.4",
        ),
        (changed("config.json", "text_config", num_hidden_layers=2), r"18 weights not in the model .*layers\.2"),
        (changed("config.json", "text_config", intermediate_size=200), "12 weights of another shape .*layers.0.mlp"),
        (changed("config.json", "vision_config", num_attention_heads=5), UNREADABLE),
    ],
)
def test_weights_of_another_config_are_refused_when_they_are_read(bench, damage, found):
    """Behind what transformers says of them."""
    damage(bench.model)
    outcome = bench.answer()
    last = outcome.err.splitlines()[-1] + "\n"
    assert_refused(type(outcome)(outcome.status, outcome.out, last), bench.model, found)
    assert not bench.result.exists()


@pytest.mark.parametrize("damage", [shard, changed("config.json", model_type="llava_next")])
def test_shards_and_old_copies_are_answered(bench, damage):
    damage(bench.model)
    assert bench.answer("--limit", 2).status == 0


def test_a_run_goes_on_unless_a_file_that_is_read_has_changed(bench):
    assert bench.answer("--limit", 2).status == 0
    (bench.model / "README.txt").write_text("{}")
    outcome = bench.answer("--limit", 4)
    assert "2 kept, 2 new" in outcome.out, outcome
    assert len({row["run"]["checkpoint_sha256"] for row in json.loads(bench.result.read_bytes()).values()}) == 1
    found = "was begun with checkpoint_sha256 '.*, now it is '.*' .release 0.1.0"
    for name in ("preprocessor_config.json", "tokenizer_config.json", "generation_config.json"):
        before = (bench.model / name).read_text()
        (bench.model / name).write_text(before + " ")
        assert_refused(bench.answer("--limit", 4), bench.journal, found)
        (bench.model / name).write_text(before)


def test_two_models_that_only_their_whole_weights_tell_apart_do_not_get_into_one_result(bench):
    assert bench.answer("--limit", 2).status == 0
    before = json.loads(bench.result.read_bytes())
    [first] = {row["run"]["weights_sha256"] for row in before.values()}
    weights = bytearray((bench.model / "model.safetensors").read_bytes())
    weights[len(weights) // 30] ^= 1  # between two blocks of the fingerprint: 64 KiB at each 15th of the file
    (bench.model / "model.safetensors").write_bytes(weights)
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
    assert len({row["run"]["checkpoint_sha256"] for row in (*before.values(), *after.values())}) == 1


class Evil:
    def __reduce__(self):
        return open, ("pickle was run", "w")


def test_nothing_of_a_checkpoint_is_run(bench, monkeypatch, tmp_path):
    """Neither its Python files, nor pickles of any name, nor a kernel from the hub; and nobody is asked."""
    code = "open('code was run', 'w')\nclass Mine: pass\n"
    (bench.model / "evil.py").write_text(code)
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json"):
        own = dict.fromkeys(("AutoConfig", "AutoModel", "AutoProcessor", "AutoImageProcessor"), "evil.Mine")
        own["AutoTokenizer"] = ["evil.Mine", "evil.Mine"]
        change(bench.model, name, auto_map=own, trust_remote_code=True)
    for part in (None, "text_config", "vision_config"):  # CVE-2026-4372
        names = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")
        change(bench.model, "config.json", part, **dict.fromkeys(names, "evil/code@main"))
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "tokenizer.pkl", "added_tokens.bin"):
        (bench.model / name).write_bytes(pickle.dumps(Evil()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asks at the terminal"))
    outcome = bench.answer("--limit", 2)
    assert outcome.status == 0
    assert "evil" not in outcome.err
    assert not list(tmp_path.rglob("*was run"))
    change(bench.model, "tokenizer_config.json", tokenizer_class="MineTokenizer")
    bench.answer("--limit", 3)  # whether transformers finds a tokenizer for it or not
    assert not list(tmp_path.rglob("*was run"))
