"""npu, cuda and cpu behind one value; the only module that imports torch_npu.

`open_device` must run before anything else imports torch: an installed torch_npu whose CANN is missing breaks
`import torch` itself, and transformers imports torch_npu wherever it finds it.
"""

import importlib.metadata
import importlib.util
import os
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from videobench.errors import InputError

if TYPE_CHECKING:
    import torch

KINDS = ("npu", "cuda", "cpu")
DEFAULT_DTYPES = {"npu": "float16", "cuda": "float16", "cpu": "float32"}
# Shapes cost compilation on an NPU: prompts are padded so that few lengths occur.
# Source: torch_npu's guidance on dynamic shapes (operators are compiled and cached for each shape).
SUFFIX_MULTIPLES = {"npu": 32, "cuda": 8, "cpu": 1}
# Questions answered together. A CPU is full with one video's; on an accelerator many rows fill the chip.
DEFAULT_BATCH_SIZES = {"npu": 16, "cuda": 16, "cpu": 8}


@dataclass(frozen=True)
class Device:
    kind: str  # "npu", "cuda" or "cpu"
    torch_device: "torch.device"  # with the index of this rank's card
    name: str  # "Ascend910B3", "NVIDIA H100 80GB HBM3", "cpu"


def open_device(kind: str, index: int = 0) -> Device:
    """The card `index` of a kind, ready for use; raises InputError with the mend for each way in which it is not."""
    os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"  # a torch_npu without CANN must not break `import torch`
    if kind == "npu":
        return _open_npu(index)
    sys.modules.setdefault("torch_npu", None)  # type: ignore[arg-type]  # None makes its import fail: see above
    import torch

    if kind == "cpu":
        return Device("cpu", torch.device("cpu"), "cpu")
    _check_index(kind, torch.cuda.device_count(), index, "nvidia-smi", "CUDA_VISIBLE_DEVICES")
    torch.cuda.set_device(index)
    return Device("cuda", torch.device("cuda", index), torch.cuda.get_device_name(index))


def cuda_is_available() -> bool:
    os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
    sys.modules.setdefault("torch_npu", None)  # type: ignore[arg-type]
    import torch

    return torch.cuda.is_available()


def peak_memory_bytes(device: Device) -> int:
    """The most memory that tensors have held on the device since the start; 0 on cpu, which does not count."""
    import torch

    return 0 if device.kind == "cpu" else int(getattr(torch, device.kind).max_memory_allocated())


def _open_npu(index: int) -> Device:
    if importlib.util.find_spec("torch_npu") is None:
        raise InputError(
            "device npu: torch_npu is not installed; pip install -r requirements-npu.txt, or run with --device cpu"
        )
    import torch

    _check_npu_version(torch.__version__)
    _import_torch_npu(torch.__version__)
    npu = getattr(torch, "npu")  # noqa: B009  # made by torch_npu
    # device_count, not is_available: that one may say True beside a count of 0
    _check_index("npu", npu.device_count(), index, "npu-smi info", "ASCEND_RT_VISIBLE_DEVICES")
    npu.set_device(index)
    return Device("npu", torch.device("npu", index), npu.get_device_name(index))


def _check_npu_version(torch_version: str) -> None:
    """torch_npu never compares itself with torch; a misfit shows as an undefined symbol or worse."""
    try:
        npu_version = importlib.metadata.version("torch_npu")
    except importlib.metadata.PackageNotFoundError:
        return  # built from source without metadata: nothing to compare
    if _release(npu_version) != _release(torch_version):
        wanted = ".".join(map(str, _release(npu_version)))
        raise InputError(
            f"device npu: torch_npu {npu_version} needs torch {wanted}, but torch {torch_version} is installed; "
            f"pip install torch=={wanted}, or the torch_npu of your torch"
        )


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version.split("+")[0])[:3])


def _import_torch_npu(torch_version: str) -> None:
    try:
        import torch_npu  # noqa: F401
    except ImportError as error:
        library = re.search(r"([\w.+-]+\.so[\w.]*): cannot open shared object", str(error))
        if library and "ascend_hal" in library[1]:
            raise InputError(f"device npu: no Ascend driver ({library[1]} not found); install the driver") from None
        if library:
            raise InputError(
                f"device npu: CANN is not set up ({library[1]} not found); source the set_env.sh of the CANN toolkit"
            ) from None
        if "undefined symbol" in str(error):
            raise InputError(
                f"device npu: torch_npu fits neither torch {torch_version} nor the installed CANN ({error}); "
                "install releases that fit each other"
            ) from None
        raise InputError(f"device npu: torch_npu cannot be imported: {error}; install it anew") from None
    except Exception as error:  # whatever CANN's own start-up raises, on a machine of which we know nothing
        raise InputError(f"device npu: torch_npu cannot be used: {error}; check npu-smi info") from None


def _check_index(kind: str, count: int, index: int, tool: str, variable: str) -> None:
    visible = f"{variable}={os.environ[variable]!r}" if variable in os.environ else f"{variable} is not set"
    if count == 0:
        raise InputError(f"device {kind}: no card is visible ({visible}); check {tool}, or run with --device cpu")
    if index >= count:
        raise InputError(
            f"device {kind}:{index} does not exist: {count} visible ({visible}); "
            "start no more processes than there are cards"
        )
