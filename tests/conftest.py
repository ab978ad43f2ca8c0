"""Paths of the small model and data, and scripts called as their users call them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ASSETS, ROOT
from tests.support.runs import run_argv
from videobench.data.dataset import qa_file

# Begun first, so that no worker is left with one of them at the end. test.sh keeps this order (--no-loadscope-reorder).
LONGEST_FILES = (
    "test_npu.py",
    "test_distributed.py",
    "test_launchers.py",
    "test_faults_kills.py",
    "test_pool.py",
    "test_chain.py",
    "test_faults_running.py",
    "test_frames.py",
    "test_same_answers.py",
    "test_options.py",
    "test_runner.py",
)


def pytest_collection_modifyitems(items):
    places = {name: place for place, name in enumerate(LONGEST_FILES)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


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


@pytest.fixture
def small(tmp_path, qa_root, video_root):
    """One data set in folders of its own, on a path that is hard on careless code."""
    folder = tmp_path / "数据 set+@"
    (folder / "qa/Eval_QA").mkdir(parents=True)
    shutil.copy(qa_file(qa_root, "MSVD"), folder / "qa/Eval_QA")
    shutil.copytree(video_root / "Eval_video" / "MSVD", folder / "videos/Eval_video" / "MSVD")
    return folder


@pytest.fixture
def flags(small, tiny_model_path):
    return run_argv(tiny_model_path, small / "qa", small / "videos", small / "out", "--dataset_name", "MSVD")
