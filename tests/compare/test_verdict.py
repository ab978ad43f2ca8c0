"""The rule of the verdict, case by case: what decides, and in which words; what is no PASS although the wholes are
equal; and what holds of any two runs: swapped sides, another order of rows, one more equal answer."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.simulated_runs import World, build_pairs, judge_pairs, sample_questions, simulate
from videobench.compare.associations import find_levels, find_subgroups
from videobench.compare.pairing import Pair, Side, tabulate
from videobench.compare.settings import Margin
from videobench.compare.verdict import FAIL, INCONCLUSIVE, PASS, weigh
from videobench.compare.verdict import judge as judge_evidence
from videobench.data.rows import build_reply
from videobench.errors import InputError

CLEAR, TIE = 3.0, 0.01  # nats by which the right option leads
SMOOTHED, ACCURACY, FLIPS = "smoothed accuracy", "accuracy", "flips"


def side(number, is_right, lead, stores_logprobs=True):
    logprobs = {"A": -0.5 if is_right else -0.5 - lead, "B": -0.5 - lead if is_right else -0.5}
    row = {"output_sequence": ["A" if is_right else "B"], "vid_path": f"{number}.avi", "choices": {"A": "x", "B": "y"}}
    more = {"letter_logprobs": logprobs} if stores_logprobs else {}
    reply = build_reply(("MSVD", str(number)), str(number), row | more)
    return Side(reply, "A" if is_right else "B", "right" if is_right else "wrong")


def pairs_of(count, *flips, stores_logprobs=True):
    """`count` clear equal answers and, for each (number, lead), flips that only the GPU has right; below 0: the NPU."""
    pairs = [[True, True, CLEAR]] * count
    for number, lead in flips:
        pairs += [[number < 0, number > 0, lead]] * abs(number)
    return [
        Pair("MSVD", str(index), "A", *(side(index, each, lead, stores_logprobs) for each in both))
        for index, (*both, lead) in enumerate(pairs)
    ]


def with_replies(pair, **fields):
    """Both sides' replies with other fields."""
    sides = (replace(each, reply=replace(each.reply, **fields)) for each in pair.sides)
    return replace(pair, **dict(zip(("candidate", "reference"), sides, strict=True)))


def judge_alone(pairs, groups=(), margin=1.0, **more):
    """The verdict without a diagnosis of the numbers."""
    return judge_evidence(weigh(tabulate(pairs), groups, Margin(margin, **more)))


def judge(pairs, margin=Margin(5.0)):  # noqa: B008
    return judge_pairs(pairs, margin)[0]


@pytest.mark.parametrize(
    ("pairs", "one_sided", "name", "decided_by", "words"),
    [
        pytest.param(pairs_of(500), False, PASS, SMOOTHED, "all of it within the margin of 1", id="equal"),
        pytest.param(pairs_of(300), False, INCONCLUSIVE, SMOOTHED, "300 questions show 1.3 points at best", id="few"),
        pytest.param(pairs_of(960, (20, TIE), (-20, TIE)), False, PASS, SMOOTHED, "all of it within", id="coins"),
        pytest.param(
            pairs_of(960, (20, TIE), (-20, TIE), stores_logprobs=False),
            False, INCONCLUSIVE, ACCURACY, "it reaches across", id="coins-without-log-probabilities",
        ),
        pytest.param(
            pairs_of(960, (9, TIE), (-1, TIE)), False, INCONCLUSIVE, FLIPS,
            "flips favour the GPU: 9 answers are right on the GPU alone, 1 on the NPU alone", id="coins-one-way",
        ),
        pytest.param(
            pairs_of(2860, (85, TIE), (-55, TIE)), False, INCONCLUSIVE, FLIPS,
            "85 answers are right on the GPU alone, 55 on the NPU alone; random flips would split evenly",
            id="85-flips-against-55",
        ),
        pytest.param(pairs_of(9000, (30, TIE)), False, PASS, SMOOTHED, "all of it within", id="one-way-and-small"),
        pytest.param(pairs_of(960, (40, CLEAR)), False, FAIL, ACCURACY, "all of it outside", id="a-clear-loss"),
        pytest.param(
            pairs_of(960, (40, CLEAR), stores_logprobs=False), False, FAIL, ACCURACY, "all of it outside",
            id="a-loss-without-log-probabilities",
        ),
        pytest.param(pairs_of(960, (60, TIE)), False, FAIL, ACCURACY, "accuracy differs by -5.88", id="tiny-leads"),
        pytest.param(pairs_of(960, (-40, CLEAR)), False, FAIL, ACCURACY, "all of it outside", id="a-gain"),
        pytest.param(pairs_of(960, (-40, CLEAR)), True, PASS, SMOOTHED, "no loss beyond", id="a-gain-one-sided"),
        pytest.param(pairs_of(960, (-9, TIE)), True, PASS, SMOOTHED, "no loss beyond", id="coins-for-the-npu"),
        pytest.param(pairs_of(960, (40, CLEAR)), True, FAIL, ACCURACY, "all of it outside", id="a-loss-one-sided"),
        pytest.param(pairs_of(960, (9, TIE)), True, INCONCLUSIVE, FLIPS, "favour the GPU", id="coins-against-the-npu"),
        pytest.param(
            pairs_of(4, (4, CLEAR)), False, INCONCLUSIVE, SMOOTHED, "it reaches across", id="four-lost-of-eight",
        ),
    ],
)  # fmt: skip
def test_the_rule(pairs, one_sided, name, decided_by, words):
    verdict = judge_alone(pairs, one_sided=one_sided)
    assert (verdict.name, verdict.decided_by) == (name, decided_by)
    assert any(words in each for each in verdict.reasons[:2])


def test_a_margin_relative_to_no_right_answer_is_refused():
    wrong = [replace(each, reference=replace(each.reference, outcome="wrong")) for each in pairs_of(10)]
    with pytest.raises(InputError, match="--margin 99%: the GPU has no right answer to relate to"):
        judge(wrong, Margin(99, is_relative=True))


def test_what_so_few_questions_can_show_is_the_first_reason():
    verdict = judge(pairs_of(250), Margin(1.0))
    assert verdict.headline == "too few questions to show 1 point"
    assert verdict.reasons[0] == "250 questions show 1.5 points at best, however alike the answers"
    assert (verdict.questions_needed, verdict.advice) == (
        390, "if the runs do not differ, 390 questions show it with a chance of 90 %"
    )  # fmt: skip
    assert judge(pairs_of(250), Margin(2.0)).name == PASS


def test_with_a_real_difference_no_number_of_questions_is_named():
    pairs = pairs_of(990, (9, CLEAR), (-1, CLEAR))
    verdict = judge_alone(pairs)
    assert (verdict.name, verdict.questions_needed) == (INCONCLUSIVE, None)
    assert verdict.advice.startswith("the runs differ: a loss of more than 1.5")


def test_sets_that_cancel_are_no_pass():
    """One set loses as much as another gains: the whole does not differ, and the sets are named."""
    pairs = [
        replace(each, dataset=("TVQA", "MSVD", "NBA")[index % 3]) for index, each in enumerate(pairs_of(1500, (0, TIE)))
    ]
    for index, each in enumerate(pairs[:180]):  # 60 of each set
        lost = {"TVQA": "candidate", "MSVD": "reference"}.get(each.dataset)
        pairs[index] = replace(each, **({lost: side(each.id, False, CLEAR)} if lost else {}))
    groups = [*find_subgroups(pairs), *find_levels(pairs)]
    verdict = judge_alone(pairs, groups, margin=3.0)
    assert judge_alone(pairs, margin=3.0).name == PASS
    assert (verdict.name, verdict.decided_by) == (INCONCLUSIVE, "groups")
    assert "MSVD +12.0" in verdict.headline
    assert "TVQA -12.0" in verdict.headline
    words = "TVQA: accuracy differs by -12.0 points over 500 questions (p "
    assert any(each.startswith(words) for each in verdict.reasons)


def test_two_models_of_equal_accuracy_are_no_pass_without_log_probabilities():
    """72 % agreement, 17,036 questions, equally many right."""
    both, each_way = 12266, 2385
    pairs = pairs_of(both, (each_way, CLEAR), (-each_way, CLEAR), stores_logprobs=False)
    for few in (0, 100):  # of the pairs have log-probabilities
        verdict = judge([*pairs_of(few), *pairs[few:]], Margin(1.0))
        assert (verdict.name, verdict.decided_by) == (INCONCLUSIVE, "agreement")
        assert verdict.headline == "28.0 % of the answers differ"
        assert "without log-probabilities of half the pairs a PASS needs 10 % or less" in verdict.reasons[0]
    wide = judge(pairs, Margin(20.0))
    assert "a PASS needs 20 % or less" in wide.reasons[0]
    assert judge(pairs, Margin(30.0)).name == PASS


def test_a_temperature_that_changes_no_letter_is_no_loss():
    """Three right answers in four, small leads, all logits times 0.8."""
    rng, pairs = np.random.default_rng(0), []
    for index, (is_right, lead) in enumerate(zip(rng.random(3000) < 0.75, rng.exponential(0.5, 3000), strict=True)):
        sound = side(index, is_right, lead)
        flat = {letter: 0.8 * value for letter, value in sound.reply.logprobs.items()}
        total = np.log(sum(map(np.exp, flat.values())))
        logprobs = {letter: value - total for letter, value in flat.items()}
        flattened = replace(sound, reply=replace(sound.reply, logprobs=logprobs))
        pairs.append(Pair("MSVD", str(index), "A", flattened, sound))
    verdict = judge_alone(pairs)
    assert verdict.evidence.accuracy.same_letter == 3000
    assert verdict.name != FAIL


def test_questions_on_one_video_decide_nothing():
    verdict = judge_alone([with_replies(each, vid_path="v.avi") for each in pairs_of(960, (40, CLEAR))])
    assert (verdict.name, verdict.decided_by) == (INCONCLUSIVE, "videos")


def test_a_video_is_known_by_its_bytes():
    """Copies of 500 questions under other names of their videos are no further evidence."""
    once = pairs_of(490, (5, CLEAR), (-5, CLEAR))
    copies = [
        with_replies(replace(each, id=f"{each.id}/{number}"), vid_path=f"{number}/{each.id}.avi", video_sha256=each.id)
        for number in range(4)
        for each in once
    ]
    estimate, alone = (judge_alone(pairs).evidence.accuracy.estimate for pairs in (copies, once))
    assert (estimate.questions, estimate.videos) == (2000, 500)
    assert estimate.effect == pytest.approx(4, rel=0.01)
    assert estimate.interval() == pytest.approx(alone.interval(), rel=0.01)


RUNS = st.tuples(st.integers(0, 10**6), st.sampled_from([0.01, 0.1, 0.5]), st.sampled_from([0.0, 0.2, 1.0]))


def random_pairs(run, count=80):
    """Sound or not: rounding noise of any size, and a shift of the right option. Leads are wide: the bandwidth, which
    follows from the reference's leads, is then at its largest whichever side is the reference."""
    seed, noise, shift = run
    rng = np.random.default_rng(seed)
    logits = simulate(sample_questions(count, rng), rng, World((noise, 0.01), scale=2.0))
    logits.candidate[np.arange(count), logits.right] -= shift
    return build_pairs(logits)


@settings(deadline=None, max_examples=15)
@given(RUNS)
def test_swapped_sides_mirror_the_verdict(run):
    pairs = random_pairs(run)
    ahead = judge(pairs)
    back = judge([replace(each, candidate=each.reference, reference=each.candidate) for each in pairs])
    assert (back.name, back.decided_by) == (ahead.name, ahead.decided_by)
    assert back.questions_needed == ahead.questions_needed
    differences = [each.evidence.accuracy.estimate.difference for each in (back, ahead)]
    assert differences[0] == -differences[1]
    assert _ends(back) == pytest.approx(-_ends(ahead)[:, ::-1])


def _ends(verdict):
    accuracy = verdict.evidence.accuracy.estimate
    return np.array([verdict.evidence.estimate.interval(), accuracy.interval(), accuracy.interval(0.99)])


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
    reply = replace(pairs[index].reference.reply, id="more", key="more")
    if on_a_new_video:
        reply = replace(reply, vid_path="more.mp4", video_id="more")
    same = replace(pairs[index].reference, reply=reply)
    more = [*pairs, replace(pairs[index], id="more", candidate=same, reference=same)]
    before, after = judge(pairs), judge(more)
    assert after.evidence.accuracy.p_clustered == before.evidence.accuracy.p_clustered
    assert not (before.name == PASS and after.name == FAIL)


def test_the_properties_are_tried_on_all_three_verdicts():
    runs = [(seed, noise, shift) for seed in range(3) for noise, shift in ((0.01, 0.0), (0.1, 0.4), (0.5, 1.0))]
    assert {judge(random_pairs(run)).name for run in runs} == {PASS, FAIL, INCONCLUSIVE}
