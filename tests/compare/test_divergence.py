"""Log-probabilities of two runs: the measures by hand; each flip in one class; the noise floor; planted faults, found
and named though accuracy says nothing; and sound runs, of which no fault is named."""

import math
from dataclasses import replace

import numpy as np
import pytest

from tests.support.simulated_runs import (
    FAULTS,
    Fault,
    World,
    build_pairs,
    pair_rows,
    sample_questions,
    simulate,
    simulate_rows,
)  # fmt: skip
from videobench.compare.accuracy import compare_paired
from videobench.compare.associations import association_text, find_subgroups, letter_shifts
from videobench.compare.comparison import find_flips
from videobench.compare.divergence import coarser_dtype, diagnose, find_noise_floor, measure
from videobench.compare.pairing import Pair, Side, tabulate
from videobench.compare.settings import Tolerance
from videobench.data.rows import build_reply


def diagnose_pairs(pairs, repeat=None, **more):
    answers = tabulate(pairs)
    return diagnose(answers, measure(answers), find_subgroups(pairs), repeat=repeat, **more)


HALF16, SINGLE = ("float16", "float16"), ("float32", "float32")


def reply(logprobs=None, **more):
    letters = {letter: letter * 3 for letter in logprobs} if logprobs else {"A": "x", "B": "y"}
    return build_reply(
        ("MSVD", "1"), "1", {"output_sequence": ["A"], "choices": letters, "letter_logprobs": logprobs, **more}
    )


def pair(candidate, reference, right="A"):
    def side(each):
        letter = max(each.logprobs, key=each.logprobs.__getitem__) if each.logprobs else each.text
        return Side(each, letter or None, "unreadable" if not letter else "right" if letter == right else "wrong")

    return Pair("MSVD", "1", right, side(candidate), side(reference))


def spoilt_pairs(fault, dtypes=HALF16, seed=0, count=300):
    return pair_rows(simulate_rows(count, seed, dtypes, fault))


def with_candidate(pair, **fields):
    return replace(pair, candidate=replace(pair.candidate, reply=replace(pair.candidate.reply, **fields)))


def shifted(pair, by):
    """Each of the candidate's log-probabilities larger by what `by` says of its letter."""
    return with_candidate(
        pair, logprobs={each: value + by(each) for each, value in pair.candidate.reply.logprobs.items()}
    )


def test_measures_by_hand():
    candidate, reference = {"A": -0.5, "B": -1.25, "C": -3.0}, {"A": -0.75, "B": -1.0, "C": -2.0}
    measured = measure(tabulate([pair(reply(candidate), reply(reference), right="B")]))
    assert measured.largest == pytest.approx([1.0])  # C
    assert measured.common == pytest.approx([1 / 3])  # of differences 0.25, -0.25, -1
    assert measured.shift == pytest.approx([0.5])  # A over B: 0.25 becomes 0.75
    assert measured.right_leads == pytest.approx(np.array([[-0.75, -0.25]]))
    unknown = measure(tabulate([pair(reply(candidate), reply(reference), right="")]))  # as MindIE's rule has F
    assert np.isnan(unknown.right_leads).all()
    assert measured.by_letter[0] == pytest.approx([0.25, -0.25, -1.0, *[np.nan] * 3], nan_ok=True)
    shifts = letter_shifts(np.repeat(measured.by_letter, 30, axis=0), np.arange(30))  # against the mean of the others
    assert {each.label: each.inside for each in shifts} == pytest.approx(
        {"option A favoured": 0.875, "option B favoured": 0.125, "option C avoided": -1.0}
    )
    chances = [np.exp(list(side.values())) / np.exp(list(side.values())).sum() for side in (reference, candidate)]
    assert measured.kl == pytest.approx([float((chances[0] * np.log(chances[0] / chances[1])).sum())])


TWO, THREE = {"A": -1.0, "B": -2.0}, {"A": -0.5, "B": -1.5, "C": -2.5}


@pytest.mark.parametrize(
    ("candidate", "reference"),
    [
        pytest.param(reply(), reply(TWO), id="one-side-has-no-log-probabilities"),
        pytest.param(reply({"A": -1.0}), reply({"A": -1.0}), id="one-option"),
        pytest.param(reply(THREE, choices={"A": "x"}), reply(THREE), id="one-shared-option"),
        pytest.param(reply(TWO, nonfinite=True), reply(TWO), id="nonfinite"),
    ],
)
def test_what_cannot_be_measured_is_left_out(candidate, reference):
    assert measure(tabulate([pair(candidate, reference)])).pairs == []


@pytest.mark.parametrize(
    ("candidate", "reference", "largest"),
    [
        pytest.param(
            reply(THREE, choices={"B": "y", "C": "z"}), reply(THREE | {"B": -1.0}), 0.5, id="one-side-lacks-it"
        ),
        pytest.param(reply(TWO | {"C": -40.0}), reply(TWO | {"C": -60.0}), 0.0, id="it-has-no-probability"),
    ],
)
def test_an_option_that_plays_no_part_is_not_measured(candidate, reference, largest):
    measured = measure(tabulate([pair(candidate, reference)]))
    assert measured.largest == pytest.approx([largest])
    for field in ("spread", "common", "shift", "kl"):
        assert np.isfinite(getattr(measured, field)).all(), field


@pytest.mark.parametrize(
    ("dtypes", "coarser"),
    [
        (("float32", "float16"), "float16"),
        (("torch.float32", "float32"), "float32"),
        (("float16", "bfloat16"), "bfloat16"),
        (("float16", None), "bfloat16"),
        (("int8", "float16"), "bfloat16"),
    ],
)
def test_the_coarser_dtype_counts(dtypes, coarser):
    sides = [reply({"A": -1.0, "B": -2.0}, run={"dtype": dtype} if dtype else {}) for dtype in dtypes]
    assert coarser_dtype([pair(*sides)]) == coarser


def test_a_resolution_that_is_no_number_is_passed_over():
    odd = [reply({"A": -0.1 * each, "B": -2.0}, resolution="320x24²") for each in range(1, 30)]
    pairs = [pair(each, odd[0]) for each in odd]
    assert all("pixels" not in each.label for each in diagnose_pairs(pairs).associations)


CLEAR_B = {"A": -3.0, "B": -0.1}
NEAR = {"A": -0.69, "B": -0.70}


@pytest.mark.parametrize(
    ("candidate", "reference", "kind"),
    [
        pytest.param(reply({"A": -0.70, "B": -0.69}), reply(NEAR), "tie", id="within-the-noise"),
        pytest.param(reply(CLEAR_B), reply({"A": -0.1, "B": -3.0}), "drift", id="clear-on-both"),
        pytest.param(reply(CLEAR_B), reply(NEAR), "drift", id="clear-on-one"),
        pytest.param(reply(CLEAR_B, pixels_sha256="1"), reply(NEAR, pixels_sha256="2"), "input", id="pixels"),
        pytest.param(reply(CLEAR_B, prompt_sha256="1"), reply(NEAR, prompt_sha256="2"), "input", id="prompts"),
        pytest.param(reply(CLEAR_B, pixels_sha256="1"), reply(NEAR), "drift", id="one-hash-only"),
        pytest.param(reply(CLEAR_B, nonfinite=True), reply(NEAR), "failed", id="nonfinite"),
        pytest.param(reply(output_sequence=["B"]), reply(output_sequence=["A"]), "unknown", id="no-log-probabilities"),
        pytest.param(reply(output_sequence=[""]), reply(output_sequence=["A"]), "format", id="unreadable"),
        pytest.param(reply(NEAR), reply({"A": -0.1, "B": -9.0}), None, id="no-flip-if-the-letters-agree"),
    ],
)  # fmt: skip
def test_each_flip_has_one_class(candidate, reference, kind):
    flips = find_flips([pair(candidate, reference)], noise_lead=0.05)
    assert [flip.kind for flip in flips] == ([kind] if kind else [])


def test_flips_that_deserve_a_look_come_first():
    tie, drift = pair(reply({"A": -0.70, "B": -0.69}), reply(NEAR)), pair(reply(CLEAR_B), reply(NEAR))
    assert [flip.kind for flip in find_flips([tie, drift], 0.05)] == ["drift", "tie"]


def test_noise_floor_from_the_bulk_is_bounded_on_both_sides():
    quiet, sound, broken = (
        find_noise_floor(measure(tabulate(spoilt_pairs(fault, dtypes))), dtypes[0], None).lead
        for fault, dtypes in ((None, SINGLE), (None, HALF16), (Fault("noise", 1.0), HALF16))
    )
    assert quiet >= 0.002  # a rounding step, not zero
    assert 2**-6 < sound < 0.1
    assert broken == 0.1  # what float16 explains, however large the differences are


# Fault, its cause as named, and words of the finding. float16 here, three to four times as large in bfloat16.
PLANTED = [
    pytest.param(Fault("noise", 0.15), "everywhere", "half of all 300 questions differ", id="noise-in-a-layer"),
    pytest.param(Fault("letter", 0.12), "letter", "option B favoured", id="bias-on-a-letter"),
    pytest.param(Fault("long prompts", 0.3), "prompt length", "prompts of more than 13", id="prompts-cut"),
    pytest.param(Fault("frame order", 0.3), "order in time", "questions about order in time", id="frames-out-of-order"),
    pytest.param(Fault("card", 0.2), "npu card", "NPU card 2", id="one-card-of-four"),
    pytest.param(Fault("mass", 0.2), "npu card", "NPU card 2", id="one-card-answers-less-with-a-letter"),
    pytest.param(Fault("overflow", 120), "nonfinite", "NPU logits hold NaN or infinity", id="overflow-on-long-prompts"),
]


@pytest.mark.parametrize(("fault", "cause", "words"), PLANTED)
def test_planted_fault_is_found_and_named_although_accuracy_says_nothing(fault, cause, words):
    pairs = spoilt_pairs(fault)
    assert compare_paired(tabulate(pairs)).p_value > 0.1
    findings = diagnose_pairs(pairs).findings
    assert findings[0].cause == cause
    assert words in findings[0].text
    larger = replace(fault, size=0 if fault.kind == "overflow" else 4 * fault.size)
    assert diagnose_pairs(spoilt_pairs(larger, ("bfloat16", "float32"), seed=3)).findings[0].cause == cause


def test_every_fault_of_the_simulation_is_planted_above():
    assert {param.values[0].kind for param in PLANTED} == set(FAULTS)


@pytest.mark.parametrize(
    ("hit", "named"),
    [
        pytest.param(lambda name, card: name in ("TVQA", "SQA3D"), ["SQA3D", "TVQA"], id="two-sets"),
        pytest.param(lambda name, card: card in (1, 2), ["NPU card 1", "NPU card 2"], id="two-cards"),
        pytest.param(lambda name, card: card > 0, ["all but NPU card 0"], id="three-cards-of-four"),
        pytest.param(lambda name, card: card == 1 or name == "TVQA", ["NPU card 1", "TVQA"], id="card-and-set"),
        pytest.param(lambda name, card: card == 1 and name != "TVQA", ["NPU card 1"], id="sets-inside-a-card"),
    ],
)
def test_every_broken_group_is_named_once(hit, named):
    rng = np.random.default_rng(1)
    pairs = [
        shifted(each, lambda letter: 0.3 * rng.normal()) if hit(each.dataset, each.candidate.reply.rank) else each
        for each in spoilt_pairs(None)
    ]
    findings = diagnose_pairs(pairs).findings
    assert sorted(each.text.split(":")[0] for each in findings) == named
    assert all(each.look_at for each in findings)


def test_two_letters_are_named_and_not_those_that_they_leave_behind():
    pairs = [shifted(each, lambda letter: {"B": 0.3, "D": -0.2}.get(letter, 0)) for each in spoilt_pairs(None)]
    letters = [each.text for each in diagnose_pairs(pairs).findings if each.cause == "letter"]
    assert sorted(text.split(":")[0] for text in letters) == ["option B favoured", "option D avoided"]


@pytest.mark.parametrize(("size", "is_found"), [(0.0, False), (0.0003, False), (0.02, True)])
def test_a_run_that_does_not_repeat_itself_is_found_and_breaks_nothing(size, is_found):
    rng, pairs = np.random.default_rng(2), spoilt_pairs(None, SINGLE)
    again = [shifted(replace(each, candidate=each.reference), lambda letter: size * rng.normal()) for each in pairs]
    diagnosis = diagnose_pairs(pairs, measure(tabulate(again)))
    assert not diagnosis.broken
    assert [each.cause for each in diagnosis.findings] == ["repeat"] * is_found
    assert all("CUBLAS_WORKSPACE_CONFIG" in each.look_at for each in diagnosis.findings)


def test_overflow_is_tied_to_the_long_prompts():
    pairs = spoilt_pairs(Fault("overflow", 0))
    assert "most of all in prompts of more than" in diagnose_pairs(pairs).findings[0].text


@pytest.mark.parametrize(
    "dtypes", [HALF16, SINGLE, ("float16", "float32"), ("bfloat16", "float32"), ("bfloat16", "bfloat16")]
)
@pytest.mark.parametrize("seed", range(4))
def test_sound_runs_are_not_called_broken(dtypes, seed):
    pairs = spoilt_pairs(None, dtypes, seed)
    assert diagnose_pairs(pairs).findings == []


def test_the_same_run_twice_has_no_difference_at_all():
    pairs = [replace(each, candidate=each.reference) for each in spoilt_pairs(None)]
    assert measure(tabulate(pairs)).largest.max() == 0
    diagnosis = diagnose_pairs(pairs)
    assert (diagnosis.findings, diagnosis.associations) == ([], [])


def test_a_few_garbled_replies_among_sound_ones_are_found():
    pairs = spoilt_pairs(None)
    for index in (10, 90, 200):
        pairs[index] = shifted(pairs[index], lambda letter: -3.0 * (letter == "A"))
    finding = diagnose_pairs(pairs).findings[0]
    assert (finding.cause, finding.questions) == ("scattered", 3)


def test_without_log_probabilities_flips_are_associated_but_do_not_fail():
    pairs = []
    for id in map(str, range(300)):
        card = int(id) % 4
        text = "B" if card == 2 else "A"
        first, second = (
            build_reply(("MSVD", id), id, {"output_sequence": [letter], "rank": rank})
            for letter, rank in ((text, card), ("A", 0))
        )
        pairs.append(Pair("MSVD", id, "A", Side(first, text, "right"), Side(second, "A", "right")))
    diagnosis = diagnose_pairs(pairs)
    assert diagnosis.findings == []
    assert diagnosis.associations[0].label == "NPU card 2"
    assert math.isclose(diagnosis.associations[0].inside, 1.0)
    assert association_text(diagnosis.associations[0]).startswith("NPU card 2, flips in 100 % against 0 % elsewhere")


@pytest.mark.parametrize(("share", "cause"), [(0.45, "everywhere"), (0.15, "scattered"), (0.0, None)])
def test_questions_at_nine_times_the_tolerance_are_not_sound(share, cause):
    """Both ways, so that no letter is shifted in the mean."""
    rng, pairs = np.random.default_rng(4), spoilt_pairs(None, count=1000)
    for index, is_hit in enumerate(rng.random(len(pairs)) < share):
        size = is_hit * (-0.9 if index < len(pairs) // 2 else 0.9)
        pairs[index] = shifted(pairs[index], lambda letter, size=size: size * (letter == "A"))
    diagnosis = diagnose_pairs(pairs)
    assert bool(diagnosis.broken) == (cause is not None)
    assert cause is None or cause in [each.cause for each in diagnosis.findings]


def test_one_row_with_log_probabilities_says_nothing_of_the_others():
    first, *others = spoilt_pairs(None)
    pairs = [first, *(with_candidate(each, logprobs={}) for each in others)]
    diagnosis = diagnose_pairs(pairs)
    assert (diagnosis.measured, diagnosis.compared, diagnosis.is_known) == (1, 300, False)


@pytest.mark.parametrize("seed", range(4))
def test_heavy_tailed_rounding_is_not_called_scattered(seed):
    """Student's t with 2 degrees of freedom, 0.03 nats in float16."""
    rng = np.random.default_rng(seed)
    logits = simulate(sample_questions(1000, rng), rng, World((0.03, 0.03), kind="heavy"))
    assert diagnose_pairs(build_pairs(logits)).findings == []


def test_if_other_numbers_are_expected_nothing_is_broken_and_groups_stand_out():
    rng = np.random.default_rng(0)
    logits = simulate(sample_questions(1000, rng), rng, World((0.05, 0.05), quantised=0.5))
    pairs = build_pairs(logits)
    none = Tolerance(is_judged=False)
    assert diagnose_pairs(pairs).broken
    assert diagnose_pairs(pairs, tolerance=none).findings == []
    assert not diagnose_pairs(pairs, tolerance=Tolerance(3.0)).broken
    on_card_2 = logits.questions.video % 4 == 2
    logits.candidate[on_card_2] += 2 * rng.normal(size=logits.candidate[on_card_2].shape)
    [finding] = diagnose_pairs(build_pairs(logits), tolerance=none).findings
    assert (finding.cause, finding.breaks) == ("npu card", False)
    assert finding.text.startswith("NPU card 2: ")
