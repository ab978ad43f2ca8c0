"""Start child processes, and handle SIGTERM, SIGHUP and Ctrl-C.

A stopped run ends within seconds, with complete journals, and prints how to go on. The signal raises Stopped in the
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
STATUS_FILE = "VIDEOBENCH_STATUS_FILE"  # variable that the launchers set (launch.sh)

_callbacks: list[Callable[[], object]] = []  # called before the process is ended without the main thread
_commands: list[str] = []  # to go on with; none before anything is stored


def start_child(
    command: Sequence[str], *, env: dict[str, str] | None = None, **options: Any
) -> subprocess.Popen[bytes]:
    """Start a process that can import this package from any current folder. It inherits the environment, except for the
    launchers' status file, plus `env`."""
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {name: value for name, value in os.environ.items() if name != STATUS_FILE}
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    environment |= {"PYTHONSAFEPATH": "1"}  # a module in the working directory must not replace one of the suite
    return subprocess.Popen(command, env=environment | (env or {}), **options)


class Stopped(KeyboardInterrupt):
    """A signal asked this process to end. It is a KeyboardInterrupt because libraries do not catch that."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status = 128 + number  # exit status, as in a shell


def end_with_torchrun() -> None:
    """Ask the kernel for a SIGTERM when torchrun is killed, since it then does not end its processes."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def at_forced_end(callback: Callable[[], object]) -> None:
    """Register a `callback` for when a signal has to end the process without the main thread."""
    _callbacks.append(callback)


@contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Raise Stopped on SIGTERM, SIGHUP and Ctrl-C; signals that were ignored, as with nohup, stay ignored."""
    _commands.clear()
    former = {number: signal.getsignal(number) for number in SIGNALS}
    receiving, sending = os.pipe()
    os.set_blocking(sending, False)
    former_descriptor = signal.set_wakeup_fd(sending, warn_on_full_buffer=False)
    is_out = threading.Event()  # set when the main thread has left
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
    """Raise Stopped, and ignore further signals: torchrun repeats a Ctrl-C that the terminal has already sent to every
    process, and the second one must not disturb the cleanup."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise Stopped(number)


def _watch(descriptor: int, is_out: threading.Event) -> None:
    """Read signal numbers as they arrive, even while the main thread is busy."""
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


def keep_command_to_go_on(command: str) -> None:
    """Print this command if the process is stopped: from now on it would go on from what is stored.

    The launchers read it from a file beside the status (launch.sh)."""
    _commands[:] = [command]
    if path := os.environ.get(STATUS_FILE):
        Path(f"{path}.command").write_text(command + "\n", encoding="utf-8", errors="surrogateescape")


def print_how_to_go_on(number: int) -> None:
    """Print one line for the whole job. The launchers print their own (launch.sh)."""
    if STATUS_FILE in os.environ or os.environ.get("RANK", "0") != "0":
        return
    with suppress(OSError):  # the terminal may be gone
        how, command = "to start again", f"{shlex.join(['cd', os.getcwd()])} && {shlex.join(sys.orig_argv)}"
        if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun may be restarting all processes because one died
            how, command = "to start again unless torchrun does", "the same torchrun command"
        if _commands:
            how, command = how.replace("to start again", "what was answered is kept; to go on"), _commands[0]
        print(f"stopped by {signal.Signals(number).name}; {how}: {command}", file=sys.stderr, flush=True)
