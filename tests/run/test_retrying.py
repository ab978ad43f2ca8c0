"""How a batch is split if it does not fit the device's memory or the device fails."""

import pytest
import torch

from videobench.device.devices import Device, too_large
from videobench.errors import DeviceLost
from videobench.model.prompts import Answer, VideoQuestions
from videobench.run.loop import MOST_FAILURES_IN_A_ROW, RetryingEngine

DEVICE = Device("cpu", torch.device("cpu"), "a card")


def make_videos(*numbers_of_questions):
    return [
        VideoQuestions(torch.zeros(1), [f"{video}.{number}" for number in range(count)], [()] * count)
        for video, count in enumerate(numbers_of_questions)
    ]


class FakeEngine:
    """Answers a prompt with itself; fails if it is given more than `max_videos` or `max_rows` at once or a prompt in
    `failing`, or if it is broken."""

    def __init__(self, max_videos=99, max_rows=99, failing=(), error=None):
        self.limits = (max_videos, max_rows)
        self.failing = set(failing)
        self.error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.is_broken = False
        self.asked = []  # (videos, questions at once) of each call

    def answer(self, videos, batch_size):
        prompts = [prompt for video in videos for prompt in video.prompts]
        rows = min(batch_size, len(prompts))
        self.asked.append((len(videos), rows))
        if self.is_broken:
            raise RuntimeError("CUDA error: misaligned address")
        if len(videos) > self.limits[0] or rows > self.limits[1] or self.failing & set(prompts):
            raise self.error
        return [[Answer((), prompt, {}, True) for prompt in video.prompts] for video in videos]


def texts(answers):
    """What was answered, or the reason."""
    return [[each if isinstance(each, str) else each.text for each in video] for video in answers]


TOO_LARGE = too_large(DEVICE)


FIVE_BY_TWO = [(2, 2), (2, 2), (1, 1)]


@pytest.mark.parametrize(
    ("counts", "limits", "first", "later", "sizes"),
    [
        pytest.param([1] * 5, {"max_videos": 2}, [(5, 5), (3, 3), *FIVE_BY_TWO], FIVE_BY_TWO, [3, 2], id="videos"),
        pytest.param([5], {"max_rows": 2}, [(1, 5), (1, 3), (1, 2)], [(1, 2)], [3, 2], id="questions-on-one-video"),
        pytest.param([1, 3], {"max_videos": 1}, [(2, 4), (2, 2), (1, 1), (1, 1)], [(1, 1)] * 2, [2, 1], id="both"),
    ],
)
def test_what_does_not_fit_is_halved_and_what_was_learned_stays(counts, limits, first, later, sizes, capsys):
    """`first` and `later`: (videos, questions) that are asked together in the first call and in the next."""
    videos, engine = make_videos(*counts), FakeEngine(**limits)
    retrying = RetryingEngine(engine, DEVICE, 16)
    assert texts(retrying.answer(videos)) == [list(video.prompts) for video in videos]
    assert engine.asked == first
    assert capsys.readouterr().err.splitlines() == [
        f"warning: cpu is out of memory; from here on at most {size} question{'s' * (size > 1)} at once"
        for size in sizes
    ]
    engine.asked.clear()
    assert texts(retrying.answer(videos)) == [list(video.prompts) for video in videos]
    assert (engine.asked, retrying.batch_size) == (later, sizes[-1])
    assert capsys.readouterr().err == ""


def test_a_question_that_does_not_fit_alone_fails_alone():
    videos, engine = make_videos(2, 3, 1), FakeEngine(failing=["1.1"])
    retrying = RetryingEngine(engine, DEVICE, 4)
    assert texts(retrying.answer(videos)) == [["0.0", "0.1"], ["1.0", TOO_LARGE, "1.2"], ["2.0"]]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("NPU out of memory. Tried to allocate 30.00 MiB (NPU 3; 60.96 GiB total capacity", id="torch_npu"),
        pytest.param("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", id="cublas"),
        pytest.param("NPU function error: aclrtMalloc, error code is 207001\n[ERROR] more", id="cann-code"),
        pytest.param("EL0004: Failed to allocate memory requested by RTS module.", id="cann-driver"),
        pytest.param("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory", id="cpu"),
    ],
)
def test_each_devices_words_for_out_of_memory_are_known(text):
    engine = FakeEngine(max_videos=1, error=RuntimeError(text))
    assert texts(RetryingEngine(engine, DEVICE, 4).answer(make_videos(1, 1))) == [["0.0"], ["1.0"]]
    assert engine.asked == [(2, 2), (1, 1), (1, 1)]


def test_another_error_costs_the_questions_that_cause_it_and_the_next_batch_is_whole(capsys):
    error = RuntimeError("The size of tensor a (3) must match the size of tensor b (4)")
    videos, engine = make_videos(1, 2), FakeEngine(failing=["1.0"], error=error)
    retrying = RetryingEngine(engine, DEVICE, 4)
    assert texts(retrying.answer(videos)) == [["0.0"], [f"the device failed: RuntimeError: {error}", "1.1"]]
    assert (engine.asked, retrying.batch_size) == ([(2, 3), (1, 1), (1, 1), (1, 1)], 1)
    assert "Traceback" in capsys.readouterr().err
    engine.failing.clear()
    assert texts(retrying.answer(videos)) == [list(video.prompts) for video in videos]
    assert (engine.asked[4:], retrying.batch_size) == ([(2, 3)], 4)


def test_a_device_is_given_up_after_so_many_failures_in_a_row():
    """An answer between them starts the count again; a batch without a video is no answer."""
    engine = FakeEngine()
    retrying = RetryingEngine(engine, DEVICE, 4)
    for _ in range(3):
        engine.is_broken = True
        [answers] = retrying.answer(make_videos(MOST_FAILURES_IN_A_ROW - 1))
        assert all("misaligned address" in each for each in answers)
        engine.is_broken = False
        assert texts(retrying.answer(make_videos(2))) == [["0.0", "0.1"]]
    engine.is_broken = True
    retrying.answer(make_videos(MOST_FAILURES_IN_A_ROW - 1))
    assert retrying.answer([]) == []
    with pytest.raises(DeviceLost, match=f"^{MOST_FAILURES_IN_A_ROW} questions in a row failed"):
        retrying.answer(make_videos(1))
