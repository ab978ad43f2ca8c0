"""How a script starts and ends: flags, and the exit status of whatever happens."""

import argparse
import atexit
import ctypes
import errno
import fcntl
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from videobench.console import fill_standard_descriptors, lasting_output, one_line
from videobench.errors import DeviceLost, InputError, OtherProcessFailed, ProcessLost
from videobench.jobs.job import stop_others
from videobench.jobs.signals import Stopped, end_with_torchrun, print_how_to_go_on, stopping_on_signals

INSTALL = "pip install -r requirements.txt, on an NPU -r requirements-npu.txt"
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


def start(main: Callable[[], int]) -> NoReturn:
    """Runs a script's main function and ends the process with its status, whatever a library does.

    A library in C may call exit(1), as OpenBLAS does where it gets no memory, and 1 is a status of ours: any end but
    this one becomes UNFORESEEN. Python's own end calls exit(), too, so that what it does is done here. A debugger or a
    coverage tool that has started the script keeps the process."""
    if sys._getframe(2).f_back is not None:  # behind this function, videobench.start, and the script
        sys.exit(run_script(main))
    libc = ctypes.CDLL(None)
    libc.__cxa_atexit(libc._exit, ctypes.c_void_p(UNFORESEEN), None)
    status = run_script(main)
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def run_script(main: Callable[[], int]) -> int:
    """The exit status of `main`; an InputError becomes one line on stderr and 2, anything else keeps its traceback and
    becomes UNFORESEEN.

    Where torchrun may restart processes each ends with 0, since torchrun takes any other status for a crash; under the
    launchers (launch.sh) the job's status goes into the file that they name."""
    try:
        with _environment_faults():
            fill_standard_descriptors()
            with lasting_output(), stopping_on_signals():
                end_with_torchrun()
                return _run(main)
    except InputError as error:  # of the lines just above
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print_how_to_go_on(stopped.status - 128)
        return stopped.status
    except KeyboardInterrupt:  # before the handlers were there
        print_how_to_go_on(signal.SIGINT)
        return 128 + signal.SIGINT
    except SystemExit as ended:
        if ended.code in (None, 0):  # --help
            return 0
        print(f"error: {one_line(str(ended.code))}", file=sys.stderr)
        return UNFORESEEN
    except BaseException:  # a panic of the tokenizers' Rust code is no Exception
        traceback.print_exc()
        return UNFORESEEN


def _run(main: Callable[[], int]) -> int:
    status_file = os.environ.get("VIDEOBENCH_STATUS_FILE")
    try:
        with _environment_faults():
            status = main()
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


@contextmanager
def _environment_faults() -> Iterator[None]:
    """What this user or machine lacks, wherever it shows, becomes an InputError."""
    try:
        yield
    except InputError as error:
        limit = _limit_behind(error)
        if limit is None or type(error) is not InputError:
            raise
        raise InputError(limit) from None
    except ImportError as error:
        name = (error.name or "").partition(".")[0]
        if name == "videobench":
            raise
        if isinstance(error, ModuleNotFoundError):
            raise InputError(f"the package {name} is not installed; {INSTALL}") from None
        raise InputError(f"a package cannot be imported ({error}); check ulimit -v, or {INSTALL}") from None
    except MemoryError:
        raise InputError("the host has too little memory for this process; free some, or check ulimit -v") from None
    except OSError as error:
        if (limit := _limit_behind(error)) is not None:
            raise InputError(limit) from None
        if error.errno == errno.EAGAIN and error.filename is None:
            raise InputError(f"no process can be started ({error.strerror}); end others, or check ulimit -u") from None
        # Any path may be one that this user has no permission for.
        if not isinstance(error, PermissionError) or error.filename is None:
            raise
        name = os.fsdecode(error.filename)
        raise InputError(f"{name}: cannot be used ({error.strerror}); check the permissions") from None
    except RuntimeError as error:
        if "can't start new thread" not in str(error):
            raise
        raise InputError("no thread can be started; end other processes, or check ulimit -u") from None


def _limit_behind(error: BaseException) -> str | None:
    """What to say where a limit of this user is behind an error, which may blame the file in hand."""
    each: BaseException | None = error
    while each is not None:
        if isinstance(each, OSError) and each.errno in (errno.EMFILE, errno.ENFILE):
            return f"no more files can be opened ({each.strerror}); check ulimit -n"
        if isinstance(each, OSError) and each.errno == errno.EFBIG:
            return f"{str(error).rpartition('; ')[0] or error}; check ulimit -f"
        if isinstance(each, FileNotFoundError) and "temporary directory" in str(each):
            return f"no folder for temporary files ({each.strerror}); free space, set TMPDIR, or check ulimit -f"
        each = each.__cause__ or each.__context__
    return None


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
