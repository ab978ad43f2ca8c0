"""Runs that end in the middle: by signals at random moments, by a journal that lost its end. Nothing answered is lost,
nothing but one batch is computed twice, and the final result is, byte by byte, that of an undisturbed run."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.fault_tools import Bench
from tests.support.paths import ROOT


class Host:
    """tests/support/fork_host.py, and the runs that it starts."""

    def __init__(self, log):
        self.log = log
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fork_host"],
            cwd=ROOT,
            env=os.environ | {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def start(self, argv, stop=None):
        """The process id of the run; with `stop`, (batch, signal), it gets that signal at that batch."""
        self._process.stdin.write(json.dumps({"argv": argv, "log": str(self.log), "stop": stop}) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def wait(self):
        status = int(self._process.stdout.readline())
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return status

    def finish(self, argv):
        self.start(argv)
        return self.wait()

    def computed(self):
        """Questions given to the engine since the last call."""
        sizes = [int(size) for size in self.log.read_text().split()] if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return sum(sizes)

    def close(self):
        self._process.stdin.close()
        self._process.wait()


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    host = Host(tmp_path_factory.mktemp("host") / "batches")
    yield host
    host.close()


@pytest.fixture
def bench(tmp_path, capsys, record_property):
    return Bench(tmp_path, capsys, record_property)


def undisturbed(bench, host, argv):
    """(bytes of the result, bytes of the journal, questions of the largest batch)"""
    host.computed()
    assert host.finish(argv) == 0
    result, size = bench.result.read_bytes(), bench.journal.stat().st_size
    assert host.computed() == len(json.loads(result))
    videos = [row["vid_path"] for row in json.loads(result).values()]
    shutil.rmtree(bench.folder / "out")
    return result, size, max(videos.count(video) for video in videos)


def wait_for_journal(bench, size, more_s):
    """Until the journal has `size` bytes, or the run has ended with its result, and a moment longer."""
    while not bench.result.exists() and not (bench.journal.exists() and bench.journal.stat().st_size >= size):
        time.sleep(0.001)
    time.sleep(more_s)


def kill_and_go_on(bench, host, argv, size, more_s, expected, batch):
    """The status of the start that was killed at that moment; a second one finishes."""
    child = host.start(argv)
    wait_for_journal(bench, size, more_s)
    workers = decoding_workers(child)
    os.kill(child, signal.SIGKILL)  # where it has ended by then, the host keeps its number until it is waited for
    status = host.wait()
    wait_until_gone(workers)
    go_on(bench, host, argv, expected, batch)
    return status


def decoding_workers(process):
    """Those that a run has started, as process ids."""
    children = [tasks.read_text().split() for tasks in Path(f"/proc/{process}/task").glob("*/children")]
    return [int(child) for own in children for child in own if is_worker(child)]


def is_worker(process):
    try:
        return b"videobench.video.worker" in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:  # it has ended
        return False


def wait_until_gone(workers, within_s=60):
    ends = time.monotonic() + within_s
    while any(map(is_worker, workers)):
        assert time.monotonic() < ends, "a decoding worker outlives its run"
        time.sleep(0.01)


def go_on(bench, host, argv, expected, batch):
    kept = whole_lines(bench)
    assert host.finish(argv) == 0
    assert bench.result.read_bytes() == expected
    assert whole_lines(bench)[: len(kept)] == kept
    assert len(whole_lines(bench)) == 1 + len(json.loads(expected))
    assert host.computed() <= len(json.loads(expected)) + batch
    shutil.rmtree(bench.folder / "out")


def whole_lines(bench):
    return bench.journal.read_bytes().split(b"\n")[:-1] if bench.journal.exists() else []


def kill_many_times(bench, host, argv, kills, seed):
    """Starts until so many have been killed; the statuses of all."""
    expected, size, batch = undisturbed(bench, host, argv)
    moments, longest_s = random.Random(seed), 0.1
    statuses = []
    while statuses.count(-signal.SIGKILL) < kills:
        assert len(statuses) < 10 * kills
        more_s = moments.uniform(0, longest_s)
        status = kill_and_go_on(bench, host, argv, moments.uniform(0, size), more_s, expected, batch)
        assert status in (-signal.SIGKILL, 0)
        if status == 0:
            longest_s *= 0.8  # it had ended before: this machine is fast
        statuses.append(status)
    return statuses


def test_kill_9_at_20_random_moments(bench, host, record_property):
    statuses = kill_many_times(bench, host, bench.run_flags("--limit", 12), 20, seed=0)
    record_property("gave", f"20 killed in {len(statuses)} starts, all results equal to the undisturbed one")


@pytest.mark.slow
def test_kill_9_at_100_random_moments(bench, host, record_property):
    statuses = kill_many_times(bench, host, bench.run_flags(), 100, seed=1)
    record_property("gave", f"100 killed in {len(statuses)} starts, all results equal to the undisturbed one")


WITH_WORKERS = ("--limit", 12, "--num_workers", 2)


def test_kill_9_with_decoding_workers(bench, host, record_property):
    statuses = kill_many_times(bench, host, bench.run_flags(*WITH_WORKERS), 2, seed=2)
    record_property("gave", f"2 killed in {len(statuses)} starts, no worker left, all results equal")


@pytest.mark.slow
def test_kill_9_with_decoding_workers_at_15_random_moments(bench, host, record_property):
    statuses = kill_many_times(bench, host, bench.run_flags(*WITH_WORKERS), 15, seed=3)
    record_property("gave", f"15 killed in {len(statuses)} starts, no worker left, all results equal")


def test_killed_again_and_again_until_it_is_done(bench, host, record_property):
    argv = bench.run_flags("--limit", 24)
    expected, size, _ = undisturbed(bench, host, argv)
    starts, written = 0, 0
    while not bench.result.exists():
        starts += 1
        child = host.start(argv)
        wait_for_journal(bench, written + size / 6, 0)
        os.kill(child, signal.SIGKILL)
        written = bench.journal.stat().st_size
        assert host.wait() in (-signal.SIGKILL, 0)
    assert host.finish(argv) == 0
    assert bench.result.read_bytes() == expected
    record_property("gave", f"{starts} starts, the result equal to the undisturbed one")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_the_terminal_goes_or_somebody_stops_it(bench, host, number, record_property):
    argv = bench.run_flags("--limit", 24)
    expected, _, batch = undisturbed(bench, host, argv)
    host.start(argv, stop=(3, number))
    status = host.wait()
    assert whole_lines(bench)
    go_on(bench, host, argv, expected, batch)
    assert status == 128 + number
    record_property("gave", f"{status}; the result after the next start equal to the undisturbed one")


def untimed(journal):
    return [{name: value for name, value in json.loads(line).items() if name != "at"} for line in journal.splitlines()]


def test_a_journal_that_lost_its_end_in_the_middle_of_a_video(bench):
    """As after a power failure: some questions of a video are answered, and the others are answered as they would have
    been with them."""
    flags = ("--limit", 16)
    assert bench.answer(*flags).status == 0
    expected, journal = bench.result.read_bytes(), bench.journal.read_bytes()
    ends = [at for at, byte in enumerate(journal) if byte == ord("\n")]
    for end in ends[1:-1:3]:
        bench.journal.write_bytes(journal[: end + 1 + 50])  # with half of the next line
        bench.result.unlink()
        assert bench.answer(*flags).status == 0
        assert bench.result.read_bytes() == expected
        assert untimed(bench.journal.read_bytes()) == untimed(journal)


def test_a_question_that_failed_is_answered_as_it_would_have_been(bench):
    assert bench.answer().status == 0
    expected = bench.result.read_bytes()
    lines = bench.journal.read_bytes().splitlines(keepends=True)
    entry = json.loads(lines[3])
    entry["row"] |= {"output_sequence": [""], "error": "the device failed"}
    lines[3] = json.dumps(entry).encode() + b"\n"
    bench.journal.write_bytes(b"".join(lines))
    bench.result.unlink()
    assert bench.answer().status == 0
    assert bench.result.read_bytes() == expected
    assert len(bench.journal.read_bytes().splitlines()) == len(lines) + 1
