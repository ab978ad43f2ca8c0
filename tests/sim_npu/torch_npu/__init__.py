"""Test double of torch_npu: torch's device "npu" on the host's memory and the CPU's kernels (csrc/sim_npu.cpp).

A process that finds this folder on its PYTHONPATH finds it as torch_npu. It has what the suite and the pinned releases
of torch and transformers use. The environment says what kind of machine it is on:

SIM_NPU_COUNT    cards in the machine (1), of which ASCEND_RT_VISIBLE_DEVICES may show fewer
SIM_NPU_USED     bytes of each card's 64 GiB that another process holds (0)
SIM_NPU_SOC      910A: a card of the first generation, without bfloat16 (910B)
SIM_NPU_BREAK    cann: `import torch_npu` fails as the real one does without CANN
SIM_NPU_WRONG    one of _wrong.WRONG: that operator computes something else
SIM_NPU_REPORT   folder: at its end each process writes <pid>.json there: operators, copies, memory, settings
"""

import os

if os.environ.get("SIM_NPU_BREAK") == "cann":
    raise ImportError("libhccl.so: cannot open shared object file: No such file or directory")

_autoload_before = os.environ.get("TORCH_DEVICE_BACKEND_AUTOLOAD", "1")
os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"  # as the real one: `import torch` would import this module again

import torch  # noqa: E402

from torch_npu import _build  # noqa: E402

__version__ = torch.__version__.split("+")[0]
torch.ops.load_library(str(_build.build()))
torch.utils.rename_privateuse1_backend("npu")

from torch_npu import _wrong, npu  # noqa: E402

if "SIM_NPU_WRONG" in os.environ:
    _wrong.plant(os.environ["SIM_NPU_WRONG"])

torch._register_device_module("npu", npu)
torch.utils.generate_methods_for_privateuse1_backend(for_tensor=True, for_module=True, for_storage=True)
from torch_npu import hccl  # noqa: E402, F401


def _autoload():
    """What `import torch` calls, through the entry point in the folder beside this one."""
    os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = _autoload_before


_autoload()


def npu_fusion_attention(*args, **kwargs):
    """transformers imports the name wherever it finds torch_npu."""
    raise NotImplementedError("npu_fusion_attention is not simulated")
