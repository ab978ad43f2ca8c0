"""Frames -> real video files: H.264 in .mp4, MPEG-4 part 2 in .avi."""

from pathlib import Path

import av
import numpy as np

FRAME_RATE = 12
# By suffix: the encoder and its options.
ENCODERS = {
    ".mp4": ("libx264", {"crf": "23"}),
    ".avi": ("mpeg4", {"qscale": "6", "flags": "+qscale"}),
}


def encode(path: Path, frames: np.ndarray) -> None:
    """Writes uint8 RGB frames (count, height, width, 3); the suffix of `path` chooses the codec.

    One thread, no times and no version strings of the container: the same frames give the same bytes."""
    codec, options = ENCODERS[path.suffix]
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(codec, rate=FRAME_RATE, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
