"""How much of the host's memory the videos that are being decoded may take together."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Condition

# Videos are decoded at the same time only while what they may take together (container.decoding_bytes) stays below this
# part of the host's memory, divided among the job's processes on this host; others wait. A video that needs more than
# all of it is decoded alone. 1080p needs 0.1 GB, the largest frames 1.4 GB, in the widest pixel formats 7 GB.
DECODING_PART = 0.5
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container: bytes, or "max"


class Room:
    """`num_bytes` of memory that users of several threads take and give back."""

    def __init__(self, num_bytes: int):
        self._all = self._free = num_bytes
        self._changed = Condition()

    @contextmanager
    def taken(self, num_bytes: int) -> Iterator[None]:
        """Waits until so much is free; whoever needs more than all of it gets all of it."""
        num_bytes = min(num_bytes, self._all)
        with self._changed:
            self._changed.wait_for(lambda: num_bytes <= self._free)
            self._free -= num_bytes
        try:
            yield
        finally:
            with self._changed:
                self._free += num_bytes
                self._changed.notify_all()


def decoding_room_bytes() -> int:
    """What the workers of one process of a job may take for decoding: see DECODING_PART."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):
        memory = min(memory, int(CGROUP_LIMIT.read_text()))
    return int(DECODING_PART * memory) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
