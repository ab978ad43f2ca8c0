"""What is asked of the engine, in which pieces, when the device's memory takes only so much at once."""

import pytest
import torch

from tests.support.fake_videos import DEVICE, make_videos
from videobench.run.fitting import FittingEngine


class FakeEngine:
    """Answers a prompt with itself; out of memory where it is given more than `max_videos` or `max_rows` at once, or a
    prompt in `too_large`."""

    def __init__(self, max_videos=99, max_rows=99, too_large=(), error=None):
        self.limits = (max_videos, max_rows)
        self.too_large = set(too_large)
        self.error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.asked = []  # (videos, questions at once) of each call

    def answer(self, videos, batch_size):
        prompts = [prompt for video in videos for prompt in video.prompts]
        rows = min(batch_size, len(prompts))
        self.asked.append((len(videos), rows))
        if len(videos) > self.limits[0] or rows > self.limits[1] or self.too_large & set(prompts):
            raise self.error
        return [list(video.prompts) for video in videos]


def all_prompts(videos):
    return [list(video.prompts) for video in videos]


def test_what_fits_is_asked_once(capsys):
    videos, engine = make_videos(3, 2), FakeEngine()
    assert FittingEngine(engine, DEVICE, 16).answer(videos) == all_prompts(videos)
    assert engine.asked == [(2, 5)]
    assert capsys.readouterr().err == ""


def test_videos_are_halved_first_and_what_was_learned_stays(capsys):
    videos, engine = make_videos(1, 1, 1, 1, 1), FakeEngine(max_videos=2)
    fitting = FittingEngine(engine, DEVICE, 16)
    assert fitting.answer(videos) == all_prompts(videos)
    assert engine.asked == [(5, 5), (3, 3), (2, 2), (2, 2), (1, 1)]
    assert capsys.readouterr().err.splitlines() == [
        "warning: cpu is out of memory; from here on at most 3 videos at once",
        "warning: cpu is out of memory; from here on at most 2 videos at once",
    ]
    engine.asked.clear()
    assert fitting.answer(videos) == all_prompts(videos)
    assert engine.asked == [(2, 2), (2, 2), (1, 1)]
    assert capsys.readouterr().err == ""


def test_then_questions_are_halved(capsys):
    videos, engine = make_videos(5), FakeEngine(max_rows=2)
    fitting = FittingEngine(engine, DEVICE, 16)
    assert fitting.answer(videos) == all_prompts(videos)
    assert engine.asked == [(1, 5), (1, 3), (1, 2)]
    assert fitting.batch_size == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("at most 2 questions at once")


def test_a_question_that_does_not_fit_alone_fails_alone():
    videos, engine = make_videos(2, 3, 1), FakeEngine(too_large=["1.1"])
    fitting = FittingEngine(engine, DEVICE, 4)
    assert fitting.answer(videos) == [["0.0", "0.1"], ["1.0", None, "1.2"], ["2.0"]]


def test_a_video_whose_only_question_does_not_fit():
    engine = FakeEngine(too_large=["0.0"])
    assert FittingEngine(engine, DEVICE, 4).answer(make_videos(1)) == [[None]]
    assert engine.asked == [(1, 1)]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("NPU out of memory. Tried to allocate 30.00 MiB (NPU 3; 60.96 GiB total capacity", id="torch_npu"),
        pytest.param("NPU function error: aclrtMalloc, error code is 207001\n[ERROR] more", id="cann-code"),
        pytest.param("EL0004: Failed to allocate memory requested by RTS module.", id="cann-driver"),
        pytest.param("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory", id="cpu"),
    ],
)
def test_plain_runtime_errors_count_by_their_text(text):
    engine = FakeEngine(max_videos=1, error=RuntimeError(text))
    assert FittingEngine(engine, DEVICE, 4).answer(make_videos(1, 1)) == [["0.0"], ["1.0"]]


def test_other_errors_pass():
    engine = FakeEngine(
        max_videos=0, error=RuntimeError("The size of tensor a (3) must match the size of tensor b (4)")
    )
    with pytest.raises(RuntimeError, match="The size of tensor a"):
        FittingEngine(engine, DEVICE, 4).answer(make_videos(1, 1))


def test_nothing_is_asked_for_no_video():
    engine = FakeEngine()
    assert FittingEngine(engine, DEVICE, 4).answer([]) == []
    assert engine.asked == []
