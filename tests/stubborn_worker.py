"""A decode worker whose decoder does what the name of the video says; everything else is the real worker."""

import os
import signal
import sys
import time
from pathlib import Path

if "--broken" in sys.argv:
    sys.exit(7)

from videobench.decoding.prepared_video import PreparedVideo, prepare_video
from videobench.decoding.worker import serve
from videobench.pixels import PixelSpec


def prepare(video: Path, spec: PixelSpec, num_frames: int) -> PreparedVideo:
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
    return prepare_video(video, spec, num_frames)


if __name__ == "__main__":
    serve(prepare)
