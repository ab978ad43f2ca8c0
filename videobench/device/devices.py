"""npu, cuda and cpu behind one value: which card, and how it is set up.

All that the suite sets on a device is set here, each setting with its reason and where it is documented ("docs of
TorchNPU" are those of gitcode.com/Ascend/pytorch and of hiascend.com). `open_device` must run before anything imports
transformers, which imports torch_npu wherever it finds it.
"""

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from videobench.console import warn_once
from videobench.device import npu as npu_install
from videobench.errors import InputError

if TYPE_CHECKING:
    import torch

KINDS = ("npu", "cuda", "cpu")
# float16 on an NPU: cards of the first generation have no bfloat16 (torch.npu.is_bf16_supported, docs of TorchNPU).
DEFAULT_DTYPES = {"npu": "float16", "cuda": "float16", "cpu": "float32"}
# Prompts are padded to a multiple, so that few lengths occur: an NPU prepares each operator anew for each new shape, at
# the worst compiling it (docs of TorchNPU, set_compile_mode; CANN's chapter on dynamic shapes). 8 on CUDA: its
# matrix units take 16-bit numbers in groups of eight.
SUFFIX_MULTIPLES = {"npu": 32, "cuda": 8, "cpu": 1}
# Questions answered together where the memory takes as many (run/batches.py). A CPU is full with one video's. On a card
# the questions' own tokens decide, some 130 for each: 32 questions have the few thousand that fill its matrix units,
# and cards from 64 GB on all take as many of a 7B model, so that both sides compute in batches of one size.
DEFAULT_BATCH_SIZES = {"npu": 32, "cuda": 32, "cpu": 8}
BACKENDS = {"npu": "hccl", "cuda": "nccl", "cpu": "gloo"}  # of torch.distributed
TOOLS = {"npu": "npu-smi info", "cuda": "nvidia-smi"}
VISIBLE = {"npu": "ASCEND_RT_VISIBLE_DEVICES", "cuda": "CUDA_VISIBLE_DEVICES"}

# What --deterministic needs in the environment: (what is set where it is unset, other values that serve). They are read
# when libraries start, so they are set before a device is touched.
DETERMINISTIC_VARIABLES: dict[str, dict[str, tuple[str, ...]]] = {
    "npu": {
        # All-reduce in a fixed order (docs of CANN, HCCL_DETERMINISTIC; strict is a stronger form).
        "HCCL_DETERMINISTIC": ("true", "strict"),
        # The same for LCCL, which takes HCCL's place on one machine where HCCL_OP_EXPANSION_MODE or MindIE asks for it
        # (docs of MindFormers, environment variables).
        "LCCL_DETERMINISTIC": ("1",),
        # Matrix products: no turn of the order in which the inner dimension is added up. The first is read by CANN
        # (docs of verl and MindSpeed on Ascend), the second by ATB alone (set_env.sh of CANN's nnal package).
        "CLOSE_MATMUL_K_SHIFT": ("1",),
        "ATB_MATMUL_SHUFFLE_K_ENABLE": ("0",),
    },
    # cuBLAS picks its workspace by itself otherwise, and with it the order of additions (docs of PyTorch,
    # torch.use_deterministic_algorithms).
    "cuda": {"CUBLAS_WORKSPACE_CONFIG": (":4096:8", ":16:8")},
    "cpu": {},
}
# In the texts of torch, torch_npu (which has raised plain RuntimeErrors, too) and CANN (error codes EL0004 and 207001).
OUT_OF_MEMORY_SIGNS = ("out of memory", "can't allocate memory", "EL0004", "error code is 207001")


@dataclass(frozen=True)
class Device:
    kind: str  # "npu", "cuda" or "cpu"
    torch_device: "torch.device"  # with the index of this rank's card
    name: str  # "Ascend910B3", "NVIDIA H100 80GB HBM3", "cpu"


def open_device(kind: str, index: int = 0, deterministic: bool = False) -> Device:
    """The card `index` of a kind, set up; raises InputError with the mend for each way in which it cannot be used."""
    if deterministic:
        _set_deterministic_variables(kind)
    count = count_cards(kind)
    import torch

    # Operators without a deterministic form raise. torch_npu passes it on to CANN's operators (docs of op-plugin,
    # deterministic computing: to be set once, before the first operator).
    torch.use_deterministic_algorithms(deterministic)
    if kind == "cpu":
        return Device("cpu", torch.device("cpu"), "cpu")
    _check_index(kind, count, index)
    name = _start(kind, index)
    _keep_float32_exact(kind)
    {"npu": _set_up_npu, "cuda": _set_up_cuda}[kind]()
    return Device(kind, torch.device(kind, index), name)


def count_cards(kind: str) -> int:
    """Visible cards, 1 for cpu. Raises InputError where the device's packages are unfit, or no card is visible."""
    if kind == "npu":
        count = npu_install.count_cards()
    else:
        sys.modules.setdefault("torch_npu", None)  # type: ignore[arg-type]  # transformers must not find it: see above
        import torch

        count = 1 if kind == "cpu" else torch.cuda.device_count()
    if count == 0:
        # The runtime of CANN takes the list in ascending order only (torch_npu's own device_count says so).
        order = ", with ascending numbers," if kind == "npu" else ""
        raise InputError(
            f"device {kind}: no card is visible ({_visible(kind)}); check {TOOLS[kind]} and {VISIBLE[kind]}{order} "
            "or run with --device cpu"
        )
    return count


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the host for it, had not the memory, by what torch, torch_npu or CANN says."""
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in OUT_OF_MEMORY_SIGNS)


def cuda_is_available() -> bool:
    """Asks torch, before which it hides torch_npu as count_cards does."""
    sys.modules.setdefault("torch_npu", None)  # type: ignore[arg-type]
    import torch

    return torch.cuda.is_available()


def device_facts(device: Device) -> dict[str, Any]:
    """What is stored with each reply: the card, and versions under it that can move a result."""
    import torch

    facts: dict[str, Any] = {"device_name": device.name}
    if device.kind == "npu":
        facts |= npu_install.versions() | {"inf_nan_mode": _shows_overflows()}
    if device.kind == "cuda":
        facts["cuda"] = torch.version.cuda
    return facts


def _start(kind: str, index: int) -> str:
    """Make a card the current one; its name."""
    import torch

    if kind == "npu":
        _let_overflows_show()
    module = getattr(torch, kind)
    try:
        module.set_device(index)
        free_bytes, _ = module.mem_get_info(index)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            reason = str(error).splitlines()[0]
            raise InputError(f"device {kind}:{index} does not start: {reason}; check {TOOLS[kind]}") from None
        free_bytes = 0
    if free_bytes == 0:
        raise InputError(f"device {kind}:{index}: no memory is free; {another_process(kind)}")
    return str(module.get_device_name(index))


def _keep_float32_exact(kind: str) -> None:
    """float32 means float32: both makers take shortened numbers for convolutions in it by default, and those of the two
    differ (docs of PyTorch, torch.backends.cudnn.allow_tf32; docs of TorchNPU, torch.npu.conv.allow_hf32)."""
    import torch

    if kind == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
    if kind == "npu":
        npu = getattr(torch, "npu")  # noqa: B009
        npu.matmul.allow_hf32 = False
        npu.conv.allow_hf32 = False


def _set_up_cuda() -> None:
    """Attention without cuDNN, which torch prefers on some cards. On those of 2025 it gives wrong tokens to models with
    few key-value heads (pytorch issue 193893, open), and for each new shape it makes a plan, which takes longer than
    the attention itself (FunASR issue 3704). PyTorch has kernels of its own for the same."""
    import torch

    torch.backends.cuda.enable_cudnn_sdp(False)


def _set_up_npu() -> None:
    """Attention needs no setting: transformers takes scaled_dot_product_attention by default, and gives it masks of the
    kind with which torch_npu runs it as one fused operator (transformers, integrations/sdpa_attention.py)."""
    import torch

    npu = getattr(torch, "npu")  # noqa: B009  # made by torch_npu
    # Take operators that CANN brings compiled: with many lengths of prompts, compiling each would take minutes. The
    # default on Atlas A2 and A3, not on older cards (docs of TorchNPU, set_compile_mode).
    npu.set_compile_mode(jit_compile=False)
    # Keep tensors in their plain layout: private ones have to be converted back wherever an operator or a copy does not
    # know them. The default on newer releases (docs of TorchNPU, config.allow_internal_format).
    npu.config.allow_internal_format = False
    if not _shows_overflows():
        warn_once(
            "warning: this NPU gives the largest number where IEEE 754 has infinity, and 0 for NaN: overflows of "
            "float16 cannot be found; on Atlas A2 and A3 unset INF_NAN_MODE_FORCE_DISABLE, on older cards use "
            "--dtype float32"
        )


def _let_overflows_show() -> None:
    """INF_NAN_MODE_ENABLE=0, which MindIE's launchers export, keeps torch_npu from starting on Atlas A2 and A3, and has
    no effect on older cards (docs of TorchNPU, INF_NAN_MODE_ENABLE and INF_NAN_MODE_FORCE_DISABLE)."""
    if os.environ.get("INF_NAN_MODE_FORCE_DISABLE", "0") != "1":
        os.environ["INF_NAN_MODE_ENABLE"] = "1"


def _shows_overflows() -> bool:
    """False where a card saturates in place of infinity and NaN."""
    import torch

    return bool(getattr(torch, "npu").utils.is_support_inf_nan())  # noqa: B009


def _set_deterministic_variables(kind: str) -> None:
    for name, (value, *others) in DETERMINISTIC_VARIABLES[kind].items():
        found = os.environ.setdefault(name, value)
        if found.lower() not in (value, *others):
            raise InputError(f"--deterministic needs {name}={value}, the environment has {found!r}; unset it")


def _check_index(kind: str, count: int, index: int) -> None:
    if index >= count:
        raise InputError(
            f"device {kind}:{index} does not exist: {count} visible ({_visible(kind)}); "
            f"start one process for each card: export {VISIBLE[kind]}={','.join(_listed(kind)[:count])}"
        )


def another_process(kind: str) -> str:
    """The second half of an error: who holds the memory of a card, and what to do."""
    return (
        f"another process holds it: find it with {TOOLS[kind]} and end it, or choose another card with {VISIBLE[kind]}"
    )


def _listed(kind: str) -> list[str]:
    """The cards' names in the variable, or their numbers where it is not set."""
    found = os.environ.get(VISIBLE[kind])
    return found.split(",") if found else [str(number) for number in range(count_cards(kind))]


def _visible(kind: str) -> str:
    name = VISIBLE[kind]
    return f"{name}={os.environ[name]!r}" if name in os.environ else f"{name} is not set"
