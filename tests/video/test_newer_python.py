"""The newest releases of what reads videos, which want a newer Python than this one: PyAV 19 has another FFmpeg.

They are installed by pip into an environment of their own, without torch: reading videos needs none.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.slow

PACKAGES = ("av>=19", "numpy>=2.5", "imagesize", "pytest", "hypothesis")
TESTS = ("tests/video/test_frames.py", "tests/video/test_hostile_videos.py", "tests/video/test_image_folder.py")


def find_python():
    """Python 3.13 or 3.12, on the PATH or beside this one, where pyenv and uv keep others; None where there is none."""
    for name in ("python3.13", "python3.12"):
        beside = Path(sys.base_prefix).resolve().parent.glob(f"*/bin/{name}")
        for path in (shutil.which(name), *sorted(beside)):
            if path and not subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode:
                return path
    return None


def test_videos_are_read_rightly(tmp_path):
    python = find_python()
    if python is None:
        pytest.skip("neither Python 3.13 nor 3.12 is on the PATH or beside this one")
    subprocess.run([python, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES]
    installed = subprocess.run(install, capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f"cannot be installed: {(installed.stderr.strip().splitlines() or ['?'])[-1]}")
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", *TESTS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    assert " passed" in done.stdout
