"""Checkpoints known by their sizes alone, as the estimates need them."""

from types import SimpleNamespace

from videobench.model.weights import WeightFiles


def checkpoint_of(in_vision=0, in_rest=0, **text):
    return SimpleNamespace(
        config=SimpleNamespace(
            text_config=SimpleNamespace(**text),
            vision_config=SimpleNamespace(patch_size=14, image_size=336, hidden_size=1024, intermediate_size=4096),
        ),
        pixel_spec=SimpleNamespace(crop_height=336, crop_width=336),
        weights=WeightFiles((), {"vision_tower.a": in_vision, "lm_head": in_rest}),
    )


VICUNA_7B = {
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "hidden_size": 4096
}  # fmt: skip
YI_34B = {
    "num_hidden_layers": 60, "num_attention_heads": 56, "num_key_value_heads": 8, "hidden_size": 7168
}  # fmt: skip
