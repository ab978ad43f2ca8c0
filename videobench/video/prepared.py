"""One video, ready for the device, and its transfer from a worker process."""

import hashlib
import json
import sys
import traceback
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from videobench.errors import VideoError
from videobench.video.frames import Reserve, sample_frames
from videobench.video.identity import Stamp, sha256_of_video, stamp_of
from videobench.video.pixels import resize_and_crop
from videobench.video.spec import PixelSpec


@dataclass(frozen=True)
class PreparedVideo:
    """The pixels of one video, or the reason why there are none."""

    video: Path
    pixels: torch.Tensor | None  # uint8 (num_frames, 3, crop_height, crop_width); None where error is set
    pixels_sha256: str  # of those bytes, in C order
    video_sha256: str  # of the video's own bytes
    stamp: Stamp | None  # of the video when it was read
    frames_decoded: int  # how many frames the video really has
    frames_stated: int  # how many its container states; 0 where it states none
    resolution: str  # width and height of the frames as decoded, before any resize: "320x240"
    error: str | None  # the reason, which names the file


def failed_video(video: Path, reason: str) -> PreparedVideo:
    """One without pixels; `reason` is put on one line."""
    return PreparedVideo(video, None, "", "", None, 0, 0, "", " ".join(reason.split()))


def prepare_video(video: Path, spec: PixelSpec, num_frames: int, reserve: Reserve | None = None) -> PreparedVideo:
    """Decode, resize and crop; does not raise: a fault of the video or its decoder becomes the `error` of the result.

    `reserve` is as in `sample_frames`."""

    def shrink(frame: np.ndarray) -> np.ndarray:
        return resize_and_crop(frame[np.newaxis], spec)[0].numpy()

    stamp = stamp_of(video)
    try:
        frames = sample_frames(video, num_frames, shrink, reserve)
        video_sha256 = sha256_of_video(video)
        if stamp_of(video) != stamp:
            raise VideoError(f"{video}: was changed while it was read; start again when it is whole")
    except VideoError as error:
        return failed_video(video, str(error))
    except Exception as error:  # unforeseen: the run goes on, and the traceback is kept for whoever fixes it
        traceback.print_exc(file=sys.stderr)
        return failed_video(video, f"{video}: {type(error).__name__}: {error}")
    pixels, resolution = torch.from_numpy(frames.pixels), f"{frames.width}x{frames.height}"
    digest = hashlib.sha256(frames.pixels.data).hexdigest()
    return PreparedVideo(video, pixels, digest, video_sha256, stamp, frames.decoded, frames.stated, resolution, None)


def send_prepared(connection: Connection, prepared: PreparedVideo) -> None:
    """A header in JSON, then the bytes of the pixels if there are any."""
    pixels = prepared.pixels
    header = {name: value for name, value in vars(prepared).items() if name not in ("video", "pixels")}
    header["shape"] = None if pixels is None else list(pixels.shape)
    connection.send_bytes(json.dumps(header).encode())
    if pixels is not None:
        connection.send_bytes(pixels.numpy().reshape(-1).data)


def receive_prepared(connection: Connection, header: bytes, video: Path) -> PreparedVideo:
    """What `send_prepared` sent for this video; `header` is its first message.

    Raises EOFError or OSError where the sender is gone."""
    fields = json.loads(header)
    shape, stamp = fields.pop("shape"), fields.pop("stamp")
    fields["stamp"] = None if stamp is None else tuple(stamp)
    if shape is None:
        return PreparedVideo(video=video, pixels=None, **fields)
    pixels = torch.empty(shape, dtype=torch.uint8)
    connection.recv_bytes_into(pixels.numpy().reshape(-1).data)
    return PreparedVideo(video=video, pixels=pixels, **fields)


def encode_settings(spec: PixelSpec, num_frames: int) -> bytes:
    return json.dumps([asdict(spec), num_frames]).encode()


def decode_settings(message: bytes) -> tuple[PixelSpec, int]:
    fields, num_frames = json.loads(message)
    values: dict[str, Any] = {name: tuple(each) if isinstance(each, list) else each for name, each in fields.items()}
    return PixelSpec(**values), num_frames
