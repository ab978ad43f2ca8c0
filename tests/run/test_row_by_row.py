"""A device that fails now and then goes on; one that answers nothing any more ends the run."""

import pytest

from tests.support.fake_videos import DEVICE, make_videos
from videobench.errors import DeviceLost
from videobench.run.fitting import FittingEngine
from videobench.run.row_by_row import MOST_FAILURES_IN_A_ROW, PatientEngine


class FakeEngine:
    """Answers a prompt with itself, or fails."""

    is_broken = False

    def answer(self, videos, batch_size):
        if self.is_broken:
            raise RuntimeError("CUDA error: misaligned address")
        return [list(video.prompts) for video in videos]


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def patient(engine):
    return PatientEngine(FittingEngine(engine, DEVICE, 4))


def fail(engine, patient, questions):
    engine.is_broken = True
    answers = patient.answer(make_videos(questions))
    engine.is_broken = False
    return answers


def test_an_answer_between_failures_ends_the_row(engine, patient):
    for _ in range(3):
        [answers] = fail(engine, patient, MOST_FAILURES_IN_A_ROW - 1)
        assert all("misaligned address" in each for each in answers)
        assert patient.answer(make_videos(2)) == [["0.0", "0.1"]]


def test_a_batch_without_a_video_is_no_answer(engine, patient):
    fail(engine, patient, MOST_FAILURES_IN_A_ROW - 1)
    assert patient.answer([]) == []
    with pytest.raises(DeviceLost, match=f"^{MOST_FAILURES_IN_A_ROW} questions in a row failed"):
        fail(engine, patient, 1)
