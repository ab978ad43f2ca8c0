"""Sizes, types, activations, heads and tokens that a checkpoint states and does not have: each its own line, before the
weights are read."""

import json
import shutil
import time

import pytest

from tests.support.checkpoint_damages import change, config, ends_with, no_end_stated, rope, set_in, text, vision, write
from tests.support.checkpoints import as_wide_as_vicuna_7b
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


NO_MODEL = "not a LLaVA-NeXT-Video config"
CONFIGS = [
    pytest.param(write("config.json", b"{"), "config.json: not JSON", id="cut-short"),
    pytest.param(write("config.json", b"[]"), "config.json: model_type is 'no object'", id="is-a-list"),
    pytest.param(config(model_type="llava"), "model_type is 'llava'", id="other-model"),
    pytest.param(config(model_type=["x"]), r"model_type is \['x'\]", id="model-type-is-a-list"),
    pytest.param(config(vision_config=5), "vision_config is 5, not an object", id="part-is-a-number"),
    pytest.param(config(text_config=None), "text_config is None, not an object", id="part-is-null"),
    pytest.param(config(spatial_pool_stride=0), "spatial_pool_stride is 0, not a whole number", id="stride-0"),
    pytest.param(config(spatial_pool_stride=7), "leave no token of a frame", id="stride-beyond-the-frame"),
    pytest.param(config(vision_feature_layer=-5), "vision_feature_layer is beyond the layers", id="no-such-layer"),
    pytest.param(config(video_token_index=3), "token 3, the tokenizer says", id="token-id"),
    pytest.param(config(quantization_config={"quant_method": "awq"}), "a quantised copy", id="quantised"),
    pytest.param(text(quantization_config={"quant_method": "awq"}), "a quantised copy", id="quantised-part"),
    pytest.param(
        text(model_type="lightglue", keypoint_detector_config={"_name_or_path": "evil/code"}),
        "text_config.model_type is 'lightglue', not llama or mistral",
        id="part-that-loads-others",
    ),
    pytest.param(vision(model_type=["x"]), r"vision_config.model_type is \['x'\], not clip", id="part-type-is-a-list"),
    # Sizes.
    pytest.param(
        text(num_hidden_layers=2), "18 weights not in the model of its config.json, .*layers.2", id="fewer-layers"
    ),
    pytest.param(text(num_hidden_layers=5), r"9 weights missing, layers\.4\.", id="more-layers"),
    pytest.param(vision(num_hidden_layers=1), "32 weights not in the model", id="fewer-vision-layers"),
    pytest.param(text(num_hidden_layers=10**9), "num_hidden_layers is 1000000000, not a whole", id="layers-1e9"),
    pytest.param(text(hidden_size=10**9), "hidden_size is 1000000000, not a whole number", id="hidden-1e9"),
    pytest.param(text(hidden_size=10**6), f"{NO_MODEL}|is of shape", id="hidden-1e6"),
    pytest.param(text(vocab_size=10**30), r"vocab_size is 1000000+, not a whole number", id="vocabulary-1e30"),
    pytest.param(text(vocab_size=282), r"is of shape 281x128, by config.json of 282x128", id="vocabulary-282"),
    pytest.param(
        text(intermediate_size=255),
        "_proj.weight is of shape 256x128, by config.json of 255x128",
        id="intermediate-255",
    ),
    pytest.param(text(max_position_embeddings=-1), "max_position_embeddings is -1, not a whole", id="positions--1"),
    pytest.param(text(sliding_window=0), "sliding_window is 0, not a whole number", id="window-0"),
    pytest.param(vision(image_size=10**9), "image_size is 1000000000, not a whole number", id="image-1e9"),
    pytest.param(vision(image_size=42), "position_embedding.weight is of shape 37x96, by", id="image-42"),
    pytest.param(vision(patch_size=0), "patch_size is 0, not a whole number", id="patch-0"),
    pytest.param(vision(num_channels=10**9), "num_channels is 1000000000, not", id="channels-1e9"),
    # Types.
    *(
        pytest.param(text(hidden_size=value), "hidden_size is .*, not a whole number", id=f"hidden-size-{number}")
        for number, value in enumerate(("128", 128.5, True, [128], None))
    ),
    pytest.param(text(rms_norm_eps="x"), "rms_norm_eps is 'x', not a number above 0", id="epsilon-is-a-text"),
    pytest.param(vision(layer_norm_eps=-1), "layer_norm_eps is -1, not a number above 0", id="epsilon-below-0"),
    pytest.param(text(attention_bias="no"), "attention_bias is 'no', not true or false", id="bias-is-a-text"),
    pytest.param(text(attention_bias=True), "16 weights missing", id="bias-that-is-not-there"),
    pytest.param(config(vision_feature_layer=[-2]), r"layer is \[-2\], not a whole number", id="feature-layers"),
    # Rope.
    pytest.param(rope(5), "rope_scaling is 5, not an object", id="rope-is-a-number"),
    pytest.param(rope({"rope_type": "os.system"}), "rope_scaling.rope_type is 'os.system', not", id="rope-type"),
    pytest.param(rope({"type": ["linear"]}), r"rope_scaling.type is \['linear'\], not", id="rope-type-is-a-list"),
    pytest.param(rope({"type": "linear", "factor": "x"}), "factor is 'x', not a number above 0", id="rope-factor-text"),
    pytest.param(rope({"type": "linear", "factor": 0}), "factor is 0, not a number above 0", id="rope-factor-0"),
    pytest.param(rope({"type": "linear", "factor": 1e300}), r"factor is 1e\+300, not a number", id="rope-factor-1e300"),
    pytest.param(rope({"type": "linear"}), NO_MODEL, id="rope-without-factor"),
    pytest.param(rope({"type": "linear", "factor": None}), NO_MODEL, id="rope-factor-null"),
    pytest.param(rope({"rope_type": "llama3", "factor": 8}), NO_MODEL, id="rope-half-stated"),
    pytest.param(text(rope_theta=-1), "rope_theta is -1, not a number above 0", id="rope-theta"),
    # Activations.
    pytest.param(text(hidden_act="os.system"), "text_config.hidden_act is 'os.system', not silu", id="activation"),
    pytest.param(vision(hidden_act=5), "vision_config.hidden_act is 5, not silu", id="activation-is-a-number"),
    pytest.param(config(projector_hidden_act="tanh()"), "projector_hidden_act is 'tanh", id="projector-activation"),
    # Heads.
    pytest.param(text(num_attention_heads=0), "num_attention_heads is 0, not a whole number", id="heads-0"),
    pytest.param(text(num_attention_heads=3), f"{NO_MODEL}|is of shape", id="heads-3"),
    pytest.param(text(num_key_value_heads=3, head_dim=None), "is of shape", id="key-value-heads-3"),
    pytest.param(
        text(num_attention_heads=128, num_key_value_heads=128, head_dim=1), "head_dim is odd", id="head-dim-1"
    ),
    pytest.param(vision(num_attention_heads=5), NO_MODEL, id="vision-heads-5"),
]
SETTINGS = [
    pytest.param(write("generation_config.json", b"{"), "generation_config.json: not JSON", id="generation-cut-short"),
    *(
        pytest.param(
            ends_with(value), "generation_config.json: eos_token_id is .*, not a whole number", id=f"end-{each}"
        )
        for each, value in enumerate((281, 10**12, -1, "2", True, [2, 281], [[2]], {}))
    ),
    pytest.param(no_end_stated, "no file of it states the eos_token_id", id="no-end"),
    pytest.param(
        lambda model: change(model, "video_preprocessor_config.json", image_mean=[1, 2]),
        "three numbers",
        id="mean-of-two",
    ),
]


@pytest.mark.parametrize(("damage", "found"), [*CONFIGS, *SETTINGS])
def test_a_config_that_lies_is_refused_before_the_weights_are_read(bench, no_weights, damage, found):
    damage(bench.model)
    begun = time.monotonic()
    assert_refused(bench.answer(), bench.model, found)
    assert time.monotonic() - begun < 60
    assert not (bench.folder / "out").exists()


def test_frames_that_do_not_fit_are_refused_before_the_weights_are_read(bench, no_weights):
    assert_refused(bench.answer("--num_frames", 4000), "", "4000 frames take .* positions: use fewer --num_frames")


def test_a_missing_rope_factor_is_a_warning(bench, no_weights):
    as_wide_as_vicuna_7b(bench.model)
    outcome = bench.answer("--dry_run")
    assert outcome.status == 0
    assert "warning: " in outcome.err
    assert "no linear rope factor" in outcome.err


def test_entries_of_a_config_that_the_suite_does_not_take_change_nothing(bench):
    """They would: fetch code (CVE-2026-4372), make gigabytes of labels, read another file, change what comes back."""
    assert bench.answer("--limit", 2).status == 0
    plain = json.loads(bench.result.read_bytes())
    entries = {
        **dict.fromkeys(("_attn_implementation", "_attn_implementation_internal"), "evil/code@main"),
        "attn_implementation": {"text_config": "evil/code"},
        "num_labels": 10**9,
        "transformers_weights": "../other.safetensors",
        "dtype": "os.system",
        **dict.fromkeys(("output_attentions", "output_hidden_states", "is_encoder_decoder", "torchscript"), True),
        **dict.fromkeys(("return_dict", "use_cache", "auto_map", "image_grid_pinpoints"), False),
    }
    for part in (None, "text_config", "vision_config"):
        set_in("config.json", entries, part)(bench.model)
    set_in("generation_config.json", entries | {"max_length": "x", "cache_implementation": "evil"})(bench.model)
    assert bench.answer("--limit", 2, "--overwrite").status == 0
    after = json.loads(bench.result.read_bytes())
    for row in (*plain.values(), *after.values()):
        del row["run"]["checkpoint_sha256"]
    assert after == plain
