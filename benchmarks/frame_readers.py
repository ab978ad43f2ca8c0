"""The plain way to read frames: decode everything on one thread."""

from pathlib import Path

import av
import numpy as np

from videobench.video.frames import spread

NUM_FRAMES = 8


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
