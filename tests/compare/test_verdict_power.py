"""The verdict's promises on simulated comparisons with Video-Bench's numbers of questions per video."""

import pytest

from benchmarks.verdict_power import MARGIN, SHARED, Scenario, interval_rates, verdicts
from videobench.compare.verdict import FAIL, PASS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "scenario",
    [
        pytest.param(Scenario(300, 0.05, 0.0, 0.0), id="300-equal"),
        pytest.param(Scenario(300, 0.02, MARGIN, SHARED), id="300-few-flips-at-the-margin"),
        pytest.param(Scenario(1000, 0.02, MARGIN, SHARED), id="1000-few-flips-at-the-margin"),
        pytest.param(Scenario(1000, 0.10, 0.0, SHARED), id="1000-many-flips"),
    ],
)
def test_interval_covers_the_truth_in_93_to_97_percent(scenario):
    assert 0.93 <= interval_rates(scenario, 2000).coverage <= 0.97


@pytest.mark.parametrize("correlation", [0.0, SHARED])
def test_false_pass_at_a_true_difference_of_the_margin_in_at_most_5_percent(correlation):
    assert interval_rates(Scenario(3000, 0.02, MARGIN, correlation), 1000).passed <= 0.05


@pytest.mark.parametrize("correlation", [0.0, SHARED])
def test_equals_fail_in_at_most_1_percent_however_many_answers_flip(correlation):
    assert interval_rates(Scenario(300, 0.10, 0.0, correlation), 1000).failed <= 0.01


@pytest.mark.parametrize("dtypes", [("float16", "float16"), ("bfloat16", "float32"), ("bfloat16", "bfloat16")])
def test_sound_runs_fail_in_at_most_1_percent(dtypes):
    assert verdicts(dtypes, None, 300, 200)[FAIL] <= 2


def test_three_thousand_questions_pass_an_equal_port():
    assert interval_rates(Scenario(3000, 0.02, 0.0, SHARED), 200).passed > 0.9
    assert verdicts(("float32", "float32"), None, 3000, 3)[PASS] == 3
