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
        "import runpy, sys; sys.argv = [sys.argv[1], '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        f"except SystemExit: print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
