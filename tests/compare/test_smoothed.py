"""Smoothed accuracy: credits and intervals worked by hand, and what they promise of any runs."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import statsmodels.api
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.support.paths import ROOT
from videobench.compare import statistics
from videobench.compare.pairing import Pair, Side
from videobench.compare.scoring import choose_letter, judge
from videobench.compare.smoothed import (
    Estimate,
    build_estimate,
    can_be_smoothed,
    estimate_difference,
    questions_needed,
    smoothed_credits,
)
from videobench.compare.statistics import Z95, Z99, tango_interval
from videobench.data.replies import build_reply


def side(text, logprobs, right="A", **more):
    choices = {letter: f"text {letter}" for letter in "ABCD"}
    row = {"output_sequence": [text], "letter_logprobs": logprobs, "choices": choices, "vid_path": "v.mp4", **more}
    reply = build_reply(("MSVD", "1"), "1", row)
    letter = choose_letter(reply, "strict")
    return Side(reply, letter, judge(reply, letter, right))


def pair(npu, gpu):
    return Pair("MSVD", "1", "A", npu, gpu)


CLEAR_A = {"A": -0.1, "B": -3.0}
A_BY_HALF = {"A": -0.5, "B": -1.0}  # one bandwidth


@pytest.mark.parametrize(
    ("npu", "gpu", "expected"),
    [
        pytest.param(
            side("A", A_BY_HALF), side("A", {"A": -0.7, "B": -0.7}), (0.8413, 0.5), id="a-bandwidth-and-a-tie"
        ),
        pytest.param(side("B", {"A": -1.25, "B": -0.5}), side("A", A_BY_HALF), (0.0668, 0.8413), id="the-other-way"),
        pytest.param(side("text A", A_BY_HALF), side("(A)", A_BY_HALF), (0.8413, 0.8413), id="read-as-that-letter"),
        pytest.param(side("B", A_BY_HALF), side("A", A_BY_HALF), (0, 1), id="a-reply-that-goes-wrong-later"),
        pytest.param(side("no idea", A_BY_HALF), side("A", A_BY_HALF), (0, 1), id="unreadable"),
        pytest.param(side("A", {"A": -1.5, "B": -2.0}), side("A", A_BY_HALF), (1, 1), id="little-option-mass"),
        pytest.param(side("A", None), side("A", A_BY_HALF), (1, 1), id="no-log-probabilities"),
        pytest.param(side("A", {"A": -0.1}), side("A", A_BY_HALF), (1, 1), id="one-option"),
        pytest.param(side("A", A_BY_HALF, nonfinite=True), side("A", A_BY_HALF), (1, 1), id="nonfinite"),
        pytest.param(side("", None, error="NaN"), side("A", A_BY_HALF), (0, 1), id="failed"),
        pytest.param(Side(None, None, "missing"), side("A", A_BY_HALF), (0, 1), id="missing"),
    ],
)
def test_credits_by_hand(npu, gpu, expected):
    assert smoothed_credits([pair(npu, gpu)])[0] == pytest.approx(expected, abs=1e-4)
    assert smoothed_credits([pair(gpu, npu)])[0] == pytest.approx(expected[::-1], abs=1e-4)


def test_an_answer_that_is_no_option_counts_as_read():
    npu = side("A", CLEAR_A, right="E")
    assert smoothed_credits([Pair("MSVD", "1", "E", npu, npu)]).tolist() == [[0, 0]]


def test_smoothed_only_where_both_sides_store_log_probabilities():
    assert can_be_smoothed([pair(side("A", CLEAR_A), side("A", CLEAR_A)), pair(side("A", None), side("A", CLEAR_A))])
    assert not can_be_smoothed([pair(side("A", CLEAR_A), side("A", None))])


def test_estimate_by_hand():
    # Six questions on three videos: one clear flip down, one coin of a tenth, four unmoved.
    credits = np.array([[0.1, 0.9], [0.6, 0.5], [1, 1], [0, 0], [1, 1], [0.5, 0.5]])
    clusters = np.array([0, 1, 1, 2, 2, 2])
    estimate = build_estimate(credits, clusters)
    assert (estimate.questions, estimate.ups, estimate.downs) == (6, 0, 1)
    assert estimate.difference == pytest.approx(100 * (-0.8 + 0.1) / 6)
    # 1 / 60 is the mean of the rest; residuals by video: -1/60, 0.1 - 2/60, -3/60; times 3/2
    squares = (1 / 60) ** 2 + (4 / 60) ** 2 + (3 / 60) ** 2
    assert estimate.rest_error == pytest.approx(100 * math.sqrt(1.5 * squares) / 6)
    # of the flip: residuals by video -5/6, 2/6, 3/6; times 3/2; without videos 1 - 1/6, times 6/5
    assert estimate.effect == pytest.approx(1.5 * (25 + 4 + 9) / 36)
    low, high = (100 * end for end in tango_interval(0, 1 / estimate.effect, 6 / estimate.effect))
    flips, rest = -100 / 6, 100 * (0.2 + 0.1) / 6  # the flip's credit moved by 0.8, not by 1
    half = Z95 * estimate.rest_error
    assert estimate.difference == pytest.approx(flips + rest)
    assert estimate.interval() == pytest.approx(
        (flips + rest - math.hypot(flips - low, half), flips + rest + math.hypot(high - flips, half))
    )


def test_without_a_clear_flip_the_number_of_questions_bounds_what_can_be_shown():
    still = build_estimate(np.full((250, 2), 0.7), np.arange(250))
    assert still.interval() == pytest.approx((-1.513, 1.513), abs=1e-3)  # 3.841 / 253.841
    assert still.at_best == still.interval()[1]
    assert replace(still, ups=3, rest_error=0.2).at_best == still.at_best
    assert questions_needed(still, 0.0, 1.0, one_sided=False) == 381  # 3.841 * 99 = 380.3


def test_prediction_of_the_same_number_is_the_estimate_itself():
    seen = Estimate(400, -0.75, 2, 4, 1.1, 0.2)
    assert seen.predict(400, -0.75) == seen
    assert seen.predict(1600, -0.75).rest_error == pytest.approx(0.1)
    assert (seen.predict(800, 0.0).ups, seen.predict(800, 0.0).downs) == (6, 6)


def test_the_margin_itself_needs_more_questions_than_there_are():
    assert questions_needed(Estimate(400, -1.0, 2, 4, 1.1, 0.2), -1.0, 1.0, one_sided=False) is None


@pytest.mark.parametrize("difference", [-3.0, 0.0, 3.0])
def test_a_one_sided_margin_asks_for_fewer_questions(difference):
    seen = Estimate(400, difference, 6, 6, 1.0, 0.2)
    both, one = (questions_needed(seen, difference, 1.0, each) for each in (False, True))
    assert one < both if difference >= 0 else one == both


@pytest.mark.parametrize("seed", range(5))
def test_cluster_error_equals_statsmodels(seed):
    rng = np.random.default_rng(seed)
    clusters = rng.integers(0, 30, 120)
    values = rng.normal(size=120) + rng.normal(size=30)[clusters]
    fitted = statsmodels.api.OLS(values, np.ones(120)).fit(cov_type="cluster", cov_kwds={"groups": clusters})
    assert statistics.cluster_error(values, clusters) == pytest.approx(float(fitted.bse[0]))
    assert statistics.cluster_error(values[:5], np.zeros(5, int)) == 0  # one video: no variance to be seen


def test_normal_cdf_equals_scipy():
    values = np.linspace(-9, 9, 40).reshape(20, 2)
    assert statistics.normal_cdf(values) == pytest.approx(stats.norm.cdf(values), rel=1e-12)


def test_joined_normal_intervals_are_the_normal_interval_of_the_sum():
    parts = [(mean, (mean - Z95 * error, mean + Z95 * error)) for mean, error in ((1.0, 3.0), (-0.5, 4.0))]
    assert statistics.join_intervals(parts) == pytest.approx((0.5 - Z95 * 5, 0.5 + Z95 * 5))
    # lengths of 3 and 4 below, 5 and 12 above
    assert statistics.join_intervals([(0, (-3, 5)), (1, (-3, 13))]) == pytest.approx((1 - 5, 1 + 13))


CREDITS = st.lists(
    st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(0, 8)).map(lambda each: tuple(round(x, 3) for x in each)),
    min_size=2,
    max_size=60,
)


@settings(deadline=None)
@given(CREDITS)
def test_exchanged_sides_mirror_the_interval(listed):
    table = np.array(listed)
    credits, clusters = table[:, :2], statistics.number_clusters(table[:, 2])
    ahead, back = build_estimate(credits, clusters), build_estimate(credits[:, ::-1], clusters)
    for z in (Z95, Z99):
        low, high = ahead.interval(z)
        assert low <= ahead.difference + 1e-9 <= high + 2e-9
        assert back.interval(z) == pytest.approx((-high, -low))
    flipped = np.sign(credits[:, 0] - 0.5) - np.sign(credits[:, 1] - 0.5)
    values = np.sign(flipped)
    for ends, mirrored in zip(
        statistics.paired_intervals(values, clusters, 3), statistics.paired_intervals(-values, clusters, 3), strict=True
    ):
        assert mirrored == pytest.approx((-ends[1], -ends[0]))


@settings(deadline=None)
@given(CREDITS, st.randoms(use_true_random=False))
def test_the_order_of_the_questions_plays_no_part(listed, random):
    estimates = []
    for _ in range(2):
        table = np.array(listed)
        estimates.append(build_estimate(table[:, :2], statistics.number_clusters(table[:, 2])))
        random.shuffle(listed)
    assert estimates[0].interval() == pytest.approx(estimates[1].interval())


def test_accuracy_is_the_estimate_whose_credits_are_0_and_1():
    pairs = [pair(side("A", A_BY_HALF), side("A", CLEAR_A))] * 3 + [pair(side("B", CLEAR_A), side("A", CLEAR_A))]
    plain, smoothed = (estimate_difference(pairs, each) for each in (False, True))
    assert (plain.difference, plain.rest_error, plain.downs) == (-25, 0, 1)
    assert smoothed.difference == pytest.approx(100 * (3 * (0.84134 - 1) - 1) / 4, abs=1e-3)


def test_the_demo_says_rightly_what_its_questions_can_show(qa_root):
    rows = [row for path in qa_root.glob("Eval_QA/*_QA_new.json") for row in json.loads(path.read_text()).values()]
    videos = statistics.number_clusters(row["vid_path"] for row in rows)
    at_best = build_estimate(np.zeros((len(rows), 2)), videos).at_best
    [sentence] = [line for line in (ROOT / "demo.sh").read_text().splitlines() if "can show" in line]
    assert f"{len(rows)} questions on {videos.max() + 1} videos can show {at_best:.1f} points at best" in sentence
    assert f"--nums {len(rows)}" in (ROOT / "demo.sh").read_text()
