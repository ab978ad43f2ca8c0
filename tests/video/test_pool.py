"""Videos are prepared ahead, in order, by processes that may hang, die, or be left behind.

A worker takes some seconds to start, so the tests share one if they can."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.support.clip_writer import write_clip
from tests.support.jobs import state_of
from tests.support.paths import ROOT
from tests.support.stubborn_worker import SPEC, STUBBORN
from videobench.errors import InputError
from videobench.video.frames import sample_frames
from videobench.video.pixels import PixelSpec, resize_and_crop
from videobench.video.pool import DecodePool, PreparedVideo, failed_video

VIDEO_BYTES = 8 * 3 * 32 * 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sound videos of 3 to 8 frames; the stubborn decoder acts by their names."""
    folder = tmp_path_factory.mktemp("videos")
    for number, name in enumerate(["a", "b", "c", "hangs", "crashes", "exits", "full", "prints", "slow"]):
        write_clip(folder / f"{name}.avi", "mpeg4", 3 + number % 6)
    return folder


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodePool]:
    """One stubborn worker, room for six videos: it may have MAX_AHEAD_PER_WORKER, 3, ahead."""
    with DecodePool(SPEC, 8, 1, worker_command=STUBBORN, max_ahead_bytes=6 * VIDEO_BYTES) as pool:
        yield pool


def assert_same(found: PreparedVideo, folder: Path, name: str) -> None:
    """As decoded, resized and cropped here."""
    frames = sample_frames(folder / f"{name}.avi", 8)
    pixels = resize_and_crop(frames.pixels, SPEC)
    assert found.error is None
    assert found.video == folder / f"{name}.avi"
    assert torch.equal(found.pixels, pixels)
    assert found.pixels_sha256 == hashlib.sha256(pixels.numpy().tobytes()).hexdigest()
    assert (found.frames_decoded, found.frames_stated) == (frames.decoded, frames.stated)
    assert found.resolution == "96x64"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_videos_come_in_order_as_decoded_here(folder: Path, num_workers: int) -> None:
    names = ["c", "slow", "a", "b", "a"]
    with DecodePool(SPEC, 8, num_workers) as pool:
        found = list(pool.prepare(folder / f"{name}.avi" for name in names))
        again = list(pool.prepare([folder / "b.avi"]))
    for each, name in zip(found + again, [*names, "b"], strict=True):
        assert_same(each, folder, name)


def test_a_decoder_that_never_returns_or_dies_costs_its_video(folder: Path) -> None:
    names = ["a", "hangs", "b", "crashes", "exits", "full", "c"]
    with DecodePool(SPEC, 8, 2, timeout_s=2.0, worker_command=STUBBORN) as pool:
        found = list(pool.prepare(folder / f"{name}.avi" for name in names))
    for index in (0, 2, 6):
        assert_same(found[index], folder, names[index])
    assert [found[index].error for index in (1, 3, 4, 5)] == [
        f"{folder}/hangs.avi: the decoder gave no answer in 2 s",
        f"{folder}/crashes.avi: the decoder died (SIGSEGV)",
        f"{folder}/exits.avi: the decoder died (exit status 3)",
        f"{folder}/full.avi: the decoder died (SIGKILL: was the memory full? use fewer --num_workers)",
    ]
    assert all(found[index].pixels is None for index in (1, 3, 4, 5))


def test_a_video_that_cannot_be_read_gets_its_reason(folder: Path, pool: DecodePool) -> None:
    (folder / "text.avi").write_text("no video")
    names = ("missing.avi", "text.avi", "a.avi")
    for tried in (pool, DecodePool(SPEC, 8, 0)):
        missing, text, sound = tried.prepare(folder / name for name in names)
        assert missing == failed_video(folder / "missing.avi", f"{folder}/missing.avi: no such file")
        assert text.error is not None
        assert text.error.startswith(f"{folder}/text.avi: cannot be opened as a video")
        assert_same(sound, folder, "a")


def test_an_unforeseen_error_costs_its_video(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A way to resize that does not exist represents any defect of the suite that one video reveals."""
    broken = PixelSpec(32, 32, 32, "none", mean=(), std=())
    (found,) = DecodePool(broken, 8, 0).prepare([folder / "a.avi"])
    assert found.error is not None
    assert found.error.startswith(f"{folder}/a.avi: ValueError: ")
    assert "Traceback" in capsys.readouterr().err


def test_what_a_library_prints_does_not_mix_with_results(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with DecodePool(SPEC, 8, 1, worker_command=STUBBORN) as pool:
        assert_same(next(pool.prepare([folder / "prints.avi"])), folder, "prints")
    assert capfd.readouterr() == ("", "a library that prints\n")


def test_worker_that_does_not_start_is_no_fault_of_the_videos(folder: Path) -> None:
    with (
        DecodePool(SPEC, 8, 1, worker_command=(sys.executable, "-c", "raise SystemExit(7)")) as pool,
        pytest.raises(InputError, match=r"did not start \(exit status 7, .*\); use fewer --num_workers$"),
    ):
        next(pool.prepare([folder / "a.avi"]))


def test_a_caller_that_gives_up_leaves_the_pool_usable(folder: Path, pool: DecodePool) -> None:
    results = pool.prepare([folder / "a.avi", *[folder / "slow.avi"] * 20])
    next(results)
    results.close()
    assert_same(next(pool.prepare([folder / "b.avi"])), folder, "b")


def test_no_more_than_three_videos_are_drawn_for_a_worker(folder: Path, pool: DecodePool) -> None:
    asked = []
    results = pool.prepare(asked.append(name) or folder / f"{name}.avi" for name in "abcabc")
    next(results)
    assert asked == [*"abc"]
    assert len(list(results)) == 5


def test_draws_no_further_than_the_bytes_allow_and_leaving_the_pool_ends_a_hanging_worker(folder: Path) -> None:
    asked = []
    videos = (asked.append(name) or folder / f"{name}.avi" for name in ("a", "hangs", "b", "c"))
    with DecodePool(SPEC, 8, 1, worker_command=STUBBORN, max_ahead_bytes=2 * VIDEO_BYTES) as pool:
        next(pool.prepare(videos))
        assert asked == ["a", "hangs"]
        (process,) = [worker._process for worker in pool._workers]
        assert process.poll() is None
    assert process.poll() is not None


def test_worker_ignores_interrupts_and_leaves_the_device_alone(folder: Path, pool: DecodePool) -> None:
    assert_same(next(pool.prepare([folder / "a.avi"])), folder, "a")
    (worker,) = pool._workers
    worker._process.send_signal(signal.SIGINT)
    assert_same(next(pool.prepare([folder / "b.avi"])), folder, "b")
    assert os.getsid(worker._process.pid) != os.getsid(0)  # so that Ctrl-C does not even reach it
    environment = Path(f"/proc/{worker._process.pid}/environ").read_bytes().split(b"\0")
    assert b"TORCH_DEVICE_BACKEND_AUTOLOAD=0" in environment
    # If the host runs out of memory, the kernel ends it and not the run.
    assert Path(f"/proc/{worker._process.pid}/oom_score_adj").read_text() == "1000\n"


@pytest.fixture
def pool_user(tmp_path: Path, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A script that holds a pool, in a folder with a module that must not be imported in place of numpy."""
    if sys.version_info >= (3, 11):  # older versions of Python cannot leave the working directory out
        (tmp_path / "numpy.py").write_text("raise SystemExit('imported from the working directory')")
    with subprocess.Popen(
        [sys.executable, ROOT / "tests/support/pool_user.py", str(folder), "a", "b", "hangs"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.kill()


def test_a_hanging_worker_ends_with_a_parent_that_is_killed(pool_user: subprocess.Popen[str]) -> None:
    lines = [pool_user.stdout.readline().split() for _ in range(2)]
    assert [line[:2] for line in lines] == [["0", "None"], ["1", "None"]]
    pid = int(lines[0][2])
    assert state_of(pid) != "Z"
    pool_user.kill()
    for _ in range(600):
        if state_of(pid) == "Z" and pool_user.poll() is not None:
            break
        time.sleep(0.1)
    assert pool_user.poll() is not None
    assert state_of(pid) == "Z"
