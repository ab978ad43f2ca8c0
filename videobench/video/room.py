"""How much of the host's memory the videos that are decoded at once may take."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Condition

# Videos are decoded at once as long as what they may take together (container.decoding_bytes) stays below this part of
# the host's memory, divided among the processes of the job on this host; others wait. A video that needs more than that
# is decoded alone. 1080p takes 0.1 GB, the largest frames 1.4 GB, in the widest formats 7 GB.
DECODING_PART = 0.5
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container: its bytes or "max"


class Room:
    """Bytes of memory that the videos in decoding share. One that needs more than all of it takes all of it."""

    def __init__(self, num_bytes: int):
        self._all = self._free = num_bytes
        self._changed = Condition()

    @contextmanager
    def taken(self, num_bytes: int) -> Iterator[None]:
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
    """What the decoding of one process of a job may take: see DECODING_PART."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):
        memory = min(memory, int(CGROUP_LIMIT.read_text()))
    return int(DECODING_PART * memory) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
