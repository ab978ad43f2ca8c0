"""Worker processes that decode ahead of the device, and that can hang or die without ending the run.

They are separate processes, not forks, since the parent may hold a device and threads. Each is started by its command
line and not by multiprocessing, which would import the main script again.
"""

import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import Pipe
from pathlib import Path
from queue import SimpleQueue

from videobench.errors import InputError
from videobench.video.prepared import PreparedVideo, encode_settings, failed_video, prepare_video, receive_prepared
from videobench.video.room import Room, decoding_room_bytes
from videobench.video.spec import PixelSpec
from videobench.video.worker import NEEDS, READY

WORKER_COMMAND = (sys.executable, "-m", "videobench.video.worker")
START_TIMEOUT_S = 300.0  # importing torch from a cold network disk takes minutes, not more
END_TIMEOUT_S = 5.0  # from the end of the connection to that of the process
VIDEO_TIMEOUT_S = 1800.0  # more than container.MAX_DECODE_S, the processor time of one pass over a video
MAX_AHEAD_BYTES = 256 * 2**20  # 99 videos of 8 frames at 336 x 336
# Other processes cannot take what one has claimed: near the end of a job they would wait for it.
MAX_AHEAD_PER_WORKER = 3

Limit = Callable[[], int]
Ahead = deque[Future[PreparedVideo]]


class _WorkerLost(Exception):
    """The process died or did not answer in time."""


def _worker_environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[2])
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
        "PYTHONSAFEPATH": "1",  # a module in the working directory must not replace one of the suite
        "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",  # torch_npu would occupy the device
        "OMP_NUM_THREADS": "1",
    }


class _Worker:
    """One process and the connection to it. The constructor does not wait for its start; the first answer does."""

    def __init__(self, command: Sequence[str], settings: bytes):
        self._connection, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno())],
                stdin=subprocess.PIPE,  # nothing is written to it; the worker ends when it closes
                stdout=2,  # results go through the connection; what a library prints must not mix with those of the run
                stderr=2,  # explicit, since one that was opened in place of a closed stream is not inherited
                pass_fds=[theirs.fileno()],
                env=_worker_environment(),
                start_new_session=True,  # Ctrl-C goes to the parent alone
            )
        self._settings: bytes | None = settings

    def prepare(self, video: Path, timeout_s: float, room: Room) -> PreparedVideo:
        """Raises _WorkerLost, or InputError where the process did not start."""
        self._finish_start()
        try:
            self._connection.send_bytes(os.fsencode(video))
            message = self._receive(timeout_s)
            if not message.startswith(NEEDS):
                return receive_prepared(self._connection, message, video)
            with room.taken(int(message.removeprefix(NEEDS))):
                self._connection.send_bytes(b"")
                return receive_prepared(self._connection, self._receive(timeout_s), video)
        except (EOFError, OSError) as error:
            raise _WorkerLost(f"the decoder died ({self._how_it_ended()})") from error

    def _receive(self, timeout_s: float) -> bytes:
        if not self._connection.poll(timeout_s):
            raise _WorkerLost(f"the decoder gave no answer in {timeout_s:g} s")
        return self._connection.recv_bytes()

    def _finish_start(self) -> None:
        if self._settings is None:
            return
        try:
            self._connection.send_bytes(self._settings)
            if not self._connection.poll(START_TIMEOUT_S):
                raise InputError(f"a decoding process did not start in {START_TIMEOUT_S:g} s; use fewer --num_workers")
            if self._connection.recv_bytes() != READY:
                raise RuntimeError("a decoding process does not follow the protocol of worker.py")
        except (EOFError, OSError):
            how = self._how_it_ended()
            raise InputError(
                f"a decoding process did not start ({how}, its messages are above); use fewer --num_workers"
            ) from None
        self._settings = None

    def _how_it_ended(self) -> str:
        try:
            status = self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return "it closed its connection"
        return signal.Signals(-status).name if status < 0 else f"exit status {status}"

    def kill(self) -> None:
        """End the process, and the waiting for it: while it reads from a lost disk it may not end for hours."""
        self._process.kill()
        with suppress(OSError), socket.socket(fileno=os.dup(self._connection.fileno())) as connection:
            connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Free the resources of a killed worker; no thread may still be waiting for its answer."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_TIMEOUT_S)
        self._connection.close()
        if self._process.stdin:
            self._process.stdin.close()


class DecodePool:
    """Decodes, resizes and crops videos in worker processes, in order and ahead of their use.

    With `num_workers` 0 it does so in this process, without protection. At most `max_ahead_bytes` of pixels (but at
    least one video) are in preparation or ready. A video that takes longer than `timeout_s` fails. Decoding takes at
    most `max_decoding_bytes` of memory in all workers together, by default `decoding_room_bytes()`."""

    def __init__(
        self,
        spec: PixelSpec,
        num_frames: int,
        num_workers: int,
        timeout_s: float = VIDEO_TIMEOUT_S,
        max_ahead_bytes: int = MAX_AHEAD_BYTES,
        max_decoding_bytes: int | None = None,
        worker_command: Sequence[str] = WORKER_COMMAND,
    ):
        self._spec, self._num_frames, self._timeout_s = spec, num_frames, timeout_s
        self._fitting = max(1, max_ahead_bytes // (num_frames * 3 * spec.crop_height * spec.crop_width))
        self._num_workers = num_workers = min(num_workers, self._fitting)  # more could never be busy
        self._max_ahead = max(1, min(self._fitting, MAX_AHEAD_PER_WORKER * num_workers))
        self._room = Room(decoding_room_bytes() if max_decoding_bytes is None else max_decoding_bytes)
        self._command = worker_command
        self._workers: set[_Worker] = set()
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        # One thread for each worker waits for its answer, so that workers continue while the caller computes.
        self._waiters = ThreadPoolExecutor(max(1, num_workers), thread_name_prefix="decode")
        for _ in range(num_workers):
            self._idle.put(self._start_worker())

    def __enter__(self) -> "DecodePool":
        return self

    def __exit__(self, *_: object) -> None:
        self._waiters.shutdown(wait=False, cancel_futures=True)
        for worker in list(self._workers):
            worker.kill()  # ends the waiting
        self._waiters.shutdown()
        for worker in self._workers:
            worker.kill()  # if it was started meanwhile
            worker.close()
        self._workers.clear()

    def look_ahead(self, num_videos: int) -> None:
        """From now on have `num_videos` ready while others are in preparation, as far as `max_ahead_bytes` allows."""
        wanted = num_videos + self._num_workers
        self._max_ahead = min(self._fitting, max(self._max_ahead, wanted))

    def prepare(self, videos: Iterable[Path], limit: Limit | None = None) -> Iterator[PreparedVideo]:
        """Each of `videos` in order. They are taken from the iterable as needed, the first at once; at most `limit()`
        are ahead of their use."""
        if self._num_workers == 0:
            return (prepare_video(video, self._spec, self._num_frames) for video in videos)
        source: Iterator[Path] = iter(videos)
        ahead: Ahead = deque()
        self._begin(source, ahead, limit)
        return self._in_order(source, ahead, limit)

    def _begin(self, videos: Iterator[Path], ahead: Ahead, limit: Limit | None) -> None:
        while len(ahead) < min(self._max_ahead, limit() if limit else self._max_ahead):
            if (video := next(videos, None)) is None:
                return
            ahead.append(self._waiters.submit(self._prepare_in_worker, video))

    def _in_order(self, videos: Iterator[Path], ahead: Ahead, limit: Limit | None) -> Iterator[PreparedVideo]:
        try:
            while ahead:
                yield ahead.popleft().result()
                self._begin(videos, ahead, limit)
        finally:
            for future in ahead:
                future.cancel()

    def _start_worker(self) -> _Worker:
        worker = _Worker(self._command, encode_settings(self._spec, self._num_frames))
        self._workers.add(worker)
        return worker

    def _prepare_in_worker(self, video: Path) -> PreparedVideo:
        worker = self._idle.get()
        try:
            return worker.prepare(video, self._timeout_s, self._room)
        except _WorkerLost as lost:
            worker.kill()
            worker.close()
            self._workers.discard(worker)
            worker = self._start_worker()
            return failed_video(video, f"{video}: {lost}")
        finally:
            self._idle.put(worker)  # even if it did not start: the next video tries again and fails in the same way
