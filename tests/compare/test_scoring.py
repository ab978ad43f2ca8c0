"""Letters become outcomes, outcomes scores and averages: expectations worked by hand."""

import pytest

from videobench.compare.scoring import REFERENCE_ROWS, Score, choose_letter, judge, score, weighted_average
from videobench.data.rows import build_reply


@pytest.mark.parametrize(
    ("row", "scoring", "letter"),
    [
        pytest.param(
            {"output_sequence": ["no idea"], "letter_logprobs": {"A": -2.0, "B": -0.1}},
            "logprob",
            "B",
            id="most-probable",
        ),
        pytest.param(
            {"output_sequence": ["A"], "letter_logprobs": {"A": -2.0, "E": -0.1}, "choices": {"A": "x", "B": "y"}},
            "logprob",
            "A",
            id="of-its-options-only",
        ),
        pytest.param({"output_sequence": ["A"]}, "logprob", None, id="no-log-probabilities"),
        pytest.param({"output_sequence": ["B"], "error": "video missing"}, "strict", None, id="failed"),
    ],
)
def test_choose_letter(row, scoring, letter):
    assert choose_letter(build_reply(("MSVD", "1"), "1", row), scoring) == letter


def test_judge_names_the_outcome():
    answered = build_reply(("MSVD", "1"), "1", {"output_sequence": ["A"]})
    failed = build_reply(("MSVD", "1"), "1", {"error": "video missing"})
    assert [judge(answered, "A", "A"), judge(answered, "B", "A"), judge(answered, None, "A")] == [
        "right",
        "wrong",
        "unreadable",
    ]
    assert [judge(failed, None, "A"), judge(None, None, "A")] == ["failed", "missing"]


def test_wrong_answers_of_every_kind_stay_in_the_denominator():
    counts = score(["right", "wrong", "unreadable", "failed", "missing"])
    assert (counts, counts.accuracy) == (Score(1, 5, 1, 1, 1), 0.2)


def test_weighted_average_of_known_accuracies():
    # (1 + 0.5 * 0.4) / 6.5; mean of 0.3, 0.6, 0.9; (0.5 * 0.5 + 0.25 + 0.5) / 2.5
    accuracies = dict.fromkeys(["MSVD", "MSRVTT", "TGIF", "Youcook2", "Ucfcrime"], 0.0) | {
        "ActivityNet": 1.0,
        "MOT": 0.4,
    }
    accuracies |= {
        "TVQA": 0.3,
        "MV": 0.6,
        "NBA": 0.9,
        "Driving-exam": 0.5,
        "Driving-decision-making": 0.25,
        "SQA3D": 0.5,
    }
    averages = weighted_average(accuracies)
    assert averages[1] == pytest.approx(1.2 / 6.5)
    assert averages[2] == pytest.approx(0.6)
    assert averages[3] == pytest.approx(0.4)
    assert averages["all"] == pytest.approx((1.2 / 6.5 + 0.6 + 0.4) / 3)


def test_weighted_average_over_the_sets_that_are_there():
    assert weighted_average({"MSVD": 0.5, "MOT": 0.2}) == pytest.approx({1: 0.4, "all": 0.4})
    assert weighted_average({}) == {}


def test_reference_rows_are_the_leaderboard_s():
    assert (REFERENCE_ROWS["Random"], REFERENCE_ROWS["Gemini"], len(REFERENCE_ROWS)) == (28.45, 49.60, 11)
