"""The ways in which `import torch_npu` and the first operators fail, in the words of the real package."""

import os

import torch

FAULT = os.environ.get("SIM_NPU_BREAK")
NO_KERNELS = (
    "matmul:build/CMakeFiles/torch_npu.dir/compiler_depend.ts:36 aclnnMm or aclnnMmGetWorkspaceSize not in "
    "libopapi.so, or libopapi.sonot found."
)


def fail_to_import() -> None:
    if FAULT == "cann":
        raise ImportError("libhccl.so: cannot open shared object file: No such file or directory")


class WithoutKernels(torch.overrides.TorchFunctionMode):
    """Each matrix product on a card fails, as where CANN's package of operators is not installed."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (torch.matmul, torch.mm, torch.Tensor.matmul, torch.Tensor.__matmul__) and args[0].is_npu:
            raise RuntimeError(NO_KERNELS)
        return function(*args, **(kwargs or {}))
