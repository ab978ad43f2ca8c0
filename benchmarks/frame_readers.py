"""The readers that frames.py compares: each gives frames k * total // num_frames of a video on one thread."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np

from videobench.video.frames import sample_frames, spread

NUM_FRAMES = 8
# The mean distance of a frame by another library, of values up to 255, below which it is the same frame: they turn YUV
# into RGB by other formulas. Neighbouring frames of the benchmark's clips are further apart than this.
SAME_FRAME_DISTANCE = 6.0

Reader = Callable[[Path, int], np.ndarray]  # (video, total) -> uint8 RGB (NUM_FRAMES, height, width, 3)


def count_frames(video: Path) -> int:
    with av.open(str(video)) as container:
        return sum(1 for _ in container.decode(video=0))


def decode_everything(video: Path, total: int) -> np.ndarray:
    """The plain way, with the number of frames known beforehand: only the frames wanted are turned into RGB."""
    wanted = set(spread(total, NUM_FRAMES))
    found = {}
    with av.open(str(video)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for index, frame in enumerate(container.decode(video=0)):
            if index in wanted:
                found[index] = frame.to_ndarray(format="rgb24", threads=1)
    return np.stack([found[index] for index in spread(total, NUM_FRAMES)])


def this_suite(video: Path, total: int) -> np.ndarray:
    return sample_frames(video, NUM_FRAMES).pixels


def _decord(video: Path, total: int) -> np.ndarray:
    import decord

    reader = decord.VideoReader(str(video), num_threads=1)
    frames: np.ndarray = reader.get_batch(spread(len(reader), NUM_FRAMES)).asnumpy()
    return frames


def _torchcodec(mode: str) -> Reader:
    def read(video: Path, total: int) -> np.ndarray:
        from torchcodec.decoders import VideoDecoder

        decoder = VideoDecoder(str(video), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode=mode)
        frames: np.ndarray = decoder.get_frames_at(spread(len(decoder), NUM_FRAMES)).data.numpy()
        return frames

    return read


def _opencv(video: Path, total: int) -> np.ndarray:
    import cv2

    capture = cv2.VideoCapture(str(video), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    frames = []
    for index in spread(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), NUM_FRAMES):
        capture.set(cv2.CAP_PROP_POS_FRAMES, index)
        there, frame = capture.read()
        if not there:
            raise ValueError(f"no frame {index}")
        frames.append(frame[..., ::-1])
    return np.stack(frames)


def other_readers() -> dict[str, Reader]:
    """Those that are installed."""
    known: Sequence[tuple[str, str, Reader]] = [
        ("decord", "decord", _decord),
        ("torchcodec", "torchcodec exact", _torchcodec("exact")),
        ("torchcodec", "torchcodec approximate", _torchcodec("approximate")),
        ("cv2", "OpenCV", _opencv),
    ]
    return {name: reader for module, name, reader in known if importlib.util.find_spec(module)}


def is_same_frames(frames: np.ndarray, expected: np.ndarray) -> bool:
    """Whether another library gave the same frames, by its own way to RGB."""
    if frames.shape != expected.shape:
        return False
    distance = np.abs(frames.astype(np.int16) - expected).mean(axis=(1, 2, 3))
    return bool((distance < SAME_FRAME_DISTANCE).all())
