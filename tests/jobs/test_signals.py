"""A signal ends a process within seconds, even if its main thread is stuck, and the command to go on is printed."""

import os
import shlex
import signal
import subprocess
import sys
import time

import pytest

from tests.support.jobs import state_of
from tests.support.paths import ROOT
from videobench.jobs import processes

WORKER = """
import ctypes, signal, sys, time
from videobench.jobs import processes as stopping
from videobench.cli import run_script

for number in stopping.SIGNALS:
    signal.signal(number, signal.SIG_DFL)
if "ignored" in sys.argv:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
stopping.GRACE_S = 0.5

def main():
    stopping.at_forced_end(lambda: print("told", flush=True))
    try:
        print("ready", flush=True)
        if "library" in sys.argv:
            mutex = ctypes.create_string_buffer(64)
            for _ in range(2):  # the second never returns, and no signal interrupts it
                ctypes.CDLL(None).pthread_mutex_lock(mutex)
        time.sleep(60)
    finally:
        print("cleaned", flush=True)
    return 0

sys.exit(run_script(main))
"""


def start(*arguments, **environment):
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    asleep = 0
    while asleep < 5:  # it has reached the call that does not return
        asleep = asleep + 1 if state_of(process.pid) == "S" else 0
        time.sleep(0.02)
    return process


def stop(number, *arguments, **environment):
    process = start(*arguments, **environment)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_main_thread_cleans_up_and_the_command_to_start_again_is_told(number):
    status, out, err = stop(number, "a b", "--overwrite")
    assert status == 128 + number
    assert out == "cleaned\n"
    again = shlex.join([sys.executable, "-c", WORKER, "a b", "--overwrite"])
    assert err == f"stopped by {number.name}; to start again: cd {shlex.quote(str(ROOT))} && {again}\n"


@pytest.mark.parametrize(
    ("stored", "is_under_torchrun", "told"),
    [
        pytest.param([], True, "to start again unless torchrun does: the same torchrun command", id="torchrun"),
        pytest.param(["run x"], False, "what was answered is kept; to go on: run x", id="answered"),
        pytest.param(["run x"], True, "what was answered is kept; to go on unless torchrun does: run x", id="both"),
    ],
)
def test_once_answers_are_stored_the_command_goes_on_from_them(stored, is_under_torchrun, told, monkeypatch, capsys):
    if is_under_torchrun:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    with processes.stopping_on_signals():
        for command in stored:
            processes.keep_command_to_go_on(command)
        processes.print_how_to_go_on(signal.SIGTERM)
    assert capsys.readouterr().err == f"stopped by SIGTERM; {told}\n"


def test_a_library_that_does_not_come_back_is_not_waited_for():
    status, out, err = stop(signal.SIGTERM, "library")
    assert (status, out) == (128 + signal.SIGTERM, "told\n")
    assert err.startswith("stopped by SIGTERM; ")


def test_what_nohup_ignores_stays_ignored():
    """The first signal that counts says with which status it ends."""
    process = start("ignored")
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({"VIDEOBENCH_STATUS_FILE": "x"}, id="the-launcher-tells-it"),
        pytest.param({"RANK": "1"}, id="the-first-process-tells-it"),
    ],
)
def test_a_job_tells_the_command_to_go_on_once(environment):
    assert stop(signal.SIGTERM, **environment)[2] == ""
