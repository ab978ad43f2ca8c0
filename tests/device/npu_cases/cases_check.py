"""--check_device: this process starts one on each card."""

import os

import pytest
import torch

import run_npu
from tests.support.npu_cases import MEMORY_BYTES
from videobench.cli import run_script


@pytest.fixture
def check(monkeypatch, capsys):
    """Runs --check_device on a machine with `cards` cards; returns exit status, lines of stdout, stderr."""

    def start(cards, *flags, **environment):
        monkeypatch.setattr(torch.npu, "_IN_MACHINE", cards)
        for name, value in (environment | {"SIM_NPU_COUNT": str(cards)}).items():
            monkeypatch.setenv(name, value)
        status = run_script(lambda: run_npu.main(["--check_device", *flags]))
        said = capsys.readouterr()
        return status, said.out.splitlines(), said.err

    return start


@pytest.mark.parametrize("flags", [(), pytest.param(("--deterministic",), marks=pytest.mark.slow)])
def test_check_device_reports_each_of_two_cards(check, tmp_path, flags):
    info = tmp_path / f"{os.uname().machine}-linux/ascend_toolkit_install.info"
    info.parent.mkdir()
    info.write_text("package_name=Ascend-cann-toolkit\nversion=9.2.0\n")
    environment = {"SIM_NPU_USED": "1000000000", "ASCEND_HOME_PATH": str(tmp_path)}
    status, lines, err = check(2, *flags, **environment)
    assert (status, err) == (0, "")
    assert lines[0] == "device npu: 2 visible (ASCEND_RT_VISIBLE_DEVICES is not set)"
    assert f", torch {torch.__version__}, " in lines[1]
    assert lines[1].endswith(", torch_npu 2.13.0, CANN 9.2.0, driver unknown")
    assert lines[2] == "npu:0 Simulated910B: 67.72 GB of 68.72 GB free"
    assert lines[3].startswith("  matrix product, difference from the CPU's: float16 ")
    assert lines[4].startswith("  operators of a 7B model: all agree with the CPU's (times the tolerance: float16 0.")
    assert lines[5] == "npu:1 Simulated910B: 67.72 GB of 68.72 GB free"
    assert lines[7:] == ["all-reduce over 2 cards (hccl): right on each", "all checks passed"]


@pytest.mark.slow
def test_check_device_names_an_operator_that_deviates(check):
    status, lines, err = check(1, SIM_NPU_WRONG="gelu")
    assert (status, err) == (1, "")
    [deviates] = [line for line in lines if "operator deviates:" in line]
    assert deviates.startswith("  operator deviates: gelu (erf), float32: ")
    assert lines[-1].startswith("1 operator deviates from the CPU's; ")


def test_check_device_passes_on_the_warnings_of_its_processes(check):
    """A card of the first generation: its float16 hides overflows."""
    status, lines, err = check(1, SIM_NPU_SOC="910A")
    assert (status, lines[-1]) == (0, "all checks passed")
    assert err.startswith("warning: this NPU writes the largest number instead of infinity and 0 instead of NaN")
    assert err.count("\n") == 1


@pytest.mark.slow
def test_check_device_ends_with_the_error_of_a_process_that_fails(check):
    status, lines, err = check(1, SIM_NPU_USED=str(MEMORY_BYTES))
    assert status == 2
    assert err.startswith("error: device npu:0: no memory is free; another process holds it: find it with ")
    assert err.count("\n") == 1
    assert "all checks passed" not in lines
