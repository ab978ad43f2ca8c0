"""One interface for npu, cuda and cpu: choose a card and set it up.

All device settings are made here, with reasons and sources ("docs of TorchNPU": gitcode.com/Ascend/pytorch and
hiascend.com).

Nothing may import torch or transformers before `open_device`: it sets the variables that libraries read when they
start, and decides whether torch_npu may be loaded, which transformers does whenever it is installed. Modules that are
needed earlier (flags, questions, journals, formats) import both inside functions that run later.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from videobench.console import in_bytes, warn_once
from videobench.device import npu
from videobench.errors import InputError, OutOfMemory

if TYPE_CHECKING:
    import torch

KINDS = ("npu", "cuda", "cpu")
# float16 on NPUs: first-generation cards have no bfloat16 (torch.npu.is_bf16_supported, docs of TorchNPU).
DEFAULT_DTYPES = {"npu": "float16", "cuda": "float16", "cpu": "float32"}
# Prompts are padded to a multiple, so that few lengths occur: an NPU prepares every operator again for every new shape,
# and may even compile it (docs of TorchNPU, set_compile_mode; CANN's chapter on dynamic shapes). 16 on CUDA:
# PyTorch's attention copies masks of other lengths in every layer (aten, pad_bias in attention.cpp).
LENGTH_MULTIPLES = {"npu": 32, "cuda": 16, "cpu": 1}
# Questions answered together if memory allows (run/loop.py). The questions on one video are enough to keep a CPU busy.
# A card needs a few thousand tokens to fill its matrix units: 32 questions of about 130 tokens. With a 7B model they
# fit on any card with 64 GB or more, so both sides use the same batch size.
DEFAULT_BATCH_SIZES = {"npu": 32, "cuda": 32, "cpu": 8}
BACKENDS = {"npu": "hccl", "cuda": "nccl", "cpu": "gloo"}  # of torch.distributed
TOOLS = {"npu": "npu-smi info", "cuda": "nvidia-smi"}
VISIBLE = {"npu": "ASCEND_RT_VISIBLE_DEVICES", "cuda": "CUDA_VISIBLE_DEVICES"}

# Variables for --deterministic: (value to set if unset, other accepted values). Libraries read them when they start, so
# they are set before a device is used.
DETERMINISTIC_VARIABLES: dict[str, dict[str, tuple[str, ...]]] = {
    "npu": {
        # Reduces in a fixed order (docs of CANN, HCCL_DETERMINISTIC; strict is stronger).
        "HCCL_DETERMINISTIC": ("true", "strict"),
        # The same for LCCL, which replaces HCCL on one machine if HCCL_OP_EXPANSION_MODE or MindIE requests it (docs of
        # MindFormers, environment variables).
        "LCCL_DETERMINISTIC": ("1",),
        # Matrix products always sum the inner dimension in the same order. CANN reads the first (docs of verl and
        # MindSpeed on Ascend), only ATB the second (set_env.sh of CANN's nnal package).
        "CLOSE_MATMUL_K_SHIFT": ("1",),
        "ATB_MATMUL_SHUFFLE_K_ENABLE": ("0",),
    },
    # Otherwise cuBLAS picks its workspace, and with it the order of additions (docs of PyTorch,
    # torch.use_deterministic_algorithms).
    "cuda": {"CUBLAS_WORKSPACE_CONFIG": (":4096:8", ":16:8")},
    "cpu": {},
}
# Parts of the out-of-memory messages of torch, cuBLAS (handle and workspace: pytorch issue 128601), torch_npu (also in
# plain RuntimeErrors) and CANN (error codes EL0004 and 207001).
OUT_OF_MEMORY_SIGNS = (
    "out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "EL0004", "error code is 207001",
)  # fmt: skip


@dataclass(frozen=True)
class Device:
    """A device that open_device has set up."""

    kind: str  # "npu", "cuda" or "cpu"
    torch_device: "torch.device"  # with the index of this process's card
    name: str  # "Ascend910B3", "NVIDIA H100 80GB HBM3", "cpu"


def open_device(kind: str, index: int = 0, deterministic: bool = False) -> Device:
    """Set up card `index` of a kind ("npu", "cuda" or "cpu", which has one) and make it current.

    With `deterministic`, operators without a deterministic form raise."""
    if deterministic:
        _set_deterministic_variables(kind)
    count = count_cards(kind)
    import torch

    # torch_npu passes it on to CANN's operators (docs of op-plugin, deterministic computing: set it once, before the
    # first operator runs).
    if torch.are_deterministic_algorithms_enabled() != deterministic:  # it imports torch's compiler: seconds
        torch.use_deterministic_algorithms(deterministic)
    if kind == "cpu":
        return Device("cpu", torch.device("cpu"), "cpu")
    if index >= count:
        raise InputError(
            f"device {kind}:{index} does not exist: {count} visible ({visible_cards(kind)}); start one process for "
            f"each card: torchrun --nproc_per_node={count}, or list only cards that exist in {VISIBLE[kind]}"
        )
    name = _start(kind, index)
    {"npu": _set_up_npu, "cuda": _set_up_cuda}[kind]()
    return Device(kind, torch.device(kind, index), name)


def count_cards(kind: str) -> int:
    """Count visible cards; 1 for cpu. Raises InputError if the packages do not fit, or no card is visible."""
    count = npu.count_cards() if kind == "npu" else _count_cuda_cards()  # the latter hides torch_npu for cpu, too
    if kind == "cpu":
        return 1
    if count == 0:
        # CANN's runtime accepts only ascending numbers (documented in torch_npu's device_count).
        order = ", with ascending numbers," if kind == "npu" else ""
        raise InputError(
            f"device {kind}: no card is visible ({visible_cards(kind)}); "
            f"check {TOOLS[kind]} and {VISIBLE[kind]}{order} or run with --device cpu"
        )
    return count


def _count_cuda_cards() -> int:
    sys.modules.setdefault("torch_npu", None)  # type: ignore[arg-type]  # hide it from transformers, see above
    import torch

    return torch.cuda.device_count()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device, or the host on its behalf, ran out of memory, judging by the error message."""
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in OUT_OF_MEMORY_SIGNS)


def kind_to_use(kind: str, may_use_cpu: bool) -> str:
    """Return `kind`, or "cpu" with a warning if that is allowed and torch sees no CUDA card."""
    if not may_use_cpu or _count_cuda_cards():
        return kind
    warn_once("WARNING: no CUDA device is visible: running on the CPU, which is slow")
    return "cpu"


def describe_device(device: Device) -> dict[str, Any]:
    """Describe the card and the versions below torch that can change a result; stored with every reply."""
    import torch

    found: dict[str, Any] = {"device_name": device.name}
    if device.kind == "npu":
        found |= npu.versions() | {"inf_nan_mode": _shows_overflows()}
        found["compatible_impl"] = os.environ.get(npu.COMPATIBLE_VARIABLE) == "1"
    if device.kind == "cuda":
        found["cuda"] = torch.version.cuda
    return found


def _start(kind: str, index: int) -> str:
    """Make a card the current one; returns its name."""
    import torch

    # With INF_NAN_MODE_ENABLE=0, which MindIE's launchers export, torch_npu does not start on Atlas A2 and A3. On older
    # cards it has no effect (docs of TorchNPU, INF_NAN_MODE_ENABLE and INF_NAN_MODE_FORCE_DISABLE).
    if kind == "npu" and os.environ.get("INF_NAN_MODE_FORCE_DISABLE", "0") != "1":
        os.environ["INF_NAN_MODE_ENABLE"] = "1"
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
        raise InputError(f"device {kind}:{index}: no memory is free; {_another_process(kind)}")
    return str(module.get_device_name(index))


def _set_up_cuda() -> None:
    import torch

    # Compute float32 in full precision. By default both vendors round the inputs of convolutions to fewer bits, and not
    # to the same number (docs of PyTorch, torch.backends.cudnn.allow_tf32; of TorchNPU, torch.npu.conv.allow_hf32).
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    # Keep split sums of 16-bit products in float32 until the end, since this card is the reference (docs of PyTorch,
    # numerical accuracy, reduced precision reduction).
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    # Do not use cuDNN's attention, which torch prefers on some cards. On cards of 2025 it gives wrong tokens for models
    # with few key-value heads (pytorch issue 193893, open), and planning for every new shape takes longer than the
    # attention itself (FunASR issue 3704). PyTorch's own kernels are used instead.
    torch.backends.cuda.enable_cudnn_sdp(False)


def _set_up_npu() -> None:
    """Apply the NPU settings. Attention needs none: transformers uses scaled_dot_product_attention by default, which
    torch_npu runs as one fused operator if the mask is bool or absent (op-plugin,
    ScaledDotProductAttentionKernelNpuOpApi.cpp: 910B1 and later, head size up to 512; float masks are not fused)."""
    import torch

    module = getattr(torch, "npu")  # noqa: B009  # made by torch_npu
    module.matmul.allow_hf32 = False  # see _set_up_cuda
    module.conv.allow_hf32 = False
    # Use the operators that CANN ships compiled: with many prompt lengths, compiling each would take minutes. This is
    # the default on Atlas A2 and A3, but not on older cards (docs of TorchNPU, set_compile_mode).
    module.set_compile_mode(jit_compile=False)
    # Keep tensors in their plain layout: private layouts must be converted back whenever an operator or a copy does not
    # support them. This is the default on newer releases (docs of TorchNPU, config.allow_internal_format).
    module.config.allow_internal_format = False
    if not _shows_overflows():
        warn_once(
            "warning: this NPU writes the largest number instead of infinity and 0 instead of NaN, so overflows of "
            "float16 cannot be detected; on Atlas A2 and A3 unset INF_NAN_MODE_FORCE_DISABLE, on older cards use "
            "--dtype float32"
        )


def _shows_overflows() -> bool:
    """False if the card writes the largest number instead of infinity, and 0 instead of NaN."""
    import torch

    return bool(getattr(torch, "npu").utils.is_support_inf_nan())  # noqa: B009


def _set_deterministic_variables(kind: str) -> None:
    for name, (value, *others) in DETERMINISTIC_VARIABLES[kind].items():
        found = os.environ.setdefault(name, value)
        if found.lower() not in (value, *others):
            raise InputError(f"--deterministic needs {name}={value}, but the environment has {found!r}; unset it")


def _another_process(kind: str) -> str:
    """Second half of an error: what uses the card's memory, and the fix."""
    return (
        f"another process holds it: find it with {TOOLS[kind]} and end it, or choose another card with {VISIBLE[kind]}"
    )


def card_numbers(device: Device, count: int = 1) -> list[str]:
    """Numbers of this process's card and the following ones, as in the variable that lists visible cards."""
    index = device.torch_device.index or 0
    listed = [each.strip() for each in os.environ.get(VISIBLE.get(device.kind, ""), "").split(",")]
    return [listed[each] if each < len(listed) and listed[each] else str(each) for each in range(index, index + count)]


def name_of(device: Device) -> str:
    """Name a card as people do: "NPU card 5 (Ascend910B3)", "the CPU"."""
    if device.kind == "cpu":
        return "the CPU"
    return f"{device.kind.upper()} card {card_numbers(device)[0]} ({device.name})"


def visible_cards(kind: str) -> str:
    """Show the variable that lists the cards: "CUDA_VISIBLE_DEVICES='4,5'"."""
    name, found = VISIBLE[kind], os.environ.get(VISIBLE[kind])
    if found is None:
        return f"{name} is not set"
    space = f", which holds a space: write {''.join(found.split())}" if found.split() not in ([], [found]) else ""
    return f"{name}={found!r}{space}"


def memory_bytes(device: Device) -> tuple[int, int]:
    """Return (free, total) memory of the card, or of the host for cpu."""
    import torch

    if device.kind == "cpu":
        page = os.sysconf("SC_PAGE_SIZE")
        return os.sysconf("SC_AVPHYS_PAGES") * page, os.sysconf("SC_PHYS_PAGES") * page
    free, total = getattr(torch, device.kind).mem_get_info(device.torch_device.index)
    return int(free), int(total)


def check_free_memory(device: Device, needed: int, dtype: str) -> None:
    """Raises InputError if `needed` bytes of weights do not fit: the card is too small, or others use it."""
    if device.kind == "cpu":
        return
    free, total = memory_bytes(device)
    if needed > free:
        narrower = "a 16-bit --dtype, " if dtype == "float32" else ""
        too_small = f"use {narrower}--tensor_parallel, or a larger card"
        raise InputError(
            f"device {device.torch_device} ({device.name}): {in_bytes(free)} of {in_bytes(total)} of its memory is "
            f"free, the weights in {dtype} take {in_bytes(needed)}; "
            f"{too_small if needed > total else _another_process(device.kind)}"
        )


@contextmanager
def reading_weights(device: Device) -> Iterator[None]:
    """Turn running out of memory into an InputError; check_free_memory does not know how much the loader needs."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            f"device {device.torch_device} ({device.name}): out of memory while reading the weights; free some, "
            "use a 16-bit --dtype, or a larger card"
        ) from None


def release_memory(device: Device) -> None:
    """Give torch's cached memory back to the card, so that blocks of other sizes can be allocated."""
    import torch

    if device.kind != "cpu":
        getattr(torch, device.kind).empty_cache()


def peak_memory_bytes(device: Device) -> int:
    """Peak memory of tensors on the device since the start; 0 on cpu, which does not count it."""
    import torch

    return 0 if device.kind == "cpu" else int(getattr(torch, device.kind).max_memory_allocated())


def too_large(device: Device) -> str:
    """Error for a question that does not fit even alone."""
    return (
        f"not enough memory on {device.torch_device} ({device.name}) for this question alone; use fewer --num_frames, "
        "a 16-bit --dtype, or a larger card"
    )
