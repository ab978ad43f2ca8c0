"""A reply becomes a letter; and the leaderboard's averages, worked by hand."""

import pytest

from videobench.compare.scoring import choose_letter, weighted_average
from videobench.data.dataset import DATASET_NAMES
from videobench.data.rows import build_reply

TWO = {"A": "x", "B": "y"}


@pytest.mark.parametrize(
    ("text", "more", "scoring", "letter"),
    [
        pytest.param("no idea", {"letter_logprobs": {"A": -2.0, "B": -0.1}}, "logprob", "B", id="most-probable"),
        pytest.param("A", {"letter_logprobs": {"A": -2, "E": -0.1}, "choices": TWO}, "logprob", "A", id="its-options"),
        pytest.param("A", {}, "logprob", None, id="no-log-probabilities"),
        pytest.param("B", {"error": "video missing"}, "strict", None, id="failed"),
    ],
)
def test_a_reply_becomes_a_letter(text, more, scoring, letter):
    assert choose_letter(build_reply(("MSVD", "1"), "1", {"output_sequence": [text], **more}), scoring) == letter


def test_weighted_average_of_known_accuracies():
    # (1 + 0.5 * 0.4) / 6.5; mean of 0.3, 0.6, 0.9; (0.5 * 0.5 + 0.25 + 0.5) / 2.5
    accuracies = dict.fromkeys(DATASET_NAMES, 0.0) | {
        "ActivityNet": 1.0, "MOT": 0.4,
        "TVQA": 0.3, "MV": 0.6, "NBA": 0.9,
        "Driving-exam": 0.5, "Driving-decision-making": 0.25, "SQA3D": 0.5,
    }  # fmt: skip
    averages = weighted_average(accuracies)
    assert averages[1] == pytest.approx(1.2 / 6.5)
    assert averages[2] == pytest.approx(0.6)
    assert averages[3] == pytest.approx(0.4)
    assert averages["all"] == pytest.approx((1.2 / 6.5 + 0.6 + 0.4) / 3)


def test_weighted_average_over_the_sets_that_are_there():
    assert weighted_average({"MSVD": 0.5, "MOT": 0.2}) == pytest.approx({1: 0.4, "all": 0.4})
    assert weighted_average({}) == {}
