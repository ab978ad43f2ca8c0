"""How much memory decoding one video takes: no more than was reserved, each in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.clip_writer import write_clip
from tests.support.paths import ROOT

MB = 2**20
SLACK_BYTES = 32 * MB  # for what Python and the allocator keep
PREPARE = """
import sys
from pathlib import Path
from videobench.video.pool import prepare_video
from videobench.video.spec import PixelSpec
def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
spec = PixelSpec(336, 336, "bicubic", mean=(0.5,) * 3, std=(0.5,) * 3, shortest_edge=336)
reserved = []
before = peak()
video = prepare_video(Path(sys.argv[1]), spec, int(sys.argv[2]), reserved.append)
assert video.error is None, video.error
print(peak() - before, *reserved)
"""
REFERENCES = {"preset": "ultrafast", "x264-params": "ref=16:keyint=99:bframes=3"}


def prepare(video: Path, num_frames: int) -> tuple[int, int]:
    """(the peak of its memory, what it reserved), in bytes."""
    done = subprocess.run(
        [sys.executable, "-c", PREPARE, str(video), str(num_frames)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    taken, reserved = map(int, done.stdout.split())
    return taken, reserved


@pytest.mark.slow
def test_one_frame_at_a_time_is_there_in_full(tmp_path: Path) -> None:
    """Of 32 frames of 1080p all in RGB would take 190 MB beside those that the decoder gave."""
    clip = write_clip(tmp_path / "clip.mp4", "mpeg4", 40, (1920, 1080), gop=12)
    taken, reserved = prepare(clip, 32)
    assert reserved == 1920 * 1080 * (49 * 12 // 8 + 6)
    assert taken < reserved + SLACK_BYTES


@pytest.mark.slow
@pytest.mark.parametrize(
    ("codec", "pix_fmt", "options"),
    [
        pytest.param("libx264", "yuv420p", REFERENCES, id="h264"),
        pytest.param("libx264", "yuv444p10le", REFERENCES, id="h264-10-bit"),
        pytest.param("ffv1", "gbrp16le", {}, id="ffv1-16-bit"),
        pytest.param("libvpx-vp9", "yuv420p", {"deadline": "realtime", "cpu-used": "8"}, id="vp9"),
    ],
)
def test_large_frames_take_no_more_than_reserved(
    tmp_path: Path, codec: str, pix_fmt: str, options: dict[str, str]
) -> None:
    clip = write_clip(tmp_path / "clip.mkv", codec, 24, (4096, 2160), pix_fmt=pix_fmt, options=options)
    taken, reserved = prepare(clip, 8)
    assert taken < reserved + SLACK_BYTES
