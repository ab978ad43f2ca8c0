"""How far off: by hand, in units of half a step of float16 (2 ** -11)."""

import math

import pytest
import torch

from videobench.locate.deviation import LIMIT, deviation

STEP = 2**-11


@pytest.fixture
def sound():
    return torch.randn(2, 40, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("dtype", "step"), [(torch.float16, STEP), (torch.bfloat16, 2**-8), (torch.float32, 2**-19)])
def test_an_even_error_is_measured_by_the_whole_and_the_dtype(sound, dtype, step):
    found = deviation(sound * (1 + 3 * STEP), sound, dtype)
    assert found.times == pytest.approx(3 * STEP / step / LIMIT, rel=1e-3)
    assert found.deviates == (dtype == torch.float32)


def test_one_wrong_channel_of_many_deviates(sound):
    wrong = sound.clone()
    wrong[..., 5] *= 1 + 30 * STEP  # in the whole 30 / sqrt(64) = 3.75 times what is explained: too little
    found = deviation(wrong, sound, torch.float16)
    assert found.times == pytest.approx(30 / 3 / LIMIT)
    assert found.where == "channel 5 of 64"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("vocabulary", [281, 32064, 64000])
def test_one_wrong_logit_of_a_decoding_step_deviates(dtype, vocabulary):
    """Two rows of logits, with an error of 8 in one; the others, 2.5 in the mean, differ by rounding alone."""
    logits = torch.randn(2, 1, vocabulary, generator=torch.Generator().manual_seed(0)) * 2.5
    found = logits.to(dtype).float().clone()
    assert not deviation(found, logits, dtype).deviates
    found[1, 0, 77] += 8
    wrong = deviation(found, logits, dtype)
    assert wrong.deviates
    assert wrong.where == f"row 1 of 2, channel 77 of {vocabulary}"


@pytest.mark.parametrize(
    ("positions", "where"),
    [
        pytest.param(slice(30, 40), "positions 30 to 39 of 40", id="from-one-on"),
        pytest.param([4], "position 4 of 40", id="one"),
        pytest.param([4, 8, 9], "position 4 and 2 more of 40", id="some"),
    ],
)
def test_what_deviates_is_named(sound, positions, where):
    wrong = sound.clone()
    wrong[:, positions] *= 1.5
    assert deviation(wrong, sound, torch.float16).where == where


def test_a_row_of_mere_remainders_does_not_deviate(sound):
    """Its numbers are small differences of large ones: their rounding is as large as they are."""
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
    assert (found.overflow, found.times) == (True, math.inf)
    assert found.text == (
        "0.0195 % of the elements are infinite or NaN but numbers on the CPU, first at index (1, 7, 9); "
        "row 1 of 2, position 7 of 40, channel 9 of 64"
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_numbers_whose_squares_overflow_are_compared(dtype):
    """As in a float mask: the smallest number hides a key."""
    mask = torch.zeros(1, 1, 4, 4).masked_fill(torch.ones(4, 4).triu(1) > 0, torch.finfo(torch.float32).min)
    assert deviation(mask.clone(), mask, dtype).times == 0
    lost = deviation(torch.zeros_like(mask), mask, dtype)
    assert lost.deviates
    assert "greatest absolute difference: 3.4e+38 at index (0, 0, 0, 1)" in lost.text


def test_what_is_infinite_on_both_sides_is_equal(sound):
    sound[0, 0, 0] = -math.inf
    assert deviation(sound.clone(), sound, torch.float32).times == 0


@pytest.mark.parametrize("difference", [1.0, -1.0])
def test_the_words_are_those_of_torch_testing(difference):
    """Half of the elements are 2, half 0.5; one of the small ones is wrong by more than all the tolerance."""
    expected = torch.tensor([2.0, 0.5] * 8).reshape(1, 16)
    found = expected.clone()
    found[0, 3] += difference
    said = deviation(found, expected, torch.float16)
    assert said.allowed == pytest.approx(8 * STEP * 0.5)  # above 0.3 times the usual size, so by its own
    assert said.text == (
        f"greatest absolute difference: 1 at index (0, 3) (up to 0.002 allowed); 6.25 % of the elements mismatched; "
        f"{said.times:.0f} times the tolerance; channel 3 of 16"
    )


@pytest.mark.parametrize(
    ("found", "expected", "text"),
    [
        pytest.param([True, False], [True, False], None, id="equal-masks"),
        pytest.param([True, False], [True, True], "50 % of the elements differ, first at index (1,)", id="mask"),
        pytest.param([3, 4], [3, 5], "50 % of the elements differ, first at index (1,)", id="position"),
        pytest.param([3], [3, 5], "the shape is (1,), on the CPU (2,)", id="shape"),
        pytest.param([], [], None, id="nothing"),
    ],
)
def test_what_is_not_rounded_must_be_equal(found, expected, text):
    found = deviation(torch.tensor(found), torch.tensor(expected), torch.bool)
    assert found.times == (math.inf if text else 0)
    assert not text or found.text == text
