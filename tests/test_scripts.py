"""Help comes at once, and no script needs a device's packages to give it."""

import re
import subprocess
import sys
from functools import cache

import pytest

from tests.support.paths import ROOT

SCRIPTS = ["extract_dataset.py", "run_npu.py", "run_gpu.py", "precision_test.py"]
MOST_FLAGS = 60
HEAVY = ["torch", "torch_npu", "transformers", "av"]


# The script's help, then what it has imported.
CALL = f"""
import runpy, sys
sys.argv = [sys.argv[1], "--help"]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print([name for name in {HEAVY} if name in sys.modules])
"""


@cache
def lines_of_help(script):
    done = subprocess.run([sys.executable, "-c", CALL, script], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_names_every_flag_of_the_documents(script):
    flags = (ROOT / "docs/flags.md").read_text(encoding="utf-8")
    [section] = [part for part in flags.split("\n## ") if script in part.splitlines()[0]]
    rows = "\n".join(line for line in section.splitlines() if line.startswith("|"))
    named = set(re.findall(r"`(--\w+)", rows))
    shown = set(re.findall(r"(?<![\w-])--\w+", "\n".join(lines_of_help(script)))) - {"--help"}
    assert named
    assert named == shown


def test_there_are_no_more_flags_than_a_reader_can_know():
    """Distinct names, with the launchers' --max_restarts; which exist is the test above."""
    rows = re.findall(r"^\| (`--.*?) \|", (ROOT / "docs/flags.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len({*re.findall(r"`(--\w+)", " ".join(rows)), "--max_restarts"}) <= MOST_FLAGS


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_imports_nothing_heavy(script):
    assert lines_of_help(script)[-1] == "[]"


def test_the_tests_of_a_card_say_that_there_is_none(run_command):
    done = run_command("bash", "test.sh", "--cuda", "--no_install", PYTHON=sys.executable, CUDA_VISIBLE_DEVICES="")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: torch sees no CUDA card; check nvidia-smi and CUDA_VISIBLE_DEVICES\n"
