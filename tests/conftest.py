"""Paths of the small model and data, and scripts called as their users call them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "tests" / "assets"


@pytest.fixture(scope="session")
def tiny_model_path():
    return ASSETS / "tiny-llava-next-video"


@pytest.fixture(scope="session")
def qa_root():
    return ASSETS / "egs" / "Video-Bench"


@pytest.fixture(scope="session")
def video_root():
    return ASSETS / "egs" / "VideoBench"


@pytest.fixture(scope="session")
def run_command():
    """Runs a command from the repository's folder, with this Python first on the PATH."""

    def run(*command, **environment):
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        return subprocess.run(
            [str(part) for part in command],
            cwd=ROOT,
            env=os.environ | {"PATH": path} | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run
