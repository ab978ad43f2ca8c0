"""Videos are prepared ahead, in order, by processes that may hang, die, or be left behind.

A worker takes some seconds to start, so the tests share one where they can."""

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
from tests.support.paths import ROOT
from tests.support.stubborn_worker import LARGE_BYTES, SPEC, STUBBORN
from videobench.errors import InputError
from videobench.video.frames import sample_frames
from videobench.video.pixels import PixelSpec, resize_and_crop
from videobench.video.pool import DecodePool, PreparedVideo, decoding_room_bytes, failed_video

VIDEO_BYTES = 8 * 3 * 32 * 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sound videos of 3 to 8 frames; the stubborn decoder acts by their names."""
    folder = tmp_path_factory.mktemp("videos")
    for number, name in enumerate(["a", "b", "c", "hangs", "crashes", "exits", "prints", "slow", "large"]):
        write_clip(folder / f"{name}.avi", "mpeg4", 3 + number % 6)
    return folder


@pytest.fixture(scope="module")
def stderr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the workers of `pool` write what they have to say."""
    return tmp_path_factory.mktemp("stderr") / "stderr"


@pytest.fixture(scope="module")
def pool(stderr: Path) -> Iterator[DecodePool]:
    """One stubborn worker, room for six videos: it may have MAX_AHEAD_PER_WORKER, 3, ahead."""
    own = os.dup(2)
    with stderr.open("w") as file:
        os.dup2(file.fileno(), 2)
    with DecodePool(SPEC, 8, 1, worker_command=STUBBORN, max_ahead_bytes=6 * VIDEO_BYTES) as pool:
        os.dup2(own, 2)
        os.close(own)
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
    names = ["a", "hangs", "b", "crashes", "exits", "c"]
    with DecodePool(SPEC, 8, 2, timeout_s=2.0, worker_command=STUBBORN) as pool:
        found = list(pool.prepare(folder / f"{name}.avi" for name in names))
    for index in (0, 2, 5):
        assert_same(found[index], folder, names[index])
    assert [found[index].error for index in (1, 3, 4)] == [
        f"{folder}/hangs.avi: the decoder gave no answer in 2 s",
        f"{folder}/crashes.avi: the decoder died (SIGSEGV)",
        f"{folder}/exits.avi: the decoder died (exit status 3)",
    ]
    assert all(found[index].pixels is None for index in (1, 3, 4))


def most_at_once(times: Path) -> int:
    spans = [tuple(map(float, line.split())) for line in times.read_text().splitlines()]
    return max(sum(began <= moment < ended for began, ended in spans) for moment, _ in spans)


@pytest.mark.parametrize(
    ("room_bytes", "at_once"),
    [
        pytest.param(1, 1, id="one-that-needs-more-is-alone"),
        pytest.param(2 * LARGE_BYTES, 2, id="two-fit"),
    ],
)
def test_videos_wait_for_memory(folder: Path, room_bytes: int, at_once: int) -> None:
    """Waiting does not count as a video's time: six of half a second, one after the other, each limited to 2 s."""
    (folder / "large.times").unlink(missing_ok=True)
    with DecodePool(SPEC, 8, 3, timeout_s=2.0, max_decoding_bytes=room_bytes, worker_command=STUBBORN) as pool:
        list(pool.prepare([folder / "a.avi"] * 3))  # until they have started
        for found in pool.prepare([folder / "large.avi"] * 6):
            assert_same(found, folder, "large")
    assert most_at_once(folder / "large.times") == at_once


@pytest.mark.parametrize(
    ("limit", "processes", "room"),
    [
        pytest.param(None, None, lambda host: host // 2, id="host"),
        pytest.param("max", "4", lambda host: host // 8, id="four-processes"),
        pytest.param("1000000", "4", lambda host: 125_000, id="four-processes-in-a-container"),
        pytest.param(str(1 << 60), None, lambda host: host // 2, id="limit-above-the-host"),
    ],
)
def test_room_is_a_part_of_the_hosts_memory(tmp_path, monkeypatch, limit, processes, room) -> None:
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit + "\n")
    monkeypatch.setattr("videobench.video.pool.CGROUP_LIMIT", tmp_path / "memory.max")
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if processes is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    host_kb = int(Path("/proc/meminfo").read_text().split("MemTotal:")[1].split()[0])
    assert decoding_room_bytes() == room(host_kb * 1024)


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
    broken = PixelSpec(crop_height=32, crop_width=32, resample="none", mean=(), std=(), shortest_edge=32)
    (found,) = DecodePool(broken, 8, 0).prepare([folder / "a.avi"])
    assert found.error is not None
    assert found.error.startswith(f"{folder}/a.avi: ValueError: ")
    assert "Traceback" in capsys.readouterr().err


def test_pixels_are_the_callers_own(folder: Path, pool: DecodePool) -> None:
    first, second = pool.prepare([folder / "a.avi"] * 2)
    first.pixels.zero_()
    assert_same(second, folder, "a")


def test_what_a_library_prints_does_not_mix_with_results(folder: Path, pool: DecodePool, stderr: Path) -> None:
    assert_same(next(pool.prepare([folder / "prints.avi"])), folder, "prints")
    assert stderr.read_text() == "a library that prints\n"


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
    # Where the host runs out of memory, the kernel ends it and not the run.
    assert Path(f"/proc/{worker._process.pid}/oom_score_adj").read_text() == "1000\n"


POOL_USER = """  # without `if __name__ == "__main__"`: workers must not import the script that starts them
import sys
from pathlib import Path
from tests.support.stubborn_worker import SPEC, STUBBORN
from videobench.video.pool import DecodePool
with DecodePool(SPEC, 8, 1, worker_command=STUBBORN) as pool:
    for number, prepared in enumerate(pool.prepare([Path(sys.argv[1]) / f"{name}.avi" for name in sys.argv[2:]])):
        [worker] = pool._workers
        print(number, prepared.error, worker._process.pid, flush=True)
"""


@pytest.fixture
def pool_user(tmp_path: Path, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A script of its own that holds a pool, in a folder with a module that must not stand in for another."""
    if sys.version_info >= (3, 11):  # older versions of Python cannot leave the working directory out
        (tmp_path / "numpy.py").write_text("raise SystemExit('imported from the working directory')")
    script = folder / "pool_user.py"
    script.write_text(POOL_USER)
    with subprocess.Popen(
        [sys.executable, str(script), str(folder), "a", "b", "hangs"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.kill()


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_hanging_worker_ends_with_a_parent_that_is_killed(pool_user: subprocess.Popen[str]) -> None:
    lines = [pool_user.stdout.readline().split() for _ in range(2)]
    assert [line[:2] for line in lines] == [["0", "None"], ["1", "None"]]
    pid = int(lines[0][2])
    assert is_alive(pid)
    pool_user.kill()
    for _ in range(600):
        if not is_alive(pid) and pool_user.poll() is not None:
            break
        time.sleep(0.1)
    assert pool_user.poll() is not None
    assert not is_alive(pid)
