"""Start and end a script: parse flags, and turn every result or error into an exit status."""

import argparse
import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from videobench.commands import Command, fold, this_command
from videobench.console import one_line
from videobench.errors import DeviceLost, InputError, OtherProcessFailed, ProcessLost
from videobench.jobs.job import stop_others
from videobench.jobs.processes import (
    STATUS_FILE,
    Stopped,
    end_with_torchrun,
    print_how_to_go_on,
    stopping_on_signals,
)

INSTALL = "pip install -r requirements.txt, on an NPU -r requirements-npu.txt"
WRONG_INPUT = 2
UNFORESEEN = 70  # after a traceback; Python's default 1 would mean that some questions failed
NEAR = 0.75  # similarity (difflib) for suggesting a flag instead of a misspelt one
UNREAD = 128 + signal.SIGPIPE  # the reader of the output has gone, as after `| head`


class FlagParser(argparse.ArgumentParser):
    """Raises InputError for a wrong flag: one line, which the launchers print once for all processes. Rejects
    abbreviated flags, because the launchers match full names."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)
        self.register("type", Path, _path)

    def error(self, message: str) -> NoReturn:
        flags = (each.partition("=")[0] for each in message.split() if each.startswith("--"))
        near = [each for flag in flags for each in get_close_matches(flag, self._option_string_actions, 1, NEAR)]
        if "unrecognized" in message and near:
            message += f"; did you mean {' '.join(near)}?"
        raise InputError(f"{message}; {self.prog} --help lists the flags")

    def print_help(self, file: Any = None) -> None:
        super().print_help(file)
        print(end="", flush=True)  # raises here if the disk is full: argparse ignores that

    def command(self, argv: Sequence[str] | None) -> Command:
        """Return the given command with absolute paths, including defaults, so it works from any folder."""
        given = list(sys.argv[1:] if argv is None else argv)
        names = {word.partition("=")[0] for word in given}
        words = self._absolute(given)
        for action in self._actions:
            rivals = [group._group_actions for group in self._mutually_exclusive_groups]
            alike = [action, *(each for group in rivals if action in group for each in group)]
            is_given = any(names & {*each.option_strings} for each in alike)
            if action.type is Path and isinstance(action.default, Path) and not is_given:
                words += [action.option_strings[0], os.path.abspath(action.default)]
        return this_command(self.prog, words, self._absolute)

    def _absolute(self, words: Sequence[str]) -> list[str]:
        absolute: list[str] = []
        flags = {name for name, action in self._option_string_actions.items() if action.type is Path}
        for before, word in zip(["", *words], words, strict=False):
            flag, equals, path = word.partition("=")
            if before in flags:
                word = os.path.abspath(word)
            elif equals and flag in flags:
                word = f"{flag}={os.path.abspath(path)}"
            absolute.append(word)
        return absolute


def _path(text: str) -> Path:
    """Parse a path. Rejects an empty one, as from an unset shell variable: it would mean the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)


def run_script(main: Callable[[], int]) -> int:
    """Run `main` and return the exit status. An error that users can fix becomes one line on stderr and status 2; any
    other error keeps its traceback and becomes UNFORESEEN."""
    most_restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))  # of dead processes, by torchrun
    try:
        with stopping_on_signals():
            end_with_torchrun()
            for stream in (sys.stdout, sys.stderr):
                if hasattr(stream, "reconfigure"):
                    stream.reconfigure(errors="backslashreplace")  # for names that the terminal cannot show
            status = main()
            print(end="", flush=True)  # raises here if the disk is full or the reader has gone
    except Stopped as stopped:
        print_how_to_go_on(stopped.status - 128)
        return stopped.status
    except KeyboardInterrupt:  # before the handlers were installed
        print_how_to_go_on(signal.SIGINT)
        return 128 + signal.SIGINT
    except OtherProcessFailed:
        status = WRONG_INPUT
    except BaseException as error:  # a panic in the Rust code of tokenizers is not an Exception
        if isinstance(error, SystemExit) and error.code in (None, 0):
            return 0  # --help
        if (fault := _fault(error)) is None:
            with suppress(OSError):
                traceback.print_exc()
            return UNFORESEEN
        restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
        if isinstance(error, DeviceLost) and restarts < most_restarts:
            _tell(f"error: {one_line(fault)}; torchrun starts all processes again")
            return 1
        status = UNREAD if isinstance(error, BrokenPipeError) else WRONG_INPUT
        if _keep_status(status):
            _tell(f"error: {one_line(fault)}")
            for command in getattr(error, "commands", ()):
                _tell(fold(command))
        stop_others()
        if isinstance(error, ProcessLost) and "TORCHELASTIC_RUN_ID" in os.environ:
            # torchrun itself would wait another five minutes for the lost machine.
            os.kill(os.getppid(), signal.SIGTERM)
    finally:
        _let_unwritten_go()
    if os.environ.get("LOCAL_RANK", "0") == "0":
        _keep_status(status)
    # torchrun treats any status except 0 as a crash, and may restart all processes.
    return 0 if STATUS_FILE in os.environ or most_restarts else status


def _fault(error: BaseException) -> str | None:
    """Describe an error that the user can fix: file, what was found, fix. None for a bug in the suite."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, ImportError) and (error.name or "").partition(".")[0] != "videobench":
        return f"a package is missing or cannot be imported ({error}); {INSTALL}"
    if isinstance(error, OSError) and error.filename is not None:
        return (
            f"{error.filename}: cannot be used ({error.strerror}); check the path, its permissions and the free space"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"output: cannot be written ({error.strerror}); free space or write it elsewhere"
    if isinstance(error, BrokenPipeError):
        return "output: nobody reads it any more; a run keeps what it answered"
    return None


def _tell(line: str) -> None:
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def _let_unwritten_go() -> None:
    """Flush the streams or discard their output: a failure when Python flushes them at exit would change the status."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream:  # None if it was closed before the start
                stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _keep_status(status: int) -> bool:
    """Write the job's status for the launchers; False if another process of this start already has.

    The status of an earlier start is overwritten in place, which works even on a full disk."""
    path = os.environ.get(STATUS_FILE)
    if path is None:
        return True
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        os.close(os.open(f"{path}.{restart}", os.O_CREAT | os.O_EXCL))
        with open(path, "r+") as file:
            file.write(f"{status}\n")
            file.truncate()
    except FileExistsError:
        return False
    except OSError:
        pass  # the launcher cannot read it, so this process prints its line itself
    return True
