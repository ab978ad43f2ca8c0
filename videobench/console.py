"""What a person sees of a script: messages of one line, sizes with units, streams that outlive their reader."""

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from videobench.errors import InputError

MOST_SHOWN = 2000  # characters of a message: a file may hold a name of megabytes
READER_GONE = (errno.EPIPE, errno.EIO)  # `| head` has ended; the terminal has been closed


def one_line(text: str) -> str:
    """For a terminal: without line ends, without characters that would steer it, cut in the middle where too long."""
    text = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in " ".join(text.split()))
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN // 2]} ... {text[-MOST_SHOWN // 2 :]}"


def warn_once(line: str) -> None:
    """On stderr, from process 0 of a job alone: for what every process finds."""
    if os.environ.get("RANK", "0") == "0":
        print(line, file=sys.stderr)


def fill_standard_descriptors() -> None:
    """Where one was closed before the start, the next file to be opened would take its place: a journal, say, into
    which a library might print."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


@contextmanager
def lasting_output() -> Iterator[None]:
    """A run goes on, and keeps its status, when nobody reads its output any more."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed before the start: print would take the other one, tqdm fail
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # for good, as a stream is
    streams = sys.stdout, sys.stderr
    for stream in streams:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is no fault
    sys.stdout, sys.stderr = (_LastingStream(stream) for stream in streams)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams


class _LastingStream:
    """Writes to a text stream, and drops what comes after its reader has gone."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except OSError as error:
            self._drop()
            if error.errno not in READER_GONE:
                reason = error.strerror
                raise InputError(f"output: cannot be written ({reason}); free space or write it elsewhere") from None

    def _drop(self) -> None:
        """The stream keeps what it could not write, and would fail on it again when Python ends."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


class EachMinute:
    """A line each minute, where stderr is no terminal but a log file: for what a bar shows elsewhere."""

    SECONDS = 60.0

    def __init__(self) -> None:
        self._said = time.monotonic()

    def say(self, line: str) -> None:
        if not sys.stderr.isatty() and time.monotonic() - self._said >= self.SECONDS:
            self._said = time.monotonic()
            print(line, file=sys.stderr, flush=True)


def in_bytes(count: float) -> str:
    """`0.61 GB`, `9.44 MB`."""
    unit, size = ("GB", 1e9) if count >= 1e8 else ("MB", 1e6)
    return f"{count / size:.2f} {unit}"


def in_time(seconds: float) -> str:
    """`2.3 h`, `5 min`, `12 s`."""
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
