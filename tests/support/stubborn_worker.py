"""A decode worker whose decoder acts by the name of the video; everything else is the real worker."""

import os
import signal
import sys
import time
from pathlib import Path

from videobench.video.frames import Reserve
from videobench.video.pixels import PixelSpec
from videobench.video.pool import PreparedVideo, prepare_video, serve

STUBBORN = (sys.executable, __file__)  # the command that starts this worker
SPEC = PixelSpec(
    crop_height=32, crop_width=32, resample="bicubic", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), shortest_edge=32
)

LARGE_BYTES, LARGE_S = 1000, 0.5


def prepare(video: Path, spec: PixelSpec, num_frames: int, reserve: Reserve) -> PreparedVideo:
    if video.stem == "hangs":
        while True:
            time.sleep(1)
    if video.stem == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    if video.stem == "exits":
        os._exit(3)
    if video.stem == "prints":
        print("a library that prints", flush=True)
    if video.stem == "slow":
        time.sleep(0.3)
    if video.stem == "large":
        return prepare_large(video, spec, num_frames, reserve)
    return prepare_video(video, spec, num_frames, reserve)


def prepare_large(video: Path, spec: PixelSpec, num_frames: int, reserve: Reserve) -> PreparedVideo:
    """As if it needed LARGE_BYTES: notes when the parent grants them, and when they are free again."""
    reserve(LARGE_BYTES)
    began_s = time.monotonic()
    time.sleep(LARGE_S)
    prepared = prepare_video(video, spec, num_frames)
    with video.with_suffix(".times").open("a") as file:
        file.write(f"{began_s} {time.monotonic()}\n")
    return prepared


if __name__ == "__main__":
    serve(prepare)
