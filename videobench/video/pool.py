"""Decode ahead of the device in worker processes, which can hang or die without ending the run.

They are not forked, since the parent may have a device and threads open. They are started by a command line, since
multiprocessing would import the main script again.
"""

import faulthandler
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch

from videobench.errors import InputError, VideoError
from videobench.jobs.processes import start_child
from videobench.video.frames import sample_frames
from videobench.video.identity import Stamp, sha256_of_video, stamp_of
from videobench.video.pixels import PixelSpec, resize_and_crop


@dataclass(frozen=True)
class PreparedVideo:
    """The pixels of one video, or the reason why there are none."""

    video: Path
    pixels: torch.Tensor | None  # uint8 (num_frames, 3, crop_height, crop_width); None if error is set
    pixels_sha256: str  # of those bytes, in C order
    video_sha256: str  # of the video's own bytes
    stamp: Stamp | None  # of the video when it was read
    frames_decoded: int  # how many frames the video really has
    frames_stated: int  # how many its container states; 0 if it states none
    resolution: str  # width and height of the frames as decoded, before any resize: "320x240"
    error: str | None  # the reason, which names the file

    @property
    def row_fields(self) -> dict[str, Any]:
        """The fields that a row stores about its video."""
        names = ("video_sha256", "pixels_sha256", "frames_decoded", "frames_stated", "resolution")
        return {name: getattr(self, name) for name in names}


def failed_video(video: Path, reason: str) -> PreparedVideo:
    """Describe a video that failed, without pixels; `reason` is put on one line."""
    return PreparedVideo(video, None, "", "", None, 0, 0, "", " ".join(reason.split()))


def prepare_video(video: Path, spec: PixelSpec, num_frames: int) -> PreparedVideo:
    """Decode, resize and crop; a fault of the video or its decoder becomes the `error` of the result."""

    def shrink(frame: np.ndarray) -> np.ndarray:
        return resize_and_crop(frame[np.newaxis], spec)[0].numpy()

    stamp = stamp_of(video)
    try:
        frames = sample_frames(video, num_frames, shrink)
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
    """Send a JSON header, then the bytes of the pixels if there are any."""
    pixels = prepared.pixels
    header = {name: value for name, value in vars(prepared).items() if name not in ("video", "pixels")}
    header["shape"] = None if pixels is None else list(pixels.shape)
    connection.send_bytes(json.dumps(header).encode())
    if pixels is not None:
        connection.send_bytes(pixels.numpy().reshape(-1).data)


def receive_prepared(connection: Connection, video: Path) -> PreparedVideo:
    """Receive what `send_prepared` sent. EOFError or OSError if the sender is gone."""
    fields = json.loads(connection.recv_bytes())
    shape, stamp = fields.pop("shape"), fields.pop("stamp")
    pixels = None
    if shape is not None:
        pixels = torch.empty(shape, dtype=torch.uint8)
        connection.recv_bytes_into(pixels.numpy().reshape(-1).data)
    return PreparedVideo(video, pixels, stamp=tuple(stamp) if stamp else None, **fields)


NICENESS = 5  # lower priority than the parent: a card is idle while the parent waits for a core


def serve(prepare: Callable[[Path, PixelSpec, int], PreparedVideo] = prepare_video) -> None:
    """Main function of a worker process, whose argument is the file descriptor of its connection.

    The worker receives the settings and says that it is ready. Then it receives one path after another, and answers
    with the prepared video. It ends when its standard input closes, since the parent is gone then. `prepare` is
    replaced in tests."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is meant for the parent, which ends its workers
    faulthandler.enable()  # shows where a decoder crashes
    with suppress(OSError):  # not on Linux, or not permitted
        Path("/proc/self/oom_score_adj").write_text("1000")  # if the host runs out of memory, it ends this process
    os.nice(NICENESS)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    connection = Connection(int(sys.argv[1]))
    try:
        spec, num_frames = connection.recv()
        connection.send_bytes(b"ready")
        while True:
            video = Path(os.fsdecode(connection.recv_bytes()))
            send_prepared(connection, prepare(video, spec, num_frames))
    except (EOFError, ConnectionError):
        return  # the parent has closed it


def _die_with_parent() -> None:
    """End the process as soon as the parent is gone for any reason, even from within a decoder that never returns."""
    os.read(0, 1)
    os._exit(1)


WORKER_COMMAND = (sys.executable, "-m", "videobench.video.pool")
START_TIMEOUT_S = 300.0  # importing torch from a cold network disk can take minutes
END_TIMEOUT_S = 5.0  # from the connection's end until the process ends
VIDEO_TIMEOUT_S = 1800.0  # decoding an hour of 1080p on one slow core takes about 900
MAX_AHEAD_BYTES = 256 * 2**20  # 99 videos of 8 frames at 336 x 336
# Other processes cannot take over claimed videos: near the end of a job they would have to wait for them.
MAX_AHEAD_PER_WORKER = 3


class _Worker:
    """A decoding process and its connection. If it dies or hangs, that costs its video, and it is started again."""

    def __init__(self, command: Sequence[str], spec: PixelSpec, num_frames: int):
        self._command, self._spec, self._num_frames = command, spec, num_frames
        self._start()

    def _start(self) -> None:
        """Start the process without waiting until it is ready; `prepare` waits."""
        self._is_ready = False
        self._connection, theirs = Pipe()
        with theirs:
            self._process = start_child(
                [*self._command, str(theirs.fileno())],
                env={"OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,  # nothing is written to it; the worker ends when it closes
                stdout=2,  # results go through the connection; what a library prints must not mix with those of the run
                stderr=2,  # explicit, since a stream opened in place of a closed one is not inherited
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C goes to the parent alone
            )

    def prepare(self, video: Path, timeout_s: float) -> PreparedVideo:
        """Prepare a video in the process. Raises InputError if the process did not start."""
        if not self._is_ready:
            self._finish_start()
        try:
            self._connection.send_bytes(os.fsencode(video))
            if self._connection.poll(timeout_s):
                return receive_prepared(self._connection, video)
            reason = f"gave no answer in {timeout_s:g} s"
        except (EOFError, OSError):
            reason = f"died ({self._how_it_ended()})"
        self.kill()
        self.close()
        self._start()
        return failed_video(video, f"{video}: the decoder {reason}")

    def _finish_start(self) -> None:
        try:
            self._connection.send((self._spec, self._num_frames))
            if not self._connection.poll(START_TIMEOUT_S):
                raise InputError(f"a decoding process did not start in {START_TIMEOUT_S:g} s; use fewer --num_workers")
            self._connection.recv_bytes()
        except (EOFError, OSError):
            how = self._how_it_ended()
            raise InputError(
                f"a decoding process did not start ({how}, its messages are above); use fewer --num_workers"
            ) from None
        self._is_ready = True

    def _how_it_ended(self) -> str:
        try:
            status = self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return "it closed its connection"
        if status == -signal.SIGKILL:
            return "SIGKILL: was the memory full? use fewer --num_workers"
        return signal.Signals(-status).name if status < 0 else f"exit status {status}"

    def kill(self) -> None:
        """Kill the process; whoever waits for its answer gets EOFError."""
        self._process.kill()

    def close(self) -> None:
        """Free the resources of a killed worker; no thread may still be waiting for its answer."""
        with suppress(subprocess.TimeoutExpired):  # reading from a lost disk, it may not end for hours
            self._process.wait(END_TIMEOUT_S)
        self._connection.close()
        if self._process.stdin:
            self._process.stdin.close()


class DecodePool:
    """Decodes, resizes and crops videos in worker processes, in order and ahead of their use.

    With `num_workers` 0 this happens in the calling process, without protection. At most `max_ahead_bytes` of pixels
    (but at least one video) are in preparation or ready. A video that takes longer than `timeout_s` fails."""

    def __init__(
        self,
        spec: PixelSpec,
        num_frames: int,
        num_workers: int,
        timeout_s: float = VIDEO_TIMEOUT_S,
        max_ahead_bytes: int = MAX_AHEAD_BYTES,
        worker_command: Sequence[str] = WORKER_COMMAND,
    ):
        self._spec, self._num_frames, self._timeout_s = spec, num_frames, timeout_s
        self._fitting = max(1, max_ahead_bytes // (num_frames * 3 * spec.crop_height * spec.crop_width))
        self._num_workers = num_workers = min(num_workers, self._fitting)  # more could never be busy
        self._max_ahead = max(1, min(self._fitting, MAX_AHEAD_PER_WORKER * num_workers))
        self._workers = [_Worker(worker_command, spec, num_frames) for _ in range(num_workers)]
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        # One thread per worker waits for its answer, so that workers continue while the caller computes.
        self._waiters = ThreadPoolExecutor(max(1, num_workers), thread_name_prefix="decode")

    def __enter__(self) -> "DecodePool":
        return self

    def __exit__(self, *_: object) -> None:
        self._waiters.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.kill()  # ends the waiting
        self._waiters.shutdown()
        for worker in self._workers:
            worker.kill()  # if it was started meanwhile
            worker.close()

    def look_ahead(self, num_videos: int) -> None:
        """Keep `num_videos` ready from now on while others are in preparation, within `max_ahead_bytes`."""
        self._max_ahead = min(self._fitting, max(self._max_ahead, num_videos + self._num_workers))

    def prepare(self, videos: Iterable[Path], limit: Callable[[], int] | None = None) -> Iterator[PreparedVideo]:
        """Yield the prepared `videos` in order. They are taken from the iterable as needed, the first ones immediately;
        at most `limit()` are prepared ahead."""
        if self._num_workers == 0:
            return (prepare_video(video, self._spec, self._num_frames) for video in videos)
        source = iter(videos)
        ahead: deque[Future[PreparedVideo]] = deque()

        def begin() -> None:
            while len(ahead) < min(self._max_ahead, limit() if limit else self._max_ahead):
                if (video := next(source, None)) is None:
                    return
                ahead.append(self._waiters.submit(self._prepare_in_worker, video))

        def in_order() -> Iterator[PreparedVideo]:
            try:
                while ahead:
                    yield ahead.popleft().result()
                    begin()
            finally:
                for future in ahead:
                    future.cancel()

        begin()
        return in_order()

    def _prepare_in_worker(self, video: Path) -> PreparedVideo:
        worker = self._idle.get()
        try:
            return worker.prepare(video, self._timeout_s)
        finally:
            self._idle.put(worker)  # even if it did not start: the next video tries again, and fails the same way


if __name__ == "__main__":
    serve()
