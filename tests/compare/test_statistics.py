"""The statistics against scipy's and statsmodels'."""

import numpy as np
import pytest
import statsmodels.stats.contingency_tables as tables
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.multitest import multipletests

from videobench.compare import statistics


@pytest.mark.parametrize("only", [(0, 0), (0, 1), (1, 0), (3, 3), (8, 1), (40, 70), (1200, 1300)])
def test_the_sign_flip_test_of_single_questions_is_mcnemar_s(only):
    reference = tables.mcnemar([[10, only[0]], [only[1], 20]], exact=True).pvalue if sum(only) else 1.0
    assert statistics.sign_flip_p([1] * only[0] + [-1] * only[1]) == pytest.approx(reference, rel=1e-9)


def test_sign_flip_test_of_clusters_by_hand():
    # sums 2, 1, -1: of the eight sign patterns, those of |2 s1 + s2 + s3| >= 2 are all eight but (2, -1, -1)-like two
    assert statistics.sign_flip_p([2, 1, -1]) == pytest.approx(6 / 8)
    assert statistics.sign_flip_p([5]) == 1.0  # one video alone proves nothing, however many its questions


@pytest.mark.parametrize("seed", range(25))
def test_kappa_equals_statsmodels(seed):
    both_a, a_b, b_a, both_b = np.random.default_rng(seed).integers(0, 60, 4)
    first = np.repeat([0, 1], [both_a + a_b, b_a + both_b])
    second = np.repeat([0, 1, 0, 1], [both_a, a_b, b_a, both_b])
    reference = cohens_kappa(np.array([[both_a, a_b], [b_a, both_b]])).kappa
    assert statistics.cohen_kappa(first, second) == pytest.approx(reference)


def test_kappa_of_one_letter_throughout_is_not_defined():
    assert statistics.cohen_kappa(np.array([1, 1]), np.array([1, 1])) is None
    assert statistics.cohen_kappa(np.array([], int), np.array([], int)) is None


@pytest.mark.parametrize("tests", [1, 2, 5, 13])
def test_holm_equals_statsmodels(tests):
    p_values = np.random.default_rng(tests).uniform(0, 0.3, tests).tolist()
    assert statistics.holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


@given(st.lists(st.integers(0, 9), min_size=4, max_size=60).filter(lambda values: len(set(values)) > 1))
def test_rank_sum_equals_scipy_s_if_every_question_has_its_own_video(values):
    values = np.array(values, dtype=float)
    members = np.arange(len(values)) % 3 == 0
    z = statistics.rank_sum_z(statistics.average_ranks(values), members, np.arange(len(values)))
    assert statistics.average_ranks(values) == pytest.approx(stats.rankdata(values))
    test = stats.mannwhitneyu(values[members], values[~members], method="asymptotic", use_continuity=False)
    assert statistics.normal_p(z) == pytest.approx(test.pvalue, abs=1e-6)
    assert (z > 1e-9) == (test.statistic > members.sum() * (~members).sum() / 2 + 1e-9)


def test_rank_sum_of_equal_values_is_0():
    assert statistics.rank_sum_z(np.full(7, 3.0), np.arange(7) % 3 == 0, np.arange(7)) == 0


def test_design_effect_of_equal_answers_on_a_video_is_its_number_of_questions():
    rng = np.random.default_rng(2)
    values = np.repeat(rng.choice([-1.0, 0.0, 1.0], 2000), 4)
    effect = statistics.design_effect(values, np.arange(8000) // 4)
    assert effect == pytest.approx(4, rel=0.01)


@pytest.mark.parametrize("degrees", [1, 2, 3, 5, 10, 40, 500, 5916])
@pytest.mark.parametrize("level", [0.95, 0.99])
def test_student_s_t_equals_scipy(degrees, level):
    reference = stats.t.ppf((1 + level) / 2, degrees)
    assert statistics.student_quantile(level, degrees) == pytest.approx(reference, rel=1e-5)
