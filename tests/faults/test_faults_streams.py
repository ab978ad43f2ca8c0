"""Readers of stdout and stderr that leave, and a full disk behind them: the work goes on, the status stays."""

import json
import os
import subprocess
import sys

import pytest

from tests.support.fault_tools import Bench
from tests.support.forks import call_script, fork
from tests.support.paths import ROOT


@pytest.fixture
def bench(tmp_path, capsys, record_property):
    return Bench(tmp_path / "data", capsys, record_property).shorten(24)


@pytest.fixture
def without_reader():
    """A stream whose reader has gone, as behind `| head -1`; each line is written at once."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w", buffering=1) as stream:
        yield stream


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_reader_that_leaves_does_not_end_the_run(bench, monkeypatch, without_reader, name):
    (bench.folder / "videos" / next(iter(bench.rows().values()))["vid_path"]).unlink()
    monkeypatch.setattr(sys, name, without_reader)
    assert bench.answer().status == 1
    assert len(json.loads(bench.result.read_bytes())) == len(bench.rows())


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_stream_that_was_closed_before_the_start(bench, monkeypatch, name):
    """As by `2>&-`."""
    (bench.folder / "videos" / next(iter(bench.rows().values()))["vid_path"]).unlink()
    monkeypatch.setattr(sys, name, None)
    outcome = bench.answer()
    assert outcome.status == 1
    assert "failed: " not in outcome.out
    assert "answered " not in outcome.err
    assert len(json.loads(bench.result.read_bytes())) == len(bench.rows())


def answer_without_stderr(argv):
    os.close(2)
    sys.stderr = None
    return call_script("run_gpu", argv)


def test_stderr_that_was_closed_before_the_start_of_a_run_with_workers(bench):
    out = bench.folder / "out.txt"
    process = fork(answer_without_stderr, bench.run_flags("--limit", 2, "--num_workers", 1), err=out)
    process.join()
    assert (process.exitcode, out.read_text().count("\n")) == (0, 2)


OPENER = """
import os
from videobench.cli import run_script
print(run_script(lambda: os.open("journal", os.O_CREAT | os.O_WRONLY)), file=open("number", "w"))
"""


def test_no_file_takes_the_place_of_a_closed_stream(tmp_path):
    """What a library prints would be written into it."""
    command = ["bash", "-c", 'exec "$@" <&- >&- 2>&-', "-", sys.executable, "-c", OPENER]
    subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
    assert int((tmp_path / "number").read_text()) > 2


def test_a_reader_that_leaves_does_not_change_the_verdict(bench, monkeypatch, without_reader):
    bench.write_replies("npu.json")
    bench.write_replies("gpu.json")
    shown = bench.compare("--gate", "--output_json", bench.folder / "shown.json")
    assert shown.status == 3  # so few questions decide nothing
    monkeypatch.setattr(sys, "stdout", without_reader)
    assert bench.compare("--gate", "--output_json", bench.folder / "unread.json").status == 3
    assert (bench.folder / "unread.json").read_bytes() == (bench.folder / "shown.json").read_bytes()


def test_a_full_disk_behind_stdout_is_told(bench, monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        outcome = bench.answer("--limit", 2)
    assert outcome.status == 2
    assert outcome.err.splitlines()[-1].startswith("error: output: cannot be written (No space left on device); ")
    assert len(json.loads(bench.result.read_bytes())) == 2
