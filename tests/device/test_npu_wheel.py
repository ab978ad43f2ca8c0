"""The real torch_npu on a machine without CANN: it must not break what needs no NPU, and says what is missing.

pip installs it into a folder of its own.
"""

import json
import shutil
import subprocess
import sys
from functools import partial

import pytest
import torch

pytestmark = pytest.mark.slow

TORCH_NPU = "torch_npu==2.13.0"
SET = "MSVD"
# What libtorch_npu.so of this release is linked with; an empty library for each makes a CANN that does not fit.
CANN_LIBRARIES = ("hccl", "ascendcl", "acl_op_compiler", "ge_runner", "graph", "acl_tdt_channel")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Folder with the installed package."""
    release = TORCH_NPU.split("==")[1]
    if torch.__version__.split("+")[0] != release:
        pytest.skip(f"{TORCH_NPU} goes with torch {release}, not {torch.__version__}")
    folder = tmp_path_factory.mktemp("site")
    command = ["-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check", "--target", str(folder)]
    done = subprocess.run([sys.executable, *command, TORCH_NPU], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{TORCH_NPU} cannot be installed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return folder


@pytest.fixture(scope="module")
def run(site, run_command):
    """Runs a command where torch_npu is installed."""
    # As in a user's shell; this process has set it to 0.
    return partial(run_command, PYTHONPATH=str(site), TORCH_DEVICE_BACKEND_AUTOLOAD="1")


def is_one_line(done, expected):
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {expected}"), done.stderr
    assert done.stderr.count("\n") == 1
    return True


def test_a_missing_cann_is_named_once(run, tmp_path, tiny_model_path, qa_root, video_root):
    """torch itself does not even import there."""
    assert "Failed to load the backend extension: torch_npu" in run(sys.executable, "-c", "import torch").stderr
    launcher = ("run_pa_videobench.sh", tiny_model_path, video_root / f"Eval_video/{SET}", qa_root, tmp_path)
    for command in ((sys.executable, "run_npu.py", "--check_device"), ("bash", *launcher)):
        done = run(*command, ASCEND_RT_VISIBLE_DEVICES="0,1")
        assert is_one_line(done, "device npu: CANN is not set up (lib")
        assert "source /usr/local/Ascend/cann/set_env.sh" in done.stderr


def test_a_cann_that_does_not_fit_is_named(run, tmp_path):
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed; it makes the empty libraries")
    for name in CANN_LIBRARIES:
        subprocess.run(["gcc", "-shared", "-o", tmp_path / f"lib{name}.so", "-x", "c", "/dev/null"], check=True)
    done = run(sys.executable, "run_npu.py", "--check_device", LD_LIBRARY_PATH=str(tmp_path))
    assert is_one_line(done, f"device npu: torch_npu fits neither torch {torch.__version__} nor the installed CANN (")


def test_a_run_on_the_cpu_answers_all_the_same(run, tmp_path, tiny_model_path, qa_root, video_root):
    command = ["bash", "run_pa_videobench_gpu.sh", SET, qa_root, video_root, tiny_model_path, tmp_path]
    done = run(*command, "--device", "cpu", "--limit", "2", "--num_workers", "1", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / f"{SET}_eval.json").read_text())
    assert [row["run"]["device"] for row in rows.values()] == ["cpu", "cpu"]
