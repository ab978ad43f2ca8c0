"""Help comes at once, and no script needs a device's packages to give it."""

import re
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

SCRIPTS = ["extract_dataset.py", "run_npu.py", "run_gpu.py", "precision_test.py"]
HEAVY = ["torch", "torch_npu", "transformers", "av"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_names_every_flag_of_the_readme(script):
    readme = (ROOT / "README.md").read_text()
    [section] = [part for part in readme.split("\n### ") if script in part.splitlines()[0]]
    section = section.split("\n## ")[0]
    rows = "\n".join(line for line in section.splitlines() if line.startswith("|"))
    named = set(re.findall(r"`(--\w+)", rows))
    shown = subprocess.run(
        [sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert named
    assert named == set(re.findall(r"(?<![\w-])--\w+", shown)) - {"--help"}


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_imports_nothing_heavy(script):
    code = (
        f"import sys; from videobench.cli import run_script; import {script[:-3]} as script\n"
        "assert run_script(lambda: script.main(['--help'])) == 0\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
