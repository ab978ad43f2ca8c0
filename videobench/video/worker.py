"""A worker process of the decode pool, which starts it: `python -m videobench.video.worker <file descriptor>`.

Through the connection at that descriptor come the settings once and then the path of one video after another; back go
"ready" and each prepared video. The end of standard input says that the parent is gone.
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
# After the parent's time for a video a worker that even its threads cannot end, ends itself.
GRACE_S = 60.0


def serve(prepare: Callable[[Path, PixelSpec, int, Reserve], PreparedVideo] = prepare_video) -> None:
    """Answer requests until the parent closes the connection; a test passes another `prepare`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    faulthandler.enable()  # a decoder that crashes says where
    with suppress(OSError):  # elsewhere than on Linux, or where it may not
        Path("/proc/self/oom_score_adj").write_text("1000")  # if the host's memory ends, this one goes, not the run
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    connection = Connection(int(sys.argv[1]))
    try:
        spec, num_frames, timeout_s = decode_settings(connection.recv_bytes())
        connection.send_bytes(READY)
        reserve = partial(_reserve, connection, timeout_s)
        while True:
            video = Path(os.fsdecode(connection.recv_bytes()))
            faulthandler.dump_traceback_later(timeout_s + GRACE_S, exit=True)
            prepared = prepare(video, spec, num_frames, reserve)
            faulthandler.cancel_dump_traceback_later()
            send_prepared(connection, prepared)
    except (EOFError, ConnectionError):
        return  # the parent has closed it


def _reserve(connection: Connection, timeout_s: float, num_bytes: int) -> None:
    """Asks the parent for memory and waits until it may be taken; the video's time begins only then."""
    faulthandler.cancel_dump_traceback_later()
    try:
        connection.send_bytes(NEEDS + str(num_bytes).encode())
        connection.recv_bytes()
    except (EOFError, ConnectionError):
        sys.exit()  # the parent has closed it
    faulthandler.dump_traceback_later(timeout_s + GRACE_S, exit=True)


def _die_with_parent() -> None:
    """Ends the process, also out of a decoder that never returns, as soon as the parent is gone in whatever way."""
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    serve()
