"""How processes are started and stopped: child processes; SIGTERM, SIGHUP and Ctrl-C.

A run that is stopped ends within seconds, its journals whole, and says how to go on. The signal raises Stopped in the
main thread, which cleans up on its way out. If that thread is stuck in a library (a collective that waits for a lost
card), another thread ends the process.
"""

import ctypes
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

GRACE_S = 5.0  # for the main thread; torchrun itself kills after 30 s
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_callbacks: list[Callable[[], object]] = []  # before an end that the main thread does not notice


def start_child(
    command: Sequence[str], *, env: dict[str, str] | None = None, **options: Any
) -> subprocess.Popen[bytes]:
    """Starts a process that finds this package, whatever the current folder is. It has this process's variables, less
    the one through which the launchers read their job's status, and those of `env`."""
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {name: value for name, value in os.environ.items() if name != "VIDEOBENCH_STATUS_FILE"}
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    environment |= {"PYTHONSAFEPATH": "1"}  # a module in the working directory must not replace one of the suite
    return subprocess.Popen(command, env=environment | (env or {}), **options)


class Stopped(KeyboardInterrupt):
    """This process was asked to end. A KeyboardInterrupt, since libraries let that through."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status = 128 + number  # the exit status, as of a shell


def end_with_torchrun() -> None:
    """A torchrun that is killed does not end its processes: the kernel then sends this one SIGTERM."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def at_forced_end(callback: Callable[[], object]) -> None:
    """Calls `callback` if a signal must end the process without the main thread."""
    _callbacks.append(callback)


@contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Signals that were ignored, as by nohup, stay so."""
    former = {number: signal.getsignal(number) for number in SIGNALS}
    receiving, sending = os.pipe()
    os.set_blocking(sending, False)
    former_descriptor = signal.set_wakeup_fd(sending, warn_on_full_buffer=False)
    is_out = threading.Event()  # the main thread
    watcher = threading.Thread(target=_watch, args=(receiving, is_out), name="signals", daemon=True)
    watcher.start()
    for number, handler in former.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _raise_once)
    try:
        yield
    finally:
        for number, old in former.items():
            signal.signal(number, old)
        signal.set_wakeup_fd(former_descriptor)
        is_out.set()
        os.close(sending)  # which ends the thread
        watcher.join(GRACE_S)  # on a busy machine it may not have read the signal yet when Python shuts down
        _callbacks.clear()


def _raise_once(number: int, _: Any) -> None:
    """Once: torchrun passes on a Ctrl-C that the terminal has already sent to every process, and the second must not
    disturb the way out."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise Stopped(number)


def _watch(descriptor: int, is_out: threading.Event) -> None:
    """Reads the numbers of the signals as they come, whatever the main thread is doing."""
    with os.fdopen(descriptor, "rb", buffering=0) as numbers:
        while received := numbers.read(1):
            if received[0] not in SIGNALS:
                continue
            if is_out.wait(GRACE_S):
                return
            for callback in _callbacks:
                callback()
            print_how_to_go_on(received[0])
            os._exit(128 + received[0])


def print_how_to_go_on(number: int) -> None:
    """One line for the whole job. The launchers, which know the whole command, print it themselves (launch.sh)."""
    if "VIDEOBENCH_STATUS_FILE" in os.environ or os.environ.get("RANK", "0") != "0":
        return
    name = signal.Signals(number).name
    argv, script = sys.argv, Path(sys.argv[0]).name
    without_output = ("--check_device", "--check_model", "--dry_run", "--export_requests", "--verify")
    kept = "what was answered is kept; to go on"
    if script == "precision_test.py" or any(each.startswith(without_output) for each in argv):
        kept = "nothing is kept; to start again"
    elif script == "extract_dataset.py":
        kept = "the videos that are in their places are kept; to go on"
    else:  # --overwrite would set aside what was answered
        argv = [each for each in argv if each != "--overwrite"]
    command = shlex.join(["python", *argv])
    if "TORCHELASTIC_RUN_ID" in os.environ:  # which may be restarting all processes since another one has died
        command = f"torchrun with the same arguments, {shlex.join(argv)}, unless it restarts them by itself"
    with suppress(OSError):  # the terminal may be gone
        print(f"stopped by {name}; {kept}: {command}", file=sys.stderr, flush=True)
