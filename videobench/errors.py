"""The faults that the suite expects, and how a script turns them into an exit status."""

import argparse
import errno
import fcntl
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

MOST_SHOWN = 2000  # characters of a message: a file may hold a name of megabytes
READER_GONE = (errno.EPIPE, errno.EIO)  # `| head` has ended; the terminal has been closed
UNFORESEEN = 70  # the exit status after a traceback; Python's own would be 1, which says that some questions failed


class InputError(Exception):
    """A wrong file, flag or environment: one line that names it, what was found, and the mend. Exit status 2."""


class DeviceLost(InputError):
    """A device that answers nothing any more: a new process may find it well again."""


class ProcessLost(InputError):
    """Another process of this job that gives no sign of life any more. All end then: torchrun of today does not let a
    machine that comes anew into a job that has been running (torch 2.13, DynamicRendezvousHandler)."""


class VideoError(Exception):
    """A fault in one video, named with its file: its questions fail for this reason, the run goes on. Exit status 1."""


class OtherRankFailed(Exception):
    """Another process of this job has ended with an InputError, which it has printed."""


class FlagParser(argparse.ArgumentParser):
    """Reports a wrong flag as an InputError: one line, under the launchers printed once for all processes. A flag that
    is cut short is wrong: the launchers know them by their names."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)
        self.register("type", Path, _path)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; {self.prog} --help lists the flags")


def _path(text: str) -> Path:
    """An empty one, of a variable that is not set, would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)


def one_line(text: str) -> str:
    """For a terminal: without line ends, without characters that would steer it, cut in the middle where too long."""
    text = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in " ".join(text.split()))
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN // 2]} ... {text[-MOST_SHOWN // 2 :]}"


def tell_once(line: str) -> None:
    """On stderr, by the first process of a job alone: for what each of them finds."""
    if os.environ.get("RANK", "0") == "0":
        print(line, file=sys.stderr)


def run_script(main: Callable[[], int]) -> int:
    """The exit status of `main`; an InputError becomes one line on stderr and 2, all else keeps its traceback and
    becomes UNFORESEEN.

    Where torchrun may restart processes each ends with 0, since it would take failed questions for a crash; under the
    launchers (launch.sh) the job's status goes into the file that they name."""
    from videobench.stopping import Stopped, stopping_on_signals, tell_how_to_go_on

    _fill_standard_descriptors()
    try:
        with _lasting_output(), stopping_on_signals():
            return _run(main)
    except Stopped as stopped:
        tell_how_to_go_on(stopped.status - 128)
        return stopped.status
    except Exception:
        traceback.print_exc()
        return UNFORESEEN


def _run(main: Callable[[], int]) -> int:
    status_file = os.environ.get("VIDEOBENCH_STATUS_FILE")
    try:
        status = _main_allowed(main)
        print(end="", flush=True)  # here a full disk behind stdout still gets its line
    except InputError as error:
        if isinstance(error, DeviceLost) and _will_restart():
            print(f"error: {one_line(str(error))}; torchrun starts all processes again", file=sys.stderr)
            return 1
        status = 2
        if status_file is None or _write_first(Path(status_file), status):
            print(f"error: {one_line(str(error))}", file=sys.stderr)
        from videobench.ranks import stop_others

        stop_others()
        if isinstance(error, ProcessLost) and "TORCHELASTIC_RUN_ID" in os.environ:
            # torchrun itself would wait five minutes more for the machine that is gone.
            os.kill(os.getppid(), signal.SIGTERM)
    except OtherRankFailed:
        status = 2
    if status_file is not None and os.environ.get("LOCAL_RANK", "0") == "0":
        _write_first(Path(status_file), status)
    may_restart = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"
    return 0 if status_file is not None or may_restart else status


def _main_allowed(main: Callable[[], int]) -> int:
    """Any place can be one that this user may not enter."""
    try:
        return main()
    except PermissionError as error:
        if error.filename is None:
            raise
        name = os.fsdecode(error.filename)
        raise InputError(f"{name}: cannot be used ({error.strerror}); check the permissions") from None


def _fill_standard_descriptors() -> None:
    """Where one was closed before the start, the next file that is opened would become it: a journal, into which a
    library might print."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


@contextmanager
def _lasting_output() -> Iterator[None]:
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
    """Passes on to a text stream, and drops what comes after its reader has gone."""

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
        """The stream keeps what it could not write, and would fail with it again when Python ends."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


def _will_restart() -> bool:
    """Whether torchrun starts this process again when it dies."""
    count, most = (int(os.environ.get(f"TORCHELASTIC_{name}", "0")) for name in ("RESTART_COUNT", "MAX_RESTARTS"))
    return count < most


@contextmanager
def traceback_to(path: Path) -> Iterator[None]:
    """Keeps the traceback of an unforeseen error in a file, too: of many processes' it may be hard to find on stderr,
    and nobody may be reading that."""
    try:
        yield
    except (InputError, OtherRankFailed):
        raise
    except Exception:
        with suppress(OSError), path.open("a") as file:
            traceback.print_exc(file=file)
            print(f"{path}: the traceback of the process that failed here", file=sys.stderr)
        raise


def _write_first(path: Path, status: int) -> bool:
    """Into the file of the launchers, "<restart> <status>"; False where another process has written one before.

    That of an earlier start is written over, and in place, which a full disk allows."""
    restart = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        with open(descriptor, "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            written = file.read().split()
            if len(written) == 2 and int(written[0]) >= restart:
                return False
            file.seek(0)
            file.write(f"{restart} {status}\n")
            file.truncate()
    except OSError:
        pass  # nobody will read it: so this process tells
    return True
