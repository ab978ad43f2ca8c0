"""Time how fast eight frames of a video are read, and check that they are right: `python benchmarks/frames.py`.

Makes its videos (some minutes, once), then prints a table in Markdown, file by file: the processor seconds of decoding
everything on one thread and of this suite. Exit status 1 if a bar is missed.
"""

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.clip_writer import QUIET_X265, write_clip
from videobench.video.frames import sample_frames, spread

NUM_FRAMES = 8
LOWEST_RATIO = 0.95  # of any file
LOWEST_MEAN = 2.0  # geometric, over the table
X264 = {"preset": "veryfast"}
X265 = {"preset": "ultrafast", "x265-params": QUIET_X265}
VP9 = {"deadline": "realtime", "cpu-used": "8"}
AV1 = {"preset": "12", "svtav1-params": "lp=1"}


@dataclass(frozen=True)
class Case:
    """One video of the table."""

    title: str
    suffix: str
    codec: str
    num_frames: int
    size: tuple[int, int]  # (width, height)
    arguments: dict[str, Any]  # of write_clip
    bar: float = LOWEST_RATIO  # the ratio that it must reach

    def write(self, folder: Path) -> Path:
        video = folder / (self.title.replace(" ", "_").replace(",", "") + self.suffix)
        if not video.is_file():
            unfinished = video.with_name("unfinished" + self.suffix)
            write_clip(unfinished, self.codec, self.num_frames, self.size, **self.arguments)
            unfinished.rename(video)
        return video


HD, SD, SMALL = (1280, 720), (640, 360), (320, 240)
UNEVEN = [3 * index + index % 3 for index in range(1320)]
CASES = [
    Case("720p h264, GOP 250", ".mp4", "libx264", 1320, HD, {"options": X264, "gop": 250}, bar=2.5),
    Case("720p h264, GOP 48", ".mp4", "libx264", 1320, HD, {"options": X264, "gop": 48}, bar=2.5),
    Case("720p h264, GOP 250, long", ".mp4", "libx264", 3600, HD, {"options": X264, "gop": 250}, bar=2.5),
    Case(
        "720p h264, variable rate", ".mkv", "libx264", 1320, HD, {"options": X264, "gop": 120, "pts": UNEVEN}, bar=2.5
    ),
    Case("1080p h264, GOP 250", ".mp4", "libx264", 600, (1920, 1080), {"options": X264, "gop": 250}),
    Case("360p h264, all intra", ".mp4", "libx264", 1200, SD, {"options": X264, "gop": 1}, bar=6.0),
    Case("360p h264, no B-frames, GOP 250", ".mp4", "libx264", 1320, SD, {"options": X264, "gop": 250, "b_frames": 0}),
    Case("360p h264, no B-frames, one GOP", ".mp4", "libx264", 600, SD, {"options": X264, "gop": 9999, "b_frames": 0}),
    Case("360p h264, ts", ".ts", "libx264", 600, SD, {"options": X264, "gop": 48}),
    Case("240p h264, 10 s", ".mp4", "libx264", 250, SMALL, {"options": X264, "gop": 250}),
    Case("240p mpeg4, 10 s", ".avi", "mpeg4", 250, SMALL, {"gop": 12}),
    Case("360p vp9", ".webm", "libvpx-vp9", 600, SD, {"options": VP9, "gop": 128}),
    Case("360p av1", ".mp4", "libsvtav1", 600, SD, {"options": AV1, "gop": 128}),
    Case("360p hevc", ".mp4", "libx265", 600, SD, {"options": X265, "gop": 120}),
    Case("180p gif", ".gif", "gif", 80, (320, 180), {"pix_fmt": "rgb8"}),
    Case("240p wmv", ".wmv", "wmv2", 600, SMALL, {"gop": 12}),
]


def count_frames(video: Path) -> int:
    with av.open(str(video)) as container:
        return sum(1 for _ in container.decode(video=0))


def decode_everything(video: Path, total: int) -> np.ndarray:
    """uint8 RGB (NUM_FRAMES, height, width, 3) of a video of `total` frames: only those wanted are turned into RGB."""
    wanted = set(spread(total, NUM_FRAMES))
    found = {}
    with av.open(str(video)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for index, frame in enumerate(container.decode(video=0)):
            if index in wanted:
                found[index] = frame.to_ndarray(format="rgb24", threads=1)
    return np.stack([found[index] for index in spread(total, NUM_FRAMES)])


def processor_s(run: Callable[[], object], repeats: int) -> float:
    """The least of several measurements, since other work on the machine disturbs it least; counts all threads."""
    best = math.inf
    for _ in range(repeats):
        started = time.process_time()
        run()
        best = min(best, time.process_time() - started)
    return best


def row(case: Case, video: Path, repeats: int) -> tuple[list[str], float]:
    """The cells of one line of the table, and the ratio."""
    total = count_frames(video)
    everything_s = processor_s(lambda: decode_everything(video, total), repeats)
    suite_s = processor_s(lambda: sample_frames(video, NUM_FRAMES), repeats)
    ratio = everything_s / suite_s
    equal = np.array_equal(sample_frames(video, NUM_FRAMES).pixels, decode_everything(video, total))
    cells = [case.title + case.suffix.replace(".", ", "), str(total), f"{everything_s:.3f}", f"{suite_s:.3f}"]
    cells += [f"{ratio:.2f}" + ("" if ratio >= case.bar else f" (bar {case.bar:g})"), "yes" if equal else "NO"]
    return cells, ratio if equal else math.nan


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(tempfile.gettempdir()) / "videobench-frames"
    parser.add_argument("--folder", type=Path, default=default, help="folder for the videos (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="of each measurement; the least counts (%(default)s)")
    parser.add_argument("--only", default="", help="only files with this in their title")
    return parser.parse_args(argv)


def print_row(cells: list[str]) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    args.folder.mkdir(parents=True, exist_ok=True)
    cases = [case for case in CASES if args.only in case.title]
    videos = [case.write(args.folder) for case in cases]
    head = ["file", "frames", "decode everything, s", "this suite, s", "ratio", "equal"]
    print_row(head)
    print_row(["---"] * len(head))
    ratios = []
    for case, video in zip(cases, videos, strict=True):
        cells, ratio = row(case, video, args.repeats)
        print_row(cells)
        ratios.append(ratio)
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    print(f"\ngeometric mean of the ratios: {mean:.2f} (bar {LOWEST_MEAN:g})")
    met = all(ratio >= case.bar for case, ratio in zip(cases, ratios, strict=True))
    return 0 if met and mean >= LOWEST_MEAN else 1


if __name__ == "__main__":
    raise SystemExit(main())
