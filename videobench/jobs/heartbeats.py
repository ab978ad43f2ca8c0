"""Signs of life of a job's processes, so that none waits for ever for one whose machine, or whose torchrun, is gone.

torchrun restarts the processes of its own machine when one of them dies. Only then does it notice that another machine
has vanished: until then its processes would wait.
"""

import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from videobench.errors import ProcessLost

BEAT_S = 5.0
SILENCE_S = 60.0  # a process that swaps, or waits for a disk, still beats: a thread does


class Heartbeats:
    """Sends those of this process, counted in the store of torch.distributed, and listens to those of others."""

    def __init__(self, store: Any, process: int) -> None:
        self._store = store
        self._heard: dict[int, tuple[int, float]] = {}  # process -> its count, and when that last changed
        self._next_check = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, args=(process,), name="heartbeats", daemon=True)
        self._thread.start()

    def check(self, processes: Iterable[int]) -> None:
        """Raises ProcessLost where one of them has been silent for SILENCE_S, if this is called now and then."""
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + BEAT_S
        for process in processes:
            count = int(self._store.add(_key(process), 0))
            heard, since = self._heard.get(process, (-1, now))
            if count != heard:
                self._heard[process] = count, now
            elif now - since > SILENCE_S:
                raise ProcessLost(
                    f"process {process} of this job has been silent for {SILENCE_S:g} s: its machine or its torchrun "
                    "is gone; start the same command again on all machines: what was answered is kept"
                )

    def close(self) -> None:
        """Before Python ends: a thread inside torch's library would crash it. A thread that waits for a lost machine is
        left behind."""
        self._ended.set()
        self._thread.join(BEAT_S)

    def _beat(self, process: int) -> None:
        with suppress(RuntimeError):  # the store is gone, as the main thread will find out by itself
            while not self._ended.is_set():
                self._store.add(_key(process), 1)
                self._ended.wait(BEAT_S)


def _key(process: int) -> str:
    return f"alive/{process}"
