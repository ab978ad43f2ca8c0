"""The estimates of --dry_run, against numbers worked by hand for the real checkpoints."""

import pytest

from tests.support.checkpoints import VICUNA_7B, YI_34B, checkpoint_of
from videobench.console import in_bytes, in_time
from videobench.model.cost import Tokens, device_seconds, rate_of, row_bytes


@pytest.mark.parametrize(
    ("text", "dtype", "per_token"),
    [
        pytest.param(VICUNA_7B, "float16", 2 * 32 * 4096 * 2, id="7B"),  # 0.5 MiB
        pytest.param(YI_34B, "bfloat16", 2 * 60 * 8 * 128 * 2, id="34B-grouped-heads"),
        pytest.param({**YI_34B, "head_dim": 64}, "bfloat16", 2 * 60 * 8 * 64 * 2, id="width-of-a-head-stated"),
        pytest.param({**VICUNA_7B, "num_key_value_heads": None}, "float16", 2 * 32 * 4096 * 2, id="heads-not-stated"),
    ],
)
def test_memory_of_a_row(text, dtype, per_token):
    assert row_bytes(checkpoint_of(**text), dtype, 1) == per_token
    assert row_bytes(checkpoint_of(**text), dtype, 1400) == 1400 * per_token


def test_time_is_two_operations_for_each_weight_and_token():
    tokens = Tokens(videos=10, questions=30, prefix=10 * 1160, suffix=3000, longest_prompt=1300)
    # 10 videos of 8 frames of 24 x 24 patches and a class token; 11600 + 3000 + 2 for each answer in the text model
    operations = 2 * (205 * 10 * 8 * 577 + 3014 * (11600 + 3000 + 60))
    assert device_seconds(checkpoint_of(205, 3014), 8, tokens, rate=1e6) == pytest.approx(operations / 1e6)


def test_sizes_and_times_are_shown_in_units_that_people_read():
    sizes = {734003200: "0.73 GB", 11.744e9: "11.74 GB", 3.28e6: "3.28 MB", 99e6: "99.00 MB", 1e8: "0.10 GB"}
    assert {count: in_bytes(count) for count in sizes} == sizes
    times = {12.4: "12 s", 89: "89 s", 90: "2 min", 1395: "23 min", 5400: "1.5 h", 9e4: "25.0 h"}
    assert {seconds: in_time(seconds) for seconds in times} == times


def test_the_rate_of_a_card_that_was_measured_goes_by_its_name():
    assert rate_of("cuda", "NVIDIA H200", "bfloat16") == (370e12, True)
    assert rate_of("cuda", "NVIDIA H200", "float32") == (39e12, True)
    assert rate_of("cuda", "another", "float16") == (100e12, False)
    assert rate_of("npu", "Ascend910B3", "float32") == (5e12, False)
    assert rate_of("cpu", "cpu", "float32") == (90e9, False)
