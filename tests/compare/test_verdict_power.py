"""The verdict's promises on simulated comparisons with Video-Bench's numbers of questions per video."""

import pytest

from benchmarks.verdict_power import (
    MARGIN,
    NEEDED,
    SHARED,
    Case,
    Scenario,
    interval_rates,
    needed_line,
    rates,
    verdicts,
)
from tests.support.simulated_losses import LOSSES, Loss
from videobench.compare.rule import FAIL, PASS

pytestmark = pytest.mark.slow
HALF16 = (0.015, 0.015)  # nats of rounding noise: float16 twice


@pytest.mark.parametrize(
    "scenario",
    [
        pytest.param(Scenario(300, 0.05, 0.0, 0.0), id="300-equal"),
        pytest.param(Scenario(300, 0.02, MARGIN, SHARED), id="300-few-flips-at-the-margin"),
        pytest.param(Scenario(1000, 0.02, MARGIN, SHARED), id="1000-few-flips-at-the-margin"),
        pytest.param(Scenario(1000, 0.10, 0.0, SHARED), id="1000-many-flips"),
    ],
)
def test_accuracy_s_interval_covers_the_truth_in_93_to_97_percent(scenario):
    assert 0.93 <= interval_rates(scenario, 2000).coverage <= 0.97


@pytest.mark.parametrize("correlation", [0.0, SHARED])
def test_false_pass_by_accuracy_at_a_true_difference_of_the_margin_in_at_most_5_percent(correlation):
    assert interval_rates(Scenario(3000, 0.02, MARGIN, correlation), 1000).passed <= 0.05


@pytest.mark.parametrize("correlation", [0.0, SHARED])
def test_equals_fail_by_accuracy_in_at_most_1_percent_however_many_answers_flip(correlation):
    assert interval_rates(Scenario(300, 0.10, 0.0, correlation), 1000).failed <= 0.01


@pytest.mark.parametrize("dtypes", [("float16", "float16"), ("bfloat16", "float32"), ("bfloat16", "bfloat16")])
def test_sound_runs_fail_in_at_most_1_percent(dtypes):
    assert verdicts(dtypes, None, 300, 200)[FAIL] <= 2


@pytest.mark.parametrize(("questions", "noise"), [(500, HALF16), (1000, (0.06, 0.015)), (1000, (0.1, 0.03))])
def test_a_thousand_questions_pass_sound_runs(questions, noise):
    found = rates(Case(questions, noise), 60)
    assert found.verdict[PASS] >= 54  # 96 % are aimed at
    assert found.verdict[FAIL] <= 1
    assert found.covered >= 56


@pytest.mark.parametrize("kind", LOSSES)
def test_a_loss_of_the_margin_passes_in_at_most_5_percent(kind):
    found = rates(Case(1000, HALF16, Loss(kind, MARGIN)), 40)
    if kind == "tiny leads":  # contrived: the guard against flips that all went one way lets half of them pass
        assert found.verdict[PASS] <= 28
    else:
        assert found.verdict[PASS] <= 4
        assert found.covered >= 35


@pytest.mark.parametrize("kind", LOSSES)
def test_a_loss_of_three_points_fails_and_never_passes(kind):
    found = rates(Case(1000, HALF16, Loss(kind, 3.0)), 40)
    assert found.verdict[PASS] == 0
    assert found.verdict[FAIL] >= (0 if kind == "tiny leads" else 36)


@pytest.mark.parametrize("case", NEEDED, ids=lambda case: f"{case.noise}-{case.seen}")
def test_the_number_of_questions_needed_is_right_within_a_quarter(case):
    ratio = float(needed_line(case, 40).split("|")[-2])
    assert 0.75 <= ratio <= 1.33
