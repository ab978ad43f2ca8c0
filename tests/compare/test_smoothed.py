"""Smoothed accuracy: credits and intervals worked by hand, and what they promise of any runs."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import statsmodels.api
from scipy import stats

from tests.support import simulated_runs
from tests.support.paths import ASSETS, ROOT
from tests.support.simulated_runs import Loss, World, all_questions, build_pairs, sample_questions, simulate
from videobench.compare import statistics
from videobench.compare.accuracy import Estimate, compare_paired, estimate_smoothed, questions_needed, right_leads
from videobench.compare.associations import find_subgroups
from videobench.compare.pairing import Pair, Side, tabulate
from videobench.compare.scoring import choose_letter, judge
from videobench.compare.statistics import flip_effect, number_clusters
from videobench.data.dataset import Question
from videobench.data.rows import build_reply
from videobench.sampling.selection import draw_order


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
    estimate = compare_paired(tabulate(pairs)).estimate
    assert (estimate.questions, estimate.videos, estimate.difference) == (4, 1, -25)
    own = [replace(each, reference=replace(right, reply=replace(right.reply, vid_path=f"{number}.mp4")))
           for number, each in enumerate(pairs)]  # fmt: skip
    estimate = compare_paired(tabulate(own)).estimate
    assert estimate.videos == 4
    assert estimate.error == pytest.approx(100 * math.sqrt(4 / 3 * (3 * 0.25**2 + 0.75**2)) / 4)


@pytest.mark.parametrize(
    ("one_sided", "difference", "needed"), [(False, 0.1, 1600), (True, 0.1, 1400), (False, 0.6, 2400)]
)
def test_the_number_of_questions_by_hand(one_sided, difference, needed):
    """The half width, and what chance moves the difference by, with a standard error of 0.25 over 1000 questions."""
    estimate = Estimate(questions=1000, videos=800, difference=difference, error=0.25, effect=1.1)
    assert questions_needed(estimate, 1.0, one_sided) == needed
    chance, pairs = 1.281552 if one_sided else 1.644854, 500  # of questions on one video

    def reach(count):
        most = pairs + 2 * math.sqrt(pairs) + 3
        more = most * count / 1000 * (count - 1) / 999
        effect = 1 + 0.1 * 2 * (more + 2 * math.sqrt(more) + 3) / count
        error = 1.25 * 0.25 * math.sqrt(1000 / count * effect / 1.1)
        left = chance * error * math.sqrt(1 - 1000 / count)
        moved = max(chance * error, difference * 1000 / count + left)
        return moved + math.hypot(1.959964 * error, 384.146 * effect / count)

    assert reach(needed) < 1 <= reach(needed - 100)


def small_questions():
    """(set, id, video) of the small data."""
    for path in sorted((ASSETS / "egs/Video-Bench/Eval_QA").glob("*_QA_new.json")):
        name = path.name.removesuffix("_QA_new.json")
        yield from ((name, id, row["vid_path"]) for id, row in json.loads(path.read_bytes()).items())


def video_bench_questions():
    """As many on each video as in Video-Bench."""
    every = all_questions()
    return zip(every.dataset.tolist(), *(map(str, each.tolist()) for each in (every.number, every.video)), strict=True)


@pytest.mark.parametrize(
    ("questions", "begin", "margin"),
    [
        (small_questions, 60, 2.5), (small_questions, 120, 2.0), (small_questions, 200, 2.0),
        (video_bench_questions, 100, 1.0), (video_bench_questions, 150, 2.0), (video_bench_questions, 300, 1.0),
        (video_bench_questions, 1000, 0.2),
    ],
)  # fmt: skip
def test_the_number_suffices_for_the_sample_that_is_drawn(questions, begin, margin):
    """Two runs that agree in every letter pass at the number that they are told, whatever videos the draw brings."""
    drawn = [Question(name, name, id, id, video, Path(video), "video", "text", {}) for name, id, video in questions()]
    told = set()
    for seed in range(12):
        order = draw_order(drawn, "uniform", seed)

        def estimate(count, order=order):
            videos = number_clusters(each.vid_path for each in order[:count])
            return Estimate(count, len(set(videos)), 0.0, 0.0, flip_effect(np.zeros(count), videos))

        if estimate(begin).unseen < margin:
            continue
        needed = questions_needed(estimate(begin), margin, one_sided=False)
        assert needed > begin
        if needed <= len(order):
            told.add(needed)
            assert estimate(needed).unseen < margin, (seed, needed)
    assert told


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
    logits = simulate(sample_questions(200, rng), rng, World((0.1, 0.05)), loss)
    pairs = build_pairs(logits, stores_logprobs)
    fast, slow = simulated_runs.tabulate(logits, stores_logprobs), tabulate(pairs)
    for name in ("videos", "right", "letters", "is_right", "unreadable", "nonfinite", "vague"):
        assert (getattr(fast, name) == getattr(slow, name)).all(), name
    for name in ("scores", "mass"):
        assert getattr(fast, name) == pytest.approx(getattr(slow, name), nan_ok=True), name
    groups, labelled = simulated_runs.find_subgroups(logits), find_subgroups(pairs)
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
