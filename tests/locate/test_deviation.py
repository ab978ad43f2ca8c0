"""How far off: by hand, in units of half a step of float16 (2 ** -11)."""

import math

import pytest
import torch

from videobench.locate.deviation import LIMIT, deviation

STEP = 2**-11


@pytest.fixture
def sound():
    return torch.randn(2, 40, 64, generator=torch.Generator().manual_seed(0))


def test_an_even_error_is_measured_by_the_whole(sound):
    found = deviation(sound * (1 + 3 * STEP), sound, torch.float16)
    assert found.times == pytest.approx(3 / LIMIT)
    assert not found.deviates


def test_the_dtype_decides_what_is_explained(sound):
    times = {dtype: deviation(sound * 1.01, sound, dtype).times for dtype in (torch.float16, torch.bfloat16)}
    assert times == {torch.float16: pytest.approx(0.01 / 2**-8), torch.bfloat16: pytest.approx(0.01 / 2**-5)}


def test_one_wrong_channel_of_many_deviates(sound):
    wrong = sound.clone()
    wrong[..., 5] *= 1 + 30 * STEP  # of the whole 30 / sqrt(64) = 3.75 times what is explained: too little
    found = deviation(wrong, sound, torch.float16)
    assert found.times == pytest.approx(30 / 3 / LIMIT)
    assert found.where == "in channel 5 of 64"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("vocabulary", [281, 32064, 64000])
def test_one_wrong_logit_of_a_decoding_step_deviates(dtype, vocabulary):
    """Two rows of logits, whose rounding is all else that differs: 8 of 2.5 in the mean."""
    logits = torch.randn(2, 1, vocabulary, generator=torch.Generator().manual_seed(0)) * 2.5
    found = logits.to(dtype).float().clone()
    assert not deviation(found, logits, dtype).deviates
    found[1, 0, 77] += 8
    wrong = deviation(found, logits, dtype)
    assert wrong.deviates
    assert wrong.where == f"in row 1 of 2, in channel 77 of {vocabulary}"


def test_wrong_from_a_position_on(sound):
    wrong = sound.clone()
    wrong[:, 30:] *= 1.5
    assert deviation(wrong, sound, torch.float16).where == "from position 30 on, of 40"


def test_a_row_that_others_left_over_does_not_deviate(sound):
    """Its numbers are small differences of large ones: their rounding is as large as theirs."""
    sound[0, 3] *= 1e-6
    wrong = sound.clone()
    wrong[0, 3] += sound[0, 4] * STEP
    assert deviation(wrong, sound, torch.float16).times < 1


def test_what_rounding_of_the_inputs_changes_is_explained(sound):
    noise = torch.randn(sound.shape, generator=torch.Generator().manual_seed(1)) * 0.1
    assert deviation(sound + noise, sound, torch.float16).deviates
    assert not deviation(sound + noise, sound, torch.float16, noise.roll(1)).deviates


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_overflow(sound, value):
    wrong = sound.clone()
    wrong[1, 7, 9] = value
    found = deviation(wrong, sound, torch.float16)
    assert found.overflow
    assert found.times == math.inf
    assert found.where == "in row 1 of 2, in position 7 of 40, in channel 9 of 64"


def test_what_is_infinite_on_both_sides_is_equal(sound):
    sound[0, 0, 0] = -math.inf
    assert deviation(sound.clone(), sound, torch.float32).times == 0


@pytest.mark.parametrize(
    ("found", "expected", "times"),
    [
        pytest.param([True, False], [True, False], 0, id="equal-masks"),
        pytest.param([True, False], [True, True], math.inf, id="another-mask"),
        pytest.param([3, 4], [3, 5], math.inf, id="another-position"),
        pytest.param([3], [3, 5], math.inf, id="another-shape"),
        pytest.param([], [], 0, id="nothing"),
    ],
)
def test_what_is_not_rounded_must_be_equal(found, expected, times):
    assert deviation(torch.tensor(found), torch.tensor(expected), torch.bool).times == times
