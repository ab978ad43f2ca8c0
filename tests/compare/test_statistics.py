"""The statistics against scipy's and statsmodels', and the clustered interval against simulated truth."""

import math

import numpy as np
import pytest
import statsmodels.stats.contingency_tables as tables
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from videobench.compare import statistics

RANDOM_TABLES = [tuple(np.random.default_rng(seed).integers(0, 60, 4)) for seed in range(25)]


@pytest.mark.parametrize("only", [(0, 0), (0, 1), (1, 0), (3, 3), (8, 1), (40, 70), (1200, 1300)])
def test_mcnemar_equals_statsmodels(only):
    reference = tables.mcnemar([[10, only[0]], [only[1], 20]], exact=True).pvalue if sum(only) else 1.0
    assert statistics.mcnemar_p(*only) == pytest.approx(reference, rel=1e-9)


@given(st.lists(st.sampled_from([-1, 0, 1]), max_size=40))
def test_sign_flip_test_of_single_questions_is_mcnemar_s(sums):
    assert statistics.sign_flip_p(sums) == pytest.approx(statistics.mcnemar_p(sums.count(1), sums.count(-1)))


def test_sign_flip_test_of_clusters_by_hand():
    # sums 2, 1, -1: of the eight sign patterns, those of |2 s1 + s2 + s3| >= 2 are all eight but (2, -1, -1)-like two
    assert statistics.sign_flip_p([2, 1, -1]) == pytest.approx(6 / 8)
    assert statistics.sign_flip_p([5]) == 1.0  # one video alone proves nothing, however many its questions


@pytest.mark.parametrize("table", RANDOM_TABLES)
def test_kappa_equals_statsmodels(table):
    both_a, a_b, b_a, both_b = table
    first = ["a"] * (both_a + a_b) + ["b"] * (b_a + both_b)
    second = ["a"] * both_a + ["b"] * a_b + ["a"] * b_a + ["b"] * both_b
    reference = cohens_kappa(np.array([[both_a, a_b], [b_a, both_b]])).kappa
    assert statistics.cohen_kappa(first, second) == pytest.approx(reference)


def test_kappa_of_one_letter_throughout_is_not_defined():
    assert statistics.cohen_kappa(["A", "A"], ["A", "A"]) is None
    assert statistics.cohen_kappa([], []) is None


def score_statistic(only_first, only_second, total, delta):
    """Tango's statistic with the restricted likelihood maximised by search instead of in closed form."""
    both = total - only_first - only_second

    def minus_log_likelihood(share):  # of "only second", given the difference delta
        chances = np.maximum([share + delta, share, 1 - delta - 2 * share], 1e-300)
        return -float(np.dot([only_first, only_second, both], np.log(chances)))

    low, high = max(0.0, -delta), (1 - delta) / 2
    share = optimize.minimize_scalar(
        minus_log_likelihood, bounds=(low, high), method="bounded", options={"xatol": 1e-13}
    ).x
    return (only_first - only_second - total * delta) / math.sqrt(total * (2 * share + delta * (1 - delta)))


@pytest.mark.parametrize(("only_first", "only_second", "total"), [(3, 5, 60), (1, 9, 80), (20, 12, 300), (0, 4, 50)])
def test_tango_interval_ends_where_the_score_statistic_is_critical(only_first, only_second, total):
    low, high = statistics.tango_interval(only_first, only_second, total)
    assert score_statistic(only_first, only_second, total, low) == pytest.approx(statistics.Z95, rel=1e-4)
    assert score_statistic(only_first, only_second, total, high) == pytest.approx(-statistics.Z95, rel=1e-4)


def test_no_flip_at_all_is_no_interval_of_width_zero():
    # z^2 / (n + z^2) with 60 questions: 3.84 / 63.84 = 6.0 points; the rule of three says 5
    (low, high), wider = statistics.paired_intervals(np.zeros(60), np.arange(60), seed=0)
    assert (low, high) == pytest.approx((-0.0602, 0.0602), abs=1e-4)
    assert wider == pytest.approx((-0.0996, 0.0996), abs=1e-4)  # 6.635 / 66.635
    shared, _ = statistics.paired_intervals(np.zeros(60), np.arange(60) // 10, seed=0)
    assert shared[1] > high  # questions on one video say less


@pytest.mark.parametrize("table", RANDOM_TABLES[:5])
def test_wilson_interval_equals_statsmodels(table):
    correct, total = int(table[0]), int(table[0] + table[1] + 1)
    assert statistics.wilson_interval(correct, total) == pytest.approx(
        proportion_confint(correct, total, method="wilson")
    )


@pytest.mark.parametrize("tests", [1, 2, 5, 13])
def test_holm_equals_statsmodels(tests):
    p_values = np.random.default_rng(tests).uniform(0, 0.3, tests).tolist()
    assert statistics.holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


@given(st.lists(st.integers(0, 9), min_size=4, max_size=60).filter(lambda values: len(set(values)) > 1))
def test_rank_sum_equals_scipy_where_every_question_has_its_own_video(values):
    values = np.array(values, dtype=float)
    members = np.arange(len(values)) % 3 == 0
    z = statistics.rank_sum_z(statistics.average_ranks(values), members, np.arange(len(values)))
    assert statistics.average_ranks(values) == pytest.approx(stats.rankdata(values))
    test = stats.mannwhitneyu(values[members], values[~members], method="asymptotic", use_continuity=False)
    assert statistics.normal_p(z) == pytest.approx(test.pvalue, abs=1e-6)
    assert (z > 1e-9) == (test.statistic > members.sum() * (~members).sum() / 2 + 1e-9)


def test_rank_sum_of_equal_values_is_0():
    assert statistics.rank_sum_z(np.full(7, 3.0), np.arange(7) % 3 == 0, np.arange(7)) == 0


def test_bootstrap_draws_whole_videos():
    # Two videos: means of every resample are 0, 1/2 or 1 of equal sizes; binomial(2, 1/2) counts
    sums, sizes = statistics.cluster_sums([1, 1, 0, 0], statistics.number_clusters(["a", "a", "b", "b"]))
    means = statistics.bootstrap_means(sums, sizes, 20_000, np.random.default_rng(0))
    values, counts = np.unique(means, return_counts=True)
    assert values.tolist() == [0, 0.5, 1]
    assert counts / 20_000 == pytest.approx([0.25, 0.5, 0.25], abs=0.015)


def test_bootstrap_equals_the_plain_one_over_videos():
    rng = np.random.default_rng(1)
    clusters = np.sort(rng.integers(0, 80, 300))
    values = rng.choice([-1, 0, 0, 0, 1], 300)
    sums, sizes = statistics.cluster_sums(values, clusters)
    fast = statistics.bootstrap_means(sums, sizes, 20_000, rng)
    drawn = rng.integers(0, len(sums), (20_000, len(sums)))
    plain = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    assert np.quantile(fast, [0.025, 0.5, 0.975]) == pytest.approx(np.quantile(plain, [0.025, 0.5, 0.975]), abs=0.004)


def test_design_effect_of_equal_answers_on_a_video_is_its_number_of_questions():
    rng = np.random.default_rng(2)
    values = np.repeat(rng.choice([-1.0, 0.0, 1.0], 2000), 4)
    effect = statistics.design_effect(values, *statistics.cluster_sums(values, np.arange(8000) // 4))
    assert effect == pytest.approx(4, rel=0.01)


def test_interval_widens_where_videos_flip_as_a_whole():
    rng = np.random.default_rng(3)
    flips = rng.choice([-1, 0, 0, 0, 1], 100)
    together, _ = statistics.paired_intervals(np.repeat(flips, 5), np.arange(500) // 5, seed=0)
    alone, _ = statistics.paired_intervals(np.repeat(flips, 5), np.arange(500), seed=0)
    assert together[1] - together[0] > 1.8 * (alone[1] - alone[0])


@settings(deadline=None)
@given(st.lists(st.sampled_from([-1, 0, 0, 0, 1]), min_size=2, max_size=200), st.integers(1, 5))
def test_the_99_percent_interval_holds_the_95_percent_one(values, per_video):
    clusters = np.arange(len(values)) // per_video
    narrow, wide = statistics.paired_intervals(np.array(values), clusters, seed=0)
    assert wide[0] <= narrow[0] <= np.mean(values) + 1e-9
    assert wide[1] >= narrow[1] >= np.mean(values) - 1e-9


def test_same_seed_same_interval():
    values = np.random.default_rng(4).choice([-1, 0, 1], 200)
    first, again = (statistics.paired_intervals(values, np.arange(200), seed=7) for _ in range(2))
    assert first == again
