"""How many questions go to the device at once, against memory worked by hand, and which."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.support.checkpoints import VICUNA_7B, checkpoint_of
from videobench.device.devices import Device
from videobench.model.prompts import Prompt
from videobench.run import loop as batches
from videobench.run.loop import batch_size_for, make_batches, stage_ahead
from videobench.run.plan import Plan, RunContext, VideoWork
from videobench.video.pool import PreparedVideo, failed_video

GB = 10**9


def settings_of(**changed):
    return SimpleNamespace(
        **{"batch_size": None, "dtype": "float16", "num_frames": 8, "max_new_tokens": 60, "tensor_parallel": 1}
        | changed
    )


def plan_of(*suffix_lengths, failing=()):
    prompts = {number: Prompt((1,) * 1157, (2,) * length) for number, length in enumerate(suffix_lengths)}
    return Plan(prompts, dict.fromkeys(failing, "why"))


@pytest.fixture
def choose(monkeypatch):
    def choose(free_bytes, plan, kind="cuda", text=VICUNA_7B, weights_bytes=0, **changed):
        monkeypatch.setattr(batches, "memory_bytes", lambda device: (free_bytes, free_bytes))
        checkpoint = checkpoint_of(**text | {"intermediate_size": 11008})
        device = Device(kind, None, "a card")
        context = RunContext(settings_of(**changed), None, device, checkpoint, plan)
        return batch_size_for(context, weights_bytes)

    return choose


# A question of 1157 + 123 tokens and 60 of the reply takes 1340 * 0.5 MiB = 0.703 GB, and 0.320 GB while it is
# computed: 1.02 GB of nine tenths of what is free, less 0.703 GB.
@pytest.mark.parametrize(
    ("free_gb", "expected"),
    [(50, 32), (30, 25), (20, 16), (0.5, 1)],
)
def test_a_batch_is_as_large_as_the_memory_takes(choose, free_gb, expected):
    assert choose(int(free_gb * GB), plan_of(40, 123)) == expected
    assert choose(int(free_gb * GB), plan_of(40, 123, 1500, failing=[2])) == expected  # which is not asked


@pytest.mark.parametrize(("free_gb", "expected"), [(50, 31), (40, 22), (10, 1)])
def test_room_is_left_for_weights_that_are_still_to_be_loaded(choose, free_gb, expected):
    """As many questions as when 14 GB of weights have been loaded: --dry_run tells the size that the run takes."""
    assert choose(free_gb * GB, plan_of(123), weights_bytes=14 * GB) == expected
    assert choose(max(0, free_gb - 14) * GB, plan_of(123)) == expected


def test_a_stated_batch_size_counts_and_a_cpu_takes_8(choose):
    assert choose(2 * GB, plan_of(123), batch_size=64) == 64
    assert choose(2 * GB, plan_of(123), kind="cpu") == 8
    assert choose(50 * GB, plan_of(123, failing=[0])) == 32


def works_of(*numbers_of_questions, prefix_length=4):
    return [
        VideoWork(
            Path(f"{video}.mp4"),
            tuple(f"{video}.{number}" for number in range(count)),
            tuple(Prompt((1,) * prefix_length, (2,)) for _ in range(count)),
        )
        for video, count in enumerate(numbers_of_questions)
    ]


@pytest.mark.parametrize(
    ("counts", "batch_size", "expected"),
    [
        pytest.param([1, 1, 1, 1, 1], 4, [[1, 1, 1, 1], [1]], id="one-each"),
        pytest.param([3, 2, 1, 4], 6, [[3, 2, 1], [4]], id="whole-videos"),
        pytest.param([29, 1], 8, [[29], [1]], id="more-than-a-batch-on-one-video"),
        pytest.param([1, 29, 1], 8, [[1], [29], [1]], id="in-order"),
        pytest.param([], 8, [], id="nothing"),
    ],
)
def test_a_batch_is_of_whole_videos_up_to_its_size(counts, batch_size, expected):
    prepared = [(work, None) for work in works_of(*counts)]
    made = list(make_batches(prepared, batch_size, most_videos=lambda: 99))
    assert [[len(work.questions) for work, _ in batch] for batch in made] == expected
    assert [each for batch in made for each in batch] == prepared


def test_batches_shrink_if_other_replicas_would_wait():
    """The limit falls while the work goes: the last batches of a job are small, so that all ranks end together."""
    limits = iter([3, 3, 3, 2, 2, 1, 1])
    prepared = [(work, None) for work in works_of(1, 1, 1, 1, 1, 1)]
    assert [len(batch) for batch in make_batches(prepared, 8, lambda: next(limits))] == [3, 2, 1]


def test_videos_whose_prompts_differ_in_length_share_no_batch():
    prepared = [(work, None) for work in [*works_of(1, 1), *works_of(1, prefix_length=8), *works_of(1)]]
    assert [len(batch) for batch in make_batches(prepared, 8, most_videos=lambda: 99)] == [2, 1, 1]


# --- The next batch is copied to the device while it computes ---


def test_batches_come_in_order_one_ahead_and_copied_if_they_can_be():
    """Videos hold their numbers as pixels; b cannot be decoded, and the device has no room for d."""

    def prepared(name):
        if name == "b":
            return None, failed_video(Path(name), "broken")
        return None, PreparedVideo(Path(name), torch.tensor([ord(name)]), "", "", None, 1, 1, "1x1", None)

    drawn = []
    batches = (drawn.append(names) or [prepared(name) for name in names] for names in ("abc", "b", "d"))

    def to_device(pixels):
        if pixels[0] == ord("d"):
            raise RuntimeError("CUDA out of memory")
        return torch.stack(pixels) + 1000

    staged = stage_ahead(batches, to_device)
    first = next(staged)
    assert drawn == ["abc", "b"]
    found = [[video.error or int(video.pixels) for _, video in batch] for batch in (first, *staged)]
    assert found == [[1097, "broken", 1099], ["broken"], [100]]  # d is left to the engine
