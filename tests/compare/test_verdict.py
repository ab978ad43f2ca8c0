"""The rule of the verdict, and what holds of any two runs."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.simulated_losses import build_pairs, simulate
from tests.support.simulated_runs import all_questions, sample_questions
from videobench.compare.diagnosis import diagnose
from videobench.compare.divergence import measure
from videobench.compare.pairing import Pair, Pairing, Side
from videobench.compare.rule import FAIL, INCONCLUSIVE, PASS, Rule, weigh
from videobench.compare.settings import Margin
from videobench.compare.verdict import decide
from videobench.data.replies import build_reply
from videobench.errors import InputError

CLEAR, TIE = 3.0, 0.01  # nats by which the right option leads
SMOOTHED, ACCURACY, FLIPS = "smoothed accuracy", "accuracy", "flips"


def side(number, is_right, lead, stores_logprobs=True):
    logprobs = {"A": -0.5 if is_right else -0.5 - lead, "B": -0.5 - lead if is_right else -0.5}
    row = {"output_sequence": ["A" if is_right else "B"], "vid_path": f"{number}.avi", "choices": {"A": "x", "B": "y"}}
    reply = build_reply(
        ("MSVD", str(number)), str(number), row | ({"letter_logprobs": logprobs} if stores_logprobs else {})
    )
    return Side(reply, "A" if is_right else "B", "right" if is_right else "wrong")


def pairs_of(count, *flips, stores_logprobs=True):
    """`count` clear equal answers and, for each (number, lead), flips that only the GPU has right; below 0: the NPU."""
    pairs = [[True, True, CLEAR]] * count
    for number, lead in flips:
        pairs += [[number < 0, number > 0, lead]] * abs(number)
    return [
        Pair("MSVD", str(index), "A", side(index, npu, lead, stores_logprobs), side(index, gpu, lead, stores_logprobs))
        for index, (npu, gpu, lead) in enumerate(pairs)
    ]


@pytest.mark.parametrize(
    ("pairs", "one_sided", "name", "decided_by", "words"),
    [
        pytest.param(pairs_of(500), False, PASS, SMOOTHED, "all of it within the margin of 1", id="equal"),
        pytest.param(pairs_of(300), False, INCONCLUSIVE, SMOOTHED, "it reaches across", id="too-few"),
        pytest.param(pairs_of(960, (20, TIE), (-20, TIE)), False, PASS, SMOOTHED, "all of it within", id="coins"),
        pytest.param(
            pairs_of(960, (20, TIE), (-20, TIE), stores_logprobs=False),
            False, INCONCLUSIVE, ACCURACY, "it reaches across", id="coins-without-log-probabilities",
        ),
        pytest.param(
            pairs_of(960, (9, TIE), (-1, TIE)), False, INCONCLUSIVE, FLIPS, "went one way: 9 are right on the GPU",
            id="coins-that-fall-one-way",
        ),
        pytest.param(pairs_of(9000, (30, TIE)), False, PASS, SMOOTHED, "all of it within", id="one-way-and-small"),
        pytest.param(pairs_of(960, (40, CLEAR)), False, FAIL, SMOOTHED, "all of it outside", id="a-clear-loss"),
        pytest.param(
            pairs_of(960, (40, CLEAR), stores_logprobs=False), False, FAIL, ACCURACY, "all of it outside",
            id="a-loss-without-log-probabilities",
        ),
        pytest.param(pairs_of(960, (60, TIE)), False, FAIL, ACCURACY, "accuracy differs by -5.88", id="tiny-leads"),
        pytest.param(pairs_of(960, (-40, CLEAR)), False, FAIL, SMOOTHED, "all of it outside", id="a-gain"),
        pytest.param(pairs_of(960, (-40, CLEAR)), True, PASS, SMOOTHED, "no loss beyond", id="a-gain-one-sided"),
        pytest.param(pairs_of(960, (-9, TIE)), True, PASS, SMOOTHED, "no loss beyond", id="coins-for-the-npu"),
        pytest.param(pairs_of(960, (40, CLEAR)), True, FAIL, SMOOTHED, "all of it outside", id="a-loss-one-sided"),
        pytest.param(pairs_of(960, (9, TIE)), True, INCONCLUSIVE, FLIPS, "went one way", id="coins-against-the-npu"),
    ],
)  # fmt: skip
def test_the_rule(pairs, one_sided, name, decided_by, words):
    judgement = Rule(1.0, one_sided).judge(weigh(pairs, seed=0))
    assert (judgement.name, judgement.decided_by) == (name, decided_by)
    assert words in judgement.reasons[0]


def judge(pairs, margin=Margin(5.0), seed=0):  # noqa: B008
    pairing = Pairing(list(pairs), {}, {}, [], 0, 0)
    return decide(pairing, [], diagnose(pairs, measure(pairs)), margin, seed)


def test_a_relative_margin_is_of_the_gpu_s_accuracy():
    pairs = pairs_of(480, (-40, CLEAR), (480, CLEAR))  # the GPU has 960 of 1000 right
    assert judge(pairs, Margin(99, is_relative=True)).margin == pytest.approx(0.96)
    wrong = [replace(each, gpu=replace(each.gpu, outcome="wrong")) for each in pairs]
    with pytest.raises(InputError, match="--margin 99%: the GPU has no right answer to relate to"):
        judge(wrong, Margin(99, is_relative=True))


def test_what_so_few_questions_can_show_is_the_first_reason():
    verdict = judge(pairs_of(250), Margin(1.0))
    assert (
        verdict.reasons[0] == "250 questions without a single clear flip can show 1.5 points at best; 381 would show 1"
    )
    assert (verdict.questions_needed, verdict.questions_needed_if_equal) == (381, 381)
    assert judge(pairs_of(250), Margin(2.0)).name == PASS


RUNS = st.tuples(st.integers(0, 10**6), st.sampled_from([0.01, 0.1, 0.5]), st.sampled_from([0.0, 0.2, 1.0]))


def random_pairs(run, count=80):
    """Sound or not: rounding noise of any size, and a shift of the right option."""
    seed, noise, shift = run
    rng = np.random.default_rng(seed)
    logits = simulate(sample_questions(all_questions(), count, rng), rng, (noise, 0.01), None)
    logits.npu[np.arange(count), logits.right] -= shift
    return build_pairs(logits)


@settings(deadline=None, max_examples=15)
@given(RUNS)
def test_swapped_sides_mirror_the_verdict(run):
    pairs = random_pairs(run)
    ahead = judge(pairs)
    back = judge([replace(each, npu=each.gpu, gpu=each.npu) for each in pairs])
    assert (back.name, back.decided_by) == (ahead.name, ahead.decided_by)
    assert back.questions_needed_if_equal == ahead.questions_needed_if_equal
    assert back.evidence.accuracy.difference == -ahead.evidence.accuracy.difference
    assert _ends(back) == pytest.approx(-_ends(ahead)[:, ::-1])


def _ends(verdict):
    return np.array([verdict.evidence.interval(), verdict.evidence.accuracy.ci95, verdict.evidence.accuracy.ci99])


@settings(deadline=None, max_examples=15)
@given(RUNS, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_plays_no_part(run, random):
    pairs = random_pairs(run)
    first = judge(pairs)
    random.shuffle(pairs)
    again = judge(pairs)
    assert (again.name, again.reasons) == (first.name, first.reasons)
    assert _ends(again) == pytest.approx(_ends(first))


@settings(deadline=None, max_examples=25)
@given(RUNS, st.integers(0, 79), st.booleans())
def test_a_question_on_which_both_agree_turns_no_pass_into_a_fail(run, index, on_a_new_video):
    pairs = random_pairs(run)
    reply = replace(pairs[index].gpu.reply, id="more", key="more")
    if on_a_new_video:
        reply = replace(reply, vid_path="more.mp4", video_id="more")
    same = replace(pairs[index].gpu, reply=reply)
    more = [*pairs, replace(pairs[index], id="more", npu=same, gpu=same)]
    before, after = judge(pairs), judge(more)
    assert after.evidence.accuracy.p_clustered == before.evidence.accuracy.p_clustered
    assert not (before.name == PASS and after.name == FAIL)


def test_the_properties_are_tried_on_all_three_verdicts():
    runs = [(seed, noise, shift) for seed in range(3) for noise, shift in ((0.01, 0.0), (0.1, 0.4), (0.5, 1.0))]
    assert {judge(random_pairs(run)).name for run in runs} == {PASS, FAIL, INCONCLUSIVE}
