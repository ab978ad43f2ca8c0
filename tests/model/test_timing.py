"""What the end of a run reports of time, sharing and memory."""

import re
import shutil
from contextlib import closing
from pathlib import Path

import pytest
import torch

from videobench.console import StatusLine
from videobench.data.dataset import Question
from videobench.device.devices import Device
from videobench.jobs.job import Job
from videobench.model import cost as usage
from videobench.model.cost import Usage
from videobench.model.prompts import Prompt
from videobench.run.loop import Progress


@pytest.fixture
def clock(monkeypatch):
    """What time.monotonic says, in a list of its own."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_the_end_of_a_run_says_where_the_time_went(clock, monkeypatch):
    monkeypatch.setattr(usage, "peak_memory_bytes", lambda device: 54_300_000_000)
    measured = Usage()
    with measured.measure("prefix"):
        clock[0] += 7  # reading the weights, before the start
    measured.start()
    for part, seconds in (("frames", 1), ("prefix", 20), ("suffix", 5), ("prefix", 2), ("write", 0.5)):
        with measured.measure(part):
            clock[0] += seconds
    clock[0] += 1.5
    measured.count([[Prompt((1,) * 1157, (2,))] * 3, [Prompt((1,) * 1157, (2,))]])
    measured.prefix_tokens = 2 * 1157
    measured.stop()
    clock[0] += 60
    lines = list(measured.lines(Device("cuda", torch.device("cuda:0"), "a card")))
    assert lines[:3] == [
        "4 questions in 30.0 s (0.13/s)",
        "1.0 s waiting for frames, 22.0 s prefixes with the video, 5.0 s suffixes with the question, "
        "0.0 s decoding replies, 0.5 s waiting for the disk, 1.5 s other",
        "2,314 prefix tokens computed, 2,314 saved by sharing them among questions",
    ]
    assert re.fullmatch(r"peak memory: 54.30 GB for tensors on the device, [\d.]+ GB on the host", lines[3])


def test_without_a_terminal_a_line_each_minute_says_how_far_it_is(clock, capsys):
    right, wrong, unreadable, failed, unknown = (
        Question("MSVD", "MSVD", id, id, "a.mp4", Path("a.mp4"), id, "What?", {"A": "red", "B": "blue"})
        for id in "12345"
    )
    answers = {("MSVD", id): "A" for id in "1234"}
    with closing(Progress(10, answers, Job())) as shown:
        clock[0] += 30  # the weights
        shown.start()
        clock[0] += 20
        shown.add({right: {"output_sequence": ["A. red"]}, wrong: {"output_sequence": ["B"]}})
        assert capsys.readouterr().err == ""
        clock[0] += 20
        shown.add({unreadable: {"output_sequence": ["?"]}, failed: {"output_sequence": [""], "error": "why"}})
        assert capsys.readouterr().err == "4/10 (40 %), failed 1, right 25.0 % (1/4), 0.10/s, 60 s left\n"
        clock[0] += 59
        shown.add({unknown: {"output_sequence": ["A"]}})
        assert capsys.readouterr().err == ""
        clock[0] += 1
        shown.add({})
        assert capsys.readouterr().err == "5/10 (50 %), failed 1, right 25.0 % (1/4), 0.05/s, 2 min left\n"


def test_on_a_terminal_one_line_is_kept_up_to_date_and_taken_away_at_the_end(clock, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with closing(StatusLine()) as status:
        for text in ("one", "two"):
            clock[0] += 1
            status.show(text * 100)
    shown = capsys.readouterr().err
    assert "\n" not in shown
    assert [part[:6] for part in shown.split("\r") if part.strip()] == ["oneone", "twotwo"]
    assert max(map(len, shown.split("\r"))) <= shutil.get_terminal_size().columns
    assert not shown.split("\r")[-2].strip()  # the line is taken away
