"""The faults that the suite expects, and how a script turns them into an exit status."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn


class InputError(Exception):
    """A wrong file, flag or environment: one line that names it, what was found, and the mend. Exit status 2."""


class VideoError(Exception):
    """A fault in one video, named with its file: its questions fail for this reason, the run goes on. Exit status 1."""


class OtherRankFailed(Exception):
    """Another process of this job has ended with an InputError, which it has printed."""


class FlagParser(argparse.ArgumentParser):
    """Reports a wrong flag as an InputError: one line, printed once however many processes were started."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; {self.prog} --help lists the flags")


def run_script(main: Callable[[], int]) -> int:
    """The exit status of `main`; an InputError becomes one line on stderr and 2, all else keeps its traceback.

    Under the launchers (launch.sh) the job's status goes into the file that they name, and each process ends with 0:
    torchrun would take the status of failed questions for a crash."""
    status_file = os.environ.get("VIDEOBENCH_STATUS_FILE")
    try:
        status = main()
    except InputError as error:
        status = 2
        if status_file is None or _write_first(Path(status_file), status):
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        if status_file is not None:
            from videobench.ranks import Ranks

            Ranks.from_environment().stop_others()
    except OtherRankFailed:
        status = 2
    except KeyboardInterrupt:
        print("interrupted: the same command goes on where it stopped", file=sys.stderr)
        return 130
    if status_file is None:
        return status
    if os.environ.get("RANK", "0") == "0":
        _write_first(Path(status_file), status)
    return 0


def _write_first(path: Path, status: int) -> bool:
    """False where another process of the job has written a status before."""
    try:
        with path.open("x") as file:
            file.write(str(status))
    except FileExistsError:
        return False
    return True
