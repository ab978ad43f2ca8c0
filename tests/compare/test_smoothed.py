"""Smoothed accuracy: credits and intervals worked by hand, and what they promise of any runs."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import statsmodels.api
from scipy import stats

from tests.support.paths import ROOT
from tests.support.simulated_losses import Loss, World, build_pairs, simulate
from tests.support.simulated_losses import find_subgroups as find_simulated
from tests.support.simulated_losses import tabulate as simulated_tabulate
from tests.support.simulated_runs import all_questions, sample_questions
from videobench.compare import statistics
from videobench.compare.accuracy import Estimate, estimate_accuracy, estimate_smoothed, questions_needed, right_leads
from videobench.compare.associations import find_subgroups
from videobench.compare.pairing import Pair, Side, tabulate
from videobench.compare.scoring import choose_letter, judge
from videobench.data.rows import build_reply


def side(text, logprobs, right="A", **more):
    choices = {letter: f"text {letter}" for letter in "ABCD"}
    row = {"output_sequence": [text], "letter_logprobs": logprobs, "choices": choices, "vid_path": "v.mp4", **more}
    reply = build_reply(("MSVD", "1"), "1", row)
    letter = choose_letter(reply, "strict")
    return Side(reply, letter, judge(reply, letter, right))


def pair(candidate, reference):
    return Pair("MSVD", "1", "A", candidate, reference)


A_BY_HALF = {"A": -0.5, "B": -1.0}
A_BY_ONE = {"A": -0.2, "B": -1.2}


@pytest.mark.parametrize(
    ("candidate", "reference", "leads"),
    [
        pytest.param(side("A", A_BY_HALF), side("A", {"A": -0.7, "B": -0.7}), (0.5, 0.0), id="a-lead-and-a-tie"),
        pytest.param(side("B", {"A": -1.25, "B": -0.5}), side("A", A_BY_HALF), (-0.75, 0.5), id="the-other-way"),
        pytest.param(side("text A", A_BY_HALF), side("(A)", A_BY_HALF), (0.5, 0.5), id="read-as-that-letter"),
        pytest.param(side("B", A_BY_HALF), side("A", A_BY_HALF), None, id="a-reply-that-goes-wrong-later"),
        pytest.param(side("no idea", A_BY_HALF), side("A", A_BY_HALF), None, id="unreadable"),
        pytest.param(side("A", {"A": -1.5, "B": -2.0}), side("A", A_BY_HALF), None, id="little-option-mass"),
        pytest.param(side("A", None), side("A", A_BY_HALF), None, id="no-log-probabilities"),
        pytest.param(side("A", {"A": -0.1}), side("A", A_BY_HALF), None, id="one-option"),
        pytest.param(side("A", A_BY_HALF, nonfinite=True), side("A", A_BY_HALF), None, id="nonfinite"),
        pytest.param(side("", None, error="NaN"), side("A", A_BY_HALF), None, id="failed"),
        pytest.param(Side(None, None, "missing"), side("A", A_BY_HALF), None, id="missing"),
    ],
)
def test_a_lead_counts_only_if_both_replies_follow_their_log_probabilities(candidate, reference, leads):
    found = right_leads(tabulate([pair(candidate, reference)]))[0]
    if leads:
        assert found == pytest.approx(leads)
    else:
        assert np.isnan(found).any()
        assert estimate_smoothed(tabulate([pair(candidate, reference)])) is None


def test_credits_and_bandwidth_by_hand():
    """Leads 0.5, 1 and 2 on the reference: their median over 2.5 is the bandwidth, 0.4."""
    wide = {"A": -0.15, "B": -2.15}
    pairs = [
        pair(side("A", A_BY_HALF), side("A", A_BY_HALF)),
        pair(side("A", A_BY_HALF), side("A", A_BY_ONE)),
        pair(side("A", wide), side("A", wide)),
        pair(side("no idea", wide), side("A", wide)),
    ]
    smoothed = estimate_smoothed(tabulate(pairs))
    assert (smoothed.lead, smoothed.bandwidth, smoothed.share) == (pytest.approx(1.0), pytest.approx(0.4), 0.75)
    lost = stats.norm.cdf(0.5 / 0.4) - stats.norm.cdf(1 / 0.4)  # and one reply is unreadable
    assert smoothed.estimate.difference == pytest.approx(100 * (lost - 1) / 4)


@pytest.mark.parametrize(("lead", "bandwidth"), [(4.0, 0.5), (0.4, 0.16), (0.0, 1e-6)])
def test_the_bandwidth_is_the_median_lead_over_2_5_and_half_a_nat_at_most(lead, bandwidth):
    own = side("A", {"A": -0.5, "B": -0.5 - lead})
    smoothed = estimate_smoothed(tabulate([pair(own, own)] * 3))
    assert (smoothed.bandwidth, smoothed.estimate.difference) == (pytest.approx(bandwidth), 0)


def test_an_answer_that_is_no_option_counts_as_read():
    candidate = side("A", A_BY_HALF, right="E")
    assert estimate_smoothed(tabulate([Pair("MSVD", "1", "E", candidate, candidate)])) is None


def test_the_interval_by_hand():
    estimate = Estimate(questions=1000, videos=11, difference=-0.5, error=0.2, effect=1.5)
    unseen = 100 * 1.959964**2 * 1.5 / 1000
    assert estimate.unseen == pytest.approx(unseen)
    for level, quantile in ((0.95, 2.228139), (0.99, 3.169273)):  # Student's t with 10 degrees of freedom
        half = math.hypot(quantile * 0.2, unseen)
        assert estimate.interval(level) == pytest.approx((-0.5 - half, -0.5 + half))
    assert replace(estimate, videos=1).interval() == (-100, 100)
    assert estimate.differs
    assert not replace(estimate, difference=0.4).differs


def test_accuracy_by_hand():
    right, wrong = side("A", None), side("B", None)
    pairs = [replace(pair(right, right), id=str(each)) for each in range(3)] + [pair(wrong, right)]
    estimate = estimate_accuracy(tabulate(pairs))
    assert (estimate.questions, estimate.videos, estimate.difference) == (4, 1, -25)
    own = [replace(each, reference=replace(right, reply=replace(right.reply, vid_path=f"{number}.mp4")))
           for number, each in enumerate(pairs)]  # fmt: skip
    estimate = estimate_accuracy(tabulate(own))
    assert estimate.videos == 4
    assert estimate.error == pytest.approx(100 * math.sqrt(4 / 3 * (3 * 0.25**2 + 0.75**2)) / 4)


@pytest.mark.parametrize(("one_sided", "needed"), [(False, 1500), (True, 1300)])
def test_the_number_of_questions_by_hand(one_sided, needed):
    """The half width, and what chance moves the difference by, with a standard error of 0.25 over 1000 questions."""
    estimate = Estimate(questions=1000, videos=800, difference=0.1, error=0.25, effect=1.1)
    assert questions_needed(estimate, 1.0, one_sided) == needed
    chance = 1.281552 if one_sided else 1.644854

    def reach(count):
        error = 1.25 * 0.25 * math.sqrt(1000 / count)
        return chance * error + math.hypot(1.959964 * error, 384.146 * 1.1 / count)

    assert reach(needed) < 1 <= reach(needed - 100)


def test_more_questions_than_there_are_is_no_number():
    assert questions_needed(Estimate(100, 90, 0.0, 50.0, 1.0), 0.01, one_sided=False) is None


@pytest.mark.parametrize("seed", range(5))
def test_cluster_error_equals_statsmodels(seed):
    rng = np.random.default_rng(seed)
    clusters = rng.integers(0, 30, 120)
    values = rng.normal(size=120) + rng.normal(size=30)[clusters]
    fitted = statsmodels.api.OLS(values, np.ones(120)).fit(cov_type="cluster", cov_kwds={"groups": clusters})
    assert statistics.cluster_error(values, clusters) == pytest.approx(float(fitted.bse[0]))


def test_normal_cdf_equals_scipy():
    values = np.linspace(-9, 9, 40).reshape(20, 2)
    assert statistics.normal_cdf(values) == pytest.approx(stats.norm.cdf(values), rel=1e-12)


@pytest.mark.parametrize("loss", [None, Loss("unreadable", 3.0)])
@pytest.mark.parametrize("stores_logprobs", [True, False])
def test_the_simulation_s_arrays_are_those_of_its_pairs(loss, stores_logprobs):
    """So that benchmarks/verdict_power.py judges what two result files would give."""
    rng = np.random.default_rng(0)
    logits = simulate(sample_questions(all_questions(), 200, rng), rng, World((0.1, 0.05)), loss)
    pairs = build_pairs(logits, stores_logprobs)
    fast, slow = simulated_tabulate(logits, stores_logprobs), tabulate(pairs)
    for name in ("videos", "right", "letters", "is_right", "unreadable", "nonfinite", "vague"):
        assert (getattr(fast, name) == getattr(slow, name)).all(), name
    for name in ("scores", "mass"):
        assert getattr(fast, name) == pytest.approx(getattr(slow, name), nan_ok=True), name
    groups, labelled = find_simulated(logits), find_subgroups(pairs)
    own = {members.tobytes() for members in (each.members for each in labelled)}
    assert {each.members.tobytes() for each in groups} <= own


def test_the_demo_says_rightly_what_its_questions_can_show(qa_root):
    rows = [row for path in qa_root.glob("Eval_QA/*_QA_new.json") for row in json.loads(path.read_text()).values()]
    videos = statistics.number_clusters(row["vid_path"] for row in rows)
    effect = statistics.flip_effect(np.zeros(len(rows)), videos)
    at_best = Estimate(len(rows), int(videos.max()) + 1, 0.0, 0.0, effect).unseen
    [sentence] = [line for line in (ROOT / "demo.sh").read_text().splitlines() if "can show" in line]
    assert f"{len(rows)} questions on {videos.max() + 1} videos can show {at_best:.1f} points at best" in sentence
    assert f"--nums {len(rows)}" in (ROOT / "demo.sh").read_text()
