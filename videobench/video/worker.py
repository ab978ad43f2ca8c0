"""A worker process of the decode pool, which starts it: `python -m videobench.video.worker <file descriptor>`.

The connection at that descriptor brings the settings once, then the path of one video after another. "ready" goes back
first, then for each video how much memory it needs and, once the parent has granted it, the prepared video. The worker
ends when its standard input closes: the parent is gone.
"""

import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from videobench.video.frames import Reserve
from videobench.video.prepared import PreparedVideo, decode_settings, prepare_video, send_prepared
from videobench.video.spec import PixelSpec

READY = b"ready"
NEEDS = b"needs "  # and the bytes of memory that decoding may take; the parent's answer, any message, grants them
NICENESS = 5  # below the parent, whose thread gives a card its work: while that waits for a core, the card does nothing


def serve(prepare: Callable[[Path, PixelSpec, int, Reserve], PreparedVideo] = prepare_video) -> None:
    """Answer requests until the parent closes the connection. `prepare` is replaced in tests."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is meant for the parent, which ends its workers
    faulthandler.enable()  # shows where a decoder crashes
    with suppress(OSError):  # not on Linux, or not permitted
        Path("/proc/self/oom_score_adj").write_text("1000")  # if the host runs out of memory, it ends this process
    os.nice(NICENESS)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    connection = Connection(int(sys.argv[1]))
    try:
        spec, num_frames = decode_settings(connection.recv_bytes())
        connection.send_bytes(READY)
        reserve = partial(_reserve, connection)
        while True:
            video = Path(os.fsdecode(connection.recv_bytes()))
            send_prepared(connection, prepare(video, spec, num_frames, reserve))
    except (EOFError, ConnectionError):
        return  # the parent has closed it


def _reserve(connection: Connection, num_bytes: int) -> None:
    """Ask the parent for memory and wait until it is granted."""
    try:
        connection.send_bytes(NEEDS + str(num_bytes).encode())
        connection.recv_bytes()
    except (EOFError, ConnectionError):
        sys.exit()  # the parent has closed it


def _die_with_parent() -> None:
    """End the process as soon as the parent is gone for any reason, even from within a decoder that never returns."""
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    serve()
