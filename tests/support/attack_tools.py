"""What the attacks of tests/attack.py share: the scripts in forks, and what every end of one must keep to."""

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.support.fault_tools import SET, Bench
from tests.support.forks import call_script, fork

Attack = Iterator[tuple[str, str]]  # (kind, what did not hold: empty where all did)
TIMEOUT_S = 300.0
STATUSES = (0, 1, 2, 3)


def new_bench(folder: Path, questions: int) -> Bench:
    """A small benchmark in a folder of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return Bench(folder, None, None).shorten(questions)


def sample_argv(bench: Bench, out: Path) -> list[str]:
    flags = ["--datasets", SET, "--nums", "6", "--num_workers", "2"]
    return [*bench.roots, *flags, "--sampling_output_folder", str(out), "--json_output_path", str(out)]


def compare_argv(bench: Bench, out: Path) -> list[str]:
    inputs = ["--eval_npu_path", f"{bench.folder}/npu.json", "--eval_gpu_path", f"{bench.folder}/gpu.json"]
    inputs += ["--sampling_answer_path", f"{bench.folder}/qa/ANSWER.json"]
    return [*inputs, "--output_json", f"{out}/report.json", "--report_html", f"{out}/report.html"]


class Start:
    """One start of a script in a fork; what it says goes to a file."""

    def __init__(self, script: str, argv: list[str], said: Path) -> None:
        self._said = said
        said.unlink(missing_ok=True)
        self.process = fork(call_script, script, argv, err=said)

    def kill(self, after_s: float) -> bool:
        """kill -9; False where it had ended before."""
        self.process.join(after_s)
        if not self.process.is_alive():
            return False
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()
        return True

    def end(self) -> tuple[int, str]:
        """Its status, and what does not hold of that: a status of the suite, one line where the input is wrong, no
        traceback."""
        self.process.join(TIMEOUT_S)
        if self.process.is_alive():
            self.kill(0)
            return -1, f"did not end within {TIMEOUT_S:g} s"
        status, said = self.process.exitcode, self._said.read_text("utf-8", "replace")
        if status not in STATUSES or "Traceback" in said:
            return status, f"status {status}: {said[-400:]}"
        lines = sum(line.startswith("error: ") for line in said.splitlines())
        return status, "" if lines == (status == 2) else f"status {status} with {lines} error lines: {said[-400:]}"


def finish(script: str, argv: list[str], said: Path) -> str:
    """What does not hold of a start that should go through."""
    status, fault = Start(script, argv, said).end()
    return fault or ("" if status == 0 else f"status {status}: {said.read_text('utf-8', 'replace')[-400:]}")


def measure(script: str, argv: list[str], said: Path) -> float:
    """Seconds of a start that nothing disturbs."""
    began = time.monotonic()
    fault = finish(script, argv, said)
    assert not fault, fault
    return time.monotonic() - began


def rows_of(path: Path) -> dict[str, Any]:
    """A result's replies, without what the number of processes and the time may change."""
    rows = json.loads(path.read_bytes())
    return {key: {"output_sequence": row["output_sequence"]} for key, row in rows.items()}


def stored_keys(out: Path) -> list[str]:
    """Of every reply in the journals, but for a last line that was cut short."""
    keys = []
    for path in sorted(out.glob("journal/*.jsonl")):
        for line in path.read_bytes().split(b"\n")[:-1]:
            keys += [json.loads(line)["key"]] if b'"key"' in line else []
    return keys


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the page, which holds the time, of which only whether it is whole."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(folder)): path.read_bytes()[-8:] if path.suffix == ".html" else path.read_bytes()
        for path in files
    }


def first_fault(*checks: tuple[bool, str]) -> str:
    """The words of the first check that is not true."""
    return next((words for is_true, words in checks if not is_true), "")


def moments(seed: int, longest_s: float) -> Callable[[], float]:
    source = random.Random(seed)
    return lambda: source.uniform(0, longest_s)
