"""The attack of tests/attack.py with small numbers; SECURITY.md has the larger ones."""

import subprocess
import sys

import pytest

from tests.support.attack_tools import Start, new_bench
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("attack", "number"), [("kills", 6), ("videos", 60), ("json", 5), ("disks", 3)])
def test_an_attack_holds(attack, number):
    command = [sys.executable, "tests/attack.py", f"--{attack}", str(number)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if "no right to mount" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{attack}: {number} of {number} held" in done.stdout


def test_an_attack_sees_what_does_not_hold(tmp_path):
    """A traceback, and a script that says nothing of wrong input."""
    bench = new_bench(tmp_path / "bench", 2)
    assert "status 2 with 0 error lines" in Start("tests.support.lying_script", ["2"], tmp_path / "said").end()[1]
    assert "status 70: " in Start("tests.support.lying_script", ["traceback"], tmp_path / "said").end()[1]
    assert Start("run_gpu", bench.run_flags("--limit", 0), tmp_path / "said").end() == (2, "")
