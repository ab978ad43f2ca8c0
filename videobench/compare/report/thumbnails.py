"""The frames that the model saw, small and in one JPEG, as a data URI for the report."""

import base64
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from videobench.data.dataset import VideoRoot
from videobench.errors import VideoError
from videobench.video.identity import sha256_of_video

COLUMNS = 4
CELL_WIDTH = 128  # pixels; 4 frames fill a phone's width
GAP, GAP_GREY = 4, 128  # pixels between frames, and their grey: visible on light and on dark
MOST_FRAMES = 64  # of one video: a result file may state any number, and each frame is decoded
JPEG_SCALE = 6  # quantiser of the encoder: 2 is best, 31 smallest


@dataclass(frozen=True)
class Picture:
    uri: str
    width: int  # pixels
    height: int


class FrameStrips:
    """Pictures of the videos in `video_root`, each made once; at most `budget_bytes` of data URIs in all."""

    def __init__(self, video_root: Path, budget_bytes: int):
        self._root = VideoRoot(video_root)
        self._left = budget_bytes
        self._made: dict[str, Picture] = {}
        self._hashes: dict[str, str] = {}  # vid_path -> SHA-256 of the video that was read
        self.failures: dict[str, str] = {}  # vid_path -> why there is no picture

    def picture(self, vid_path: str, num_frames: int, seen: Collection[str] = ()) -> Picture | None:
        """`num_frames` frames of the video as one JPEG; `seen` are the SHA-256 of the video that was answered about.

        None if there is no picture, for which `failures` has the reason, or if the budget does not reach."""
        if vid_path not in self._made and vid_path not in self.failures:
            try:
                self._made[vid_path] = self._build(vid_path, num_frames)
            except VideoError as error:
                self.failures[vid_path] = str(error)
        if vid_path in self._made and seen and self._hashes[vid_path] not in seen:
            self.failures[vid_path] = "another video lies there than the one that was answered about"
            return None
        picture = self._made.get(vid_path)
        if picture is None or len(picture.uri) > self._left:
            return None
        self._left -= len(picture.uri)
        return picture

    def _build(self, vid_path: str, num_frames: int) -> Picture:
        from av.error import FFmpegError

        from videobench.video.frames import sample_frames
        from videobench.video.pictures import encode_jpeg

        if not 1 <= num_frames <= MOST_FRAMES:
            raise VideoError(f"{vid_path}: {num_frames} frames, the report shows 1 to {MOST_FRAMES}")
        try:
            video = self._root.locate(vid_path)
        except ValueError as error:
            raise VideoError(str(error).split(";")[0]) from None
        if not video.exists():
            raise VideoError(f"{video}: missing")
        pixels = tile(sample_frames(video, num_frames).pixels)
        try:
            self._hashes[vid_path] = sha256_of_video(video)
        except OSError as error:
            raise VideoError(f"{video}: cannot be read ({error.strerror})") from None
        try:
            picture = encode_jpeg(pixels, JPEG_SCALE)
        except FFmpegError:  # many frames, very narrow: higher than a JPEG may be
            raise VideoError(f"{video}: its {num_frames} frames make no picture") from None
        uri = "data:image/jpeg;base64," + base64.b64encode(picture).decode()
        return Picture(uri, pixels.shape[1], pixels.shape[0])


def tile(frames: np.ndarray) -> np.ndarray:
    """uint8 RGB (frames, height, width, 3) -> one picture, COLUMNS frames a row, each CELL_WIDTH wide, sides even."""
    from av.video.frame import VideoFrame

    height = max(2, round(frames.shape[1] * CELL_WIDTH / frames.shape[2] / 2) * 2)
    rows = -(-len(frames) // COLUMNS)
    size = (rows * (height + GAP) - GAP, COLUMNS * (CELL_WIDTH + GAP) - GAP, 3)
    picture = np.full(size, GAP_GREY, np.uint8)
    for index, frame in enumerate(frames):
        cell = VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        cell = cell.reformat(width=CELL_WIDTH, height=height, interpolation="AREA")
        row, column = divmod(index, COLUMNS)
        top, left = row * (height + GAP), column * (CELL_WIDTH + GAP)
        picture[top : top + height, left : left + CELL_WIDTH] = cell.to_ndarray(format="rgb24")
    return picture
