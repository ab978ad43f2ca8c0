"""A run on a simulated NPU (tests/sim_npu): what the suite does with the device, not what an NPU computes.

npu_cases/ holds the tests that share one process on it; here are that process, the launcher, and the error line of a
machine without CANN.
"""

import json
import os
import shutil
import sys
import tempfile

import pytest
import torch

import run_gpu
from tests.support.jobs import free_port
from tests.support.npu_cases import DTYPES, LIMIT, SET, same_answers
from tests.support.paths import ROOT
from tests.support.runs import run_argv
from videobench.device.devices import LENGTH_MULTIPLES
from videobench.model import engine
from videobench.model.engine import load_engine

DOUBLE = ROOT / "tests" / "sim_npu"
BUILT_FOR = "2.13.0"  # the double uses internal headers of this release

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed; it builds the simulated NPU"),
    pytest.mark.skipif(
        torch.__version__.split("+")[0] != BUILT_FOR, reason=f"the simulated NPU is built for torch {BUILT_FOR}"
    ),
]


@pytest.fixture(scope="module")
def on_npu(run_command):
    """Runs a command on a machine with simulated NPUs."""

    def run(*command, **environment):
        unset = [f"--unset={name}" for name in os.environ if name.startswith(("ASCEND_", "INF_NAN_"))]
        own = {"PYTHONPATH": DOUBLE, "OMP_NUM_THREADS": "1", "PYTEST_ADDOPTS": ""}
        own["SIM_NPU_TMPDIR"] = tempfile.gettempdir()
        own["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "1"  # as in a user's shell; this process has set it to 0
        return run_command("env", *unset, *(f"{name}={value}" for name, value in (own | environment).items()), *command)

    return run


def load_aligned(*arguments):
    """Weights at multiples of 64 bytes, as on a card. Read in place from a file they lie anywhere, and the CPU's matrix
    products in float32 depend on that in their last bits."""
    loaded = load_engine(*arguments)
    for parameter in loaded.model.parameters():
        parameter.data = parameter.data.clone()
    return loaded


@pytest.fixture(scope="module")
def cpu_results(tmp_path_factory, tiny_model_path, qa_root, video_root):
    """Folder with one file for each dtype: rows of the first questions, as the CPU answers them on an NPU's shapes."""
    folder = tmp_path_factory.mktemp("cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LENGTH_MULTIPLES, "cpu", 32)
        patch.setattr(engine, "load_engine", load_aligned)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        for dtype in DTYPES:
            more = ("--dataset_name", SET, "--limit", LIMIT, "--dtype", dtype, "--batch_size", 1, "--overwrite")
            assert run_gpu.main(run_argv(tiny_model_path, qa_root, video_root, folder / "out", *more)) == 0
            shutil.copy(folder / "out" / f"{SET}_eval.json", folder / dtype)
        torch.set_num_threads(threads)
    return folder


def test_cases_in_one_process_on_a_simulated_npu(on_npu, cpu_results, tiny_model_path, pytestconfig):
    """Equal answers, settings, copies, memory, NaN, --check_device: see tests/device/npu_cases/."""
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "python_files=cases_*.py")
    command += ("-m", pytestconfig.getoption("markexpr"))
    done = on_npu(*command, "tests/device/npu_cases", CPU_RESULTS=str(cpu_results), TINY_MODEL=str(tiny_model_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


# --- Through the launcher ---


@pytest.mark.parametrize(
    ("cards", "tensor_parallel", "dtype"),
    [
        pytest.param(2, 1, "float16", id="two-cards-float16"),
        pytest.param(1, 1, "bfloat16", marks=pytest.mark.slow),
        *(pytest.param(2, 2, each, marks=pytest.mark.slow) for each in DTYPES),
    ],
)
def test_the_launcher_on_cards_gives_the_cpus_answers(
    tmp_path, on_npu, cpu_results, tiny_model_path, video_root, qa_root, cards, tensor_parallel, dtype
):
    """To the last bit, unless two cards share the weights: sums over two differ from those of one."""
    reports, out = tmp_path / "reports", tmp_path / "out"
    reports.mkdir()
    command = ["bash", "run_pa_videobench.sh", tiny_model_path, video_root / f"Eval_video/{SET}", qa_root, out]
    command += ["--dtype", dtype, "--limit", LIMIT, "--num_workers", 0, "--batch_size", 1]
    done = on_npu(
        *command,
        "--tensor_parallel",
        tensor_parallel,
        SIM_NPU_COUNT=str(cards),
        SIM_NPU_REPORT=str(reports),
        ASCEND_RT_VISIBLE_DEVICES=",".join(map(str, range(cards))),
        MASTER_PORT=str(free_port()),
    )
    assert done.returncode == 0, done.stderr
    assert f"answered {LIMIT}, failed 0" in done.stdout
    rows, expected = (json.loads(path.read_text()) for path in (out / f"{SET}_eval.json", cpu_results / dtype))
    tolerance = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 2e-1}[dtype] if tensor_parallel > 1 else 0
    same_answers(rows, expected, tolerance)
    used = [json.loads(path.read_text()) for path in reports.iterdir()]
    ranks = {each["environment"]["LOCAL_RANK"]: each for each in used if any(each["peak_bytes"])}
    assert {str(row["rank"]) for row in rows.values()} <= set(ranks) <= {str(card) for card in range(cards)}
    for rank, each in ranks.items():  # on its own card, and in the mode that shows overflows
        assert [bool(peak) for peak in each["peak_bytes"]] == [str(card) == rank for card in range(cards)]
        assert each["environment"]["INF_NAN_MODE_ENABLE"] == "1"
        assert each["environment"]["TASK_QUEUE_ENABLE"] == "1"


def test_a_machine_without_cann_is_one_line_and_status_2(on_npu):
    """More broken machines: npu_cases/cases_broken.py, test_devices.py."""
    done = on_npu(sys.executable, "run_npu.py", "--check_device", SIM_NPU_BREAK="cann")
    assert done.returncode == 2
    found = "device npu: CANN is not set up (libhccl.so not found); source /usr/local/Ascend/cann/set_env.sh"
    assert done.stderr.startswith(f"error: {found}")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
