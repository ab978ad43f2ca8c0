"""Broken machines and old cards, set up inside one process: each is named with its fix."""

import gc
import importlib

import pytest
import torch

from tests.support.npu_cases import MEMORY_BYTES
from videobench.device.devices import describe_device, open_device
from videobench.errors import InputError
from videobench.run import device_check

# In the words of the real package.
NO_KERNELS = "matmul:build/CMakeFiles/torch_npu.dir/compiler_depend.ts:36 aclnnMm or aclnnMmGetWorkspaceSize not in "
NO_KERNELS += "libopapi.so, or libopapi.sonot found."
NO_LINK = "HCCL function error: HcclAllReduce, error code is 6\n[ERROR] EI0006 getting socket times out"


def failing(message):
    def fail(*args, **kwargs):
        raise RuntimeError(message)

    return fail


@pytest.mark.parametrize(("listed", "in_machine"), [("", 1), ("0,1", 0), ("1,0", 2)])
def test_a_machine_without_a_visible_card_is_refused(monkeypatch, listed, in_machine):
    monkeypatch.setattr(torch.npu, "_IN_MACHINE", in_machine)
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", listed)
    mend = r"check npu-smi info and ASCEND_RT_VISIBLE_DEVICES, with ascending numbers, or run with --device cpu"
    with pytest.raises(InputError, match=rf"no card is visible \(ASCEND_RT_VISIBLE_DEVICES='{listed}'\); {mend}$"):
        open_device("npu")


def test_a_card_that_another_process_fills_is_refused(monkeypatch, run):
    monkeypatch.setattr(torch.npu, "_USED", MEMORY_BYTES)
    with pytest.raises(
        InputError, match="npu:0: no memory is free; another process holds it: find it with npu-smi info"
    ):
        open_device("npu")
    gc.collect()  # engines of the tests above
    monkeypatch.setattr(torch.npu, "_USED", MEMORY_BYTES - torch.npu.memory_allocated() - (1 << 20))
    with pytest.raises(
        InputError, match=r"1\.05 MB of 68\.72 GB of its memory is free, the weights .*; another process"
    ):
        run("--dtype", "float32")


def test_a_card_that_fails_to_start_is_named_with_its_error(monkeypatch):
    error = "NPU function error: aclrtSetDevice, error code is 507033\n[ERROR] more lines"
    monkeypatch.setattr(torch.npu, "set_device", failing(error))
    with pytest.raises(InputError, match=r"npu:0 does not start: NPU function error.*507033; check npu-smi info"):
        open_device("npu")


def test_the_launchers_inf_nan_mode_does_not_keep_a_card_from_starting(monkeypatch, capsys):
    with pytest.raises(RuntimeError, match="INF_NAN_MODE_ENABLE shouldn't be set to 0"):
        torch.npu.set_device(0)
    assert describe_device(open_device("npu"))["inf_nan_mode"] is True
    assert "warning" not in capsys.readouterr().err
    monkeypatch.setenv("INF_NAN_MODE_ENABLE", "0")
    monkeypatch.setenv("INF_NAN_MODE_FORCE_DISABLE", "1")  # saturation has to be requested
    assert describe_device(open_device("npu"))["inf_nan_mode"] is False
    assert "overflows of float16 cannot be detected" in capsys.readouterr().err


@pytest.mark.parametrize(("before", "stored"), [(None, True), ("1", True), ("0", False)])
def test_operators_compute_as_torch_is_documented_unless_the_environment_says_otherwise(monkeypatch, before, stored):
    monkeypatch.delenv("TORCH_NPU_USE_COMPATIBLE_IMPL", raising=False)
    if before is not None:
        monkeypatch.setenv("TORCH_NPU_USE_COMPATIBLE_IMPL", before)
    assert describe_device(open_device("npu"))["compatible_impl"] is stored


def test_a_first_generation_card_is_warned_of_and_not_asked_for_bfloat16(monkeypatch, capsys):
    monkeypatch.setattr(torch.npu, "_FIRST_GENERATION", True)
    device = open_device("npu")
    assert "overflows of float16 cannot be detected" in capsys.readouterr().err
    assert describe_device(device)["inf_nan_mode"] is False
    assert device_check._check_product(device, "bfloat16") is None
    assert device_check._check_product(device, "float16") < 1e-3


# --- --check_device, one of its processes ---


def test_a_matrix_product_that_fails_or_is_too_far_off_is_named(monkeypatch):
    """Without CANN's operators; on a card that takes HF32 for float32: ten bits of the mantissa are left."""
    device, matmul = open_device("npu"), torch.Tensor.__matmul__

    def without_kernels(left, right):
        return failing(NO_KERNELS)() if left.is_npu else matmul(left, right)

    monkeypatch.setattr(torch.Tensor, "__matmul__", without_kernels)
    with pytest.raises(InputError, match=r"npu:0: no matrix product in float16: .*install CANN"):
        device_check._check_product(device, "float16")

    def shortened(left, right):
        if left.is_npu and left.dtype == torch.float32:
            left, right = left.half().float(), right.half().float()
        return matmul(left, right)

    monkeypatch.setattr(torch.Tensor, "__matmul__", shortened)
    with pytest.raises(InputError, match=r"npu:0: the matrix product in float32 is off by .*; install releases"):
        device_check._check_product(device, "float32")
    assert device_check._check_product(device, "float16") < 1e-3


def test_cards_that_do_not_reach_each_other_are_named(monkeypatch, tmp_path):
    hccl = importlib.import_module("torch_npu.hccl")
    monkeypatch.setattr(hccl.HcclOverGloo, "allreduce", failing(NO_LINK))
    monkeypatch.setattr(torch.npu, "_IN_MACHINE", 8)
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "4,5")  # the only cards that this user may take
    with pytest.raises(InputError) as raised:
        device_check.main(["npu", "0", "0", "1", str(tmp_path / "store")])
    assert "npu:0: all-reduce over 1 (hccl) failed: HCCL function error: HcclAllReduce" in str(raised.value)
    assert "the links between the cards, or run on one: export ASCEND_RT_VISIBLE_DEVICES=4" in str(raised.value)
