"""How a script starts and ends: flags, and the exit status of whatever happens."""

import argparse
import fcntl
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from videobench.console import fill_standard_descriptors, lasting_output, one_line
from videobench.errors import DeviceLost, InputError, OtherProcessFailed, ProcessLost
from videobench.jobs.job import stop_others
from videobench.jobs.signals import Stopped, print_how_to_go_on, stopping_on_signals

UNFORESEEN = 70  # the exit status after a traceback; Python's own would be 1, which says that some questions failed


class FlagParser(argparse.ArgumentParser):
    """Reports a wrong flag as an InputError: one line, which the launchers print once for all processes. Abbreviated
    flags are rejected: the launchers match full names."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)
        self.register("type", Path, _path)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; {self.prog} --help lists the flags")


def _path(text: str) -> Path:
    """Refuses an empty text, as from a shell variable that is not set: it would mean the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)


def run_script(main: Callable[[], int]) -> int:
    """The exit status of `main`; an InputError becomes one line on stderr and 2, anything else keeps its traceback and
    becomes UNFORESEEN.

    Where torchrun may restart processes each ends with 0, since torchrun takes any other status for a crash; under the
    launchers (launch.sh) the job's status goes into the file that they name."""
    fill_standard_descriptors()
    try:
        with lasting_output(), stopping_on_signals():
            return _run(main)
    except Stopped as stopped:
        print_how_to_go_on(stopped.status - 128)
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
        stop_others()
        if isinstance(error, ProcessLost) and "TORCHELASTIC_RUN_ID" in os.environ:
            # torchrun itself would wait five minutes more for the machine that is gone.
            os.kill(os.getppid(), signal.SIGTERM)
    except OtherProcessFailed:
        status = 2
    if status_file is not None and os.environ.get("LOCAL_RANK", "0") == "0":
        _write_first(Path(status_file), status)
    may_restart = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"
    return 0 if status_file is not None or may_restart else status


def _main_allowed(main: Callable[[], int]) -> int:
    """Any path may be one that this user has no permission for."""
    try:
        return main()
    except PermissionError as error:
        if error.filename is None:
            raise
        name = os.fsdecode(error.filename)
        raise InputError(f"{name}: cannot be used ({error.strerror}); check the permissions") from None


def _will_restart() -> bool:
    """Whether torchrun restarts this process when it dies."""
    count, most = (int(os.environ.get(f"TORCHELASTIC_{name}", "0")) for name in ("RESTART_COUNT", "MAX_RESTARTS"))
    return count < most


@contextmanager
def traceback_to(path: Path) -> Iterator[None]:
    """Keeps the traceback of an unforeseen error in a file, too: with many processes it may be hard to find on stderr,
    and nobody may be reading that."""
    try:
        yield
    except (InputError, OtherProcessFailed):
        raise
    except Exception:
        with suppress(OSError), path.open("a") as file:
            traceback.print_exc(file=file)
            print(f"{path}: the traceback of the process that failed here", file=sys.stderr)
        raise


def _write_first(path: Path, status: int) -> bool:
    """Writes "<restart> <status>" into the launchers' file; False where another process of this start has done so.

    The status of an earlier start is overwritten in place, which even a full disk allows."""
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
        pass  # nobody will read it, so this process prints its line itself
    return True
