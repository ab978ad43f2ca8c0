"""A decode worker whose decoder acts by the name of the video; everything else is the real worker."""

import os
import signal
import sys
import time
from pathlib import Path

from videobench.video.pixels import PixelSpec
from videobench.video.pool import PreparedVideo, prepare_video, serve

STUBBORN = (sys.executable, __file__)  # the command that starts this worker
SPEC = PixelSpec(32, 32, 32, "bicubic", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def prepare(video: Path, spec: PixelSpec, num_frames: int) -> PreparedVideo:
    if video.stem == "hangs":
        while True:
            time.sleep(1)
    if video.stem == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    if video.stem == "exits":
        os._exit(3)
    if video.stem == "full":
        os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does if the memory is full
    if video.stem == "prints":
        print("a library that prints", flush=True)
    if video.stem == "slow":
        time.sleep(0.3)
    return prepare_video(video, spec, num_frames)


if __name__ == "__main__":
    serve(prepare)
