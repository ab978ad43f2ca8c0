"""A host without memory for one video: its questions fail, the others are answered, and the next start goes on."""

import json
import os
import shutil
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest

from tests.support.clip_writer import write_clip
from tests.support.fault_tools import Bench
from tests.support.paths import ROOT

LIMIT_KB = 8_000_000  # of address space: libraries and the small model take 3 to 5 GB of it
NUM_FRAMES = 128
HUGE = (7680, 4320)  # of such frames, with colours in full size, 128 take 12.7 GB

pytestmark = pytest.mark.slow


@pytest.fixture
def bench(tmp_path, capsys, record_property):
    return Bench(tmp_path / "data", capsys, record_property).shorten(12)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_video_for_which_there_is_no_memory_costs_its_questions(bench, record_property, num_workers):
    rows = bench.rows()
    sound = bench.folder / "videos" / next(reversed(rows.values()))["vid_path"]
    kept = shutil.copy(sound, bench.folder / sound.name)
    own = [key for key, row in rows.items() if row["vid_path"].endswith(sound.name)]
    write_repeated(sound, bench.folder / "one.avi")
    flags = ("--num_frames", NUM_FRAMES, "--num_workers", num_workers)
    limited = ["bash", "-c", f'ulimit -v {LIMIT_KB}; exec "$@"', "bash"]
    started = subprocess.run(
        [*limited, sys.executable, "run_gpu.py", *bench.run_flags(*flags)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert started.returncode == 1, started.stderr
    found = json.loads(bench.result.read_bytes())
    assert [key for key, row in found.items() if "error" in row] == own
    assert all("MemoryError" in found[key]["error"] and sound.name in found[key]["error"] for key in own)
    shutil.copy(kept, sound)
    assert bench.answer(*flags).status == 0
    after = json.loads(bench.result.read_bytes())
    assert {key: row for key, row in after.items() if key not in own} == {
        key: row for key, row in found.items() if key not in own
    }
    record_property("gave", f"1: {found[own[0]]['error']}")


def write_repeated(path, one):
    """One picture, encoded once, in as many packets as frames are asked for: each decodes to a frame of its own."""
    write_clip(one, "mjpeg", 1, HUGE, pix_fmt="yuvj444p", draw=lambda _, width, height: grey(width, height * 3))
    with av.open(str(one)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        content = next(bytes(packet) for packet in source.demux(video=0) if packet.size)
        for number in range(NUM_FRAMES):
            packet = av.Packet(content)
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            packet.pts = packet.dts = number
            packet.is_keyframe = True
            target.mux(packet)


def grey(width, height):
    return np.full((height, width), 128, np.uint8)
