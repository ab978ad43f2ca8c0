"""Repeat single operators on the CPU in float32: those inside one module call, from the device's own inputs, and those
of a 7B model, without a checkpoint. What to look at for each."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from videobench.locate.deviation import Deviation, deviation
from videobench.locate.recording import ENCODE, around, dtype_name, map_tensors, on_host, setting_on_host, tensors_in

# --- What to look at ---

OVERFLOW = (
    "overflow: float16 ends at 65504, so use --dtype bfloat16 or float32; on an NPU leave INF_NAN_MODE_ENABLE at 1: "
    "0 hides overflow"
)
KERNEL = "the device's kernel for this operator, and whether the releases of torch_npu and CANN fit each other"
ATTENTION = "scaled_dot_product_attention"
CAUSAL = "the attention operator's is_causal: without a mask it must hide later keys"
UNMASKED = "the attention operator without a mask: its scale, the layout of the heads, the range of its softmax"
ONE_QUERY = (
    "the attention operator for one query: a mask that is ignored beyond 512 keys, the mask's polarity, the number of "
    "keys"
)
MASKED = (
    "the attention operator's mask: polarity (True means visible), dtype (bool; a float mask is added to the scores), "
    "broadcast over heads"
)
PRODUCT = (
    "the matrix product: the weight's rows as loaded, NZ format (torch.npu.config.allow_internal_format), HF32 or TF32 "
    "instead of float32"
)
ROPE = (
    "rope: rotation by halves or by pairs, positions beyond its cache, base and scaling, cos and sin computed in "
    "float32"
)
OPERATORS = {
    "npu_fusion_attention": "the mask's polarity (True means hidden, the opposite of torch's), sparse_mode, scale",
    "gelu": "the formula: an NPU always computes the tanh one; to get erf, set TORCH_NPU_USE_COMPATIBLE_IMPL=1 before "
    "the start (TorchNPU 26.0.0 and later)",
    "linear": PRODUCT,
    "conv2d": "the convolution: its weight's layout (private formats, transposed axes), HF32 or TF32, not float32",
    "layer_norm": "its eps, and which axes it normalises",
    "softmax": "the range of its exponential, the axis, masked rows",
    "embedding": "the rows of the embedding table, and the dtype of the indices",
    "masked_scatter": "the order in which places are filled, and the mask's broadcast",
    "avg_pool2d": "its window, stride, and rounding at the edges",
}
# Used like a module's name for what a run computes outside of the modules (outside.py).
PIXELS, COPIES, POSITIONS = "the normalised pixels", "copies of the cache", "the positions"
TOKENS, LETTERS = "the chosen tokens", "the options' log-probabilities"
OUTSIDE = {
    PIXELS: "the copy to the device, and subtraction and division in place",
    COPIES: "how keys and values are copied for a video's questions: expand, index_select, writing into a buffer",
    POSITIONS: "cumsum of integers, and masked_fill",
    TOKENS: "argmax: its axis, and the dtype in which it compares",
    LETTERS: "log_softmax, logsumexp and indexing by a list, in float32",
}
# By the end of the module's name, if no operator is known.
MODULES = {
    "rotary_emb": ROPE,
    "self_attn": f"{ROPE}; the cache of keys and values; the attention operator",
    "get_video_features": "the order of frames and patches: views and copies of tensors that are not contiguous",
    "norm": "its eps, and which of its steps compute in 16 bits",
    "lm_head": PRODUCT,
    "mlp": "the activation's formula, and products in 16 bits",
    "language_model": "how the mask is made from the padding, and the positions",
}


def look_at(module: str, kind: str, operator: str | None, overflows: bool) -> str:
    """Likely causes. `kind` is of recording.KINDS, `operator` a whole call like "gelu(float32 (8, 9, 128))"."""
    if overflows:
        return OVERFLOW
    if module in OUTSIDE:
        return OUTSIDE[module]
    if operator is None:
        return next((text for end, text in MODULES.items() if module.endswith(end)), KERNEL)
    name = operator.partition("(")[0]
    if name != ATTENTION:
        return OPERATORS.get(name) or (ROPE if module.endswith("self_attn") else f"{name}: {KERNEL}")
    if "attn_mask=None" in operator:
        return CAUSAL if "is_causal=True" in operator else UNMASKED
    return ONE_QUERY if kind == "decoding step" else MASKED


# --- Inside one module call ---


@dataclass(frozen=True)
class Operator:
    """An operator that deviates."""

    name: str  # "scaled_dot_product_attention"
    call: str  # "scaled_dot_product_attention(float16 (2, 32, 1, 128), ..., is_causal=False)"
    deviation: Deviation


@dataclass
class _Computed:
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any

    @property
    def tensors(self) -> Iterator[torch.Tensor]:
        return tensors_in((self.args, self.kwargs, self.output))

    def keep(self, target: torch.Tensor) -> None:
        """Copy what shares memory with `target`, before an operator writes into it."""
        address = target.untyped_storage().data_ptr()

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.clone() if tensor.untyped_storage().data_ptr() == address else tensor

        self.args, self.kwargs, self.output = map_tensors((self.args, self.kwargs, self.output), keep)


class _Recorder(TorchFunctionMode):
    """Records what torch computes unless paused."""

    def __init__(self) -> None:
        super().__init__()
        self.computed: list[_Computed] = []
        self.paused = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = function.__name__
        if self.paused or name in ("__get__", "__set__"):
            return function(*args, **kwargs)
        computed = _Computed(function, args, kwargs, None)
        if name == "__setitem__" or (name.endswith("_") and not name.endswith("__")):  # writes in place
            for each in [*self.computed, computed]:
                each.keep(args[0])
        output = function(*args, **kwargs)
        computed.output = args[0] if name == "__setitem__" else output
        if not any(each.is_meta for each in computed.tensors):  # accelerate brings a weight
            self.computed.append(computed)
        return output


@contextmanager
def watching(model: Any, module: str, call: int) -> Iterator[list[_Computed]]:
    """Record what one call of a module (counted from 0) computes itself, without its inner modules."""
    recorder, count = _Recorder(), [0]

    def begin(*_: Any) -> None:
        if count[0] == call:
            recorder.__enter__()  # type: ignore[no-untyped-call]

    def end(*_: Any) -> None:
        if count[0] == call:
            recorder.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        count[0] += 1

    def pause(by: int, *_: Any) -> None:
        recorder.paused += by

    handles = []
    if module == ENCODE:
        watched = model.model
        watched.get_video_features = around(watched.get_video_features, begin, end)
    else:
        watched = model.get_submodule(module)
        handles += [watched.register_forward_pre_hook(begin), watched.register_forward_hook(end)]
    for child in _nearest(watched):
        handles += [child.register_forward_pre_hook(partial(pause, 1)), child.register_forward_hook(partial(pause, -1))]
    try:
        yield recorder.computed
    finally:
        if module == ENCODE:
            del model.model.get_video_features
        for handle in handles:
            handle.remove()


def _nearest(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Yield the inner modules that it calls; a list of modules is not called itself."""
    for child in module.children():
        yield from child if isinstance(child, torch.nn.ModuleList) else [child]


def first_deviating(computed: list[_Computed]) -> Operator | None:
    """The first operator that deviates; None if all agree."""
    with torch.no_grad():
        return next(filter(None, map(_check, computed)), None)


def _check(computed: _Computed) -> Operator | None:
    args, kwargs = map_tensors((computed.args, computed.kwargs), on_host, setting_on_host)
    try:
        output = computed.function(*args, **kwargs)
    except (RuntimeError, TypeError):  # an operator that the CPU lacks
        return None
    name = computed.function.__name__.strip("_")
    output = args[0] if name == "setitem" else output
    dtypes = {each.dtype for each in computed.tensors}
    coarsest = next((each for each in (torch.bfloat16, torch.float16) if each in dtypes), torch.float32)
    pairs = zip(tensors_in(computed.output), tensors_in(output), strict=False)
    compared = (deviation(on_host(found), on_host(expected), coarsest) for found, expected in pairs)
    worst = max(compared, key=lambda each: each.times, default=Deviation(0.0))
    shown = [*map(_shown, computed.args), *(f"{key}={_shown(value)}" for key, value in computed.kwargs.items())]
    return Operator(name, f"{name}({', '.join(shown)})", worst) if worst.deviates else None


def _shown(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        text = f"{dtype_name(value.dtype)} {tuple(value.shape)}"
        return text if value.is_contiguous() else f"{text} strides {value.stride()}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_shown, value))}]"
    return str(value).removeprefix("torch.")


# --- Those of a 7B model, for --check_device ---

HEADS, SIZE, HIDDEN = 32, 128, 4096  # of LLaVA-NeXT-Video-7B's text model
PATCHES, VISION_HEADS, VISION_SIZE, VISION_HIDDEN = 577, 16, 64, 1024  # of its vision tower
QUERIES, KEYS = 64, 1300  # of a question, and of the longest prompt
PADDING = 20  # tokens

Compute = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Case:
    name: str  # "attention, causal"
    look_at: str
    inputs: tuple[torch.Tensor, ...]  # float32, integers or bool, on the host
    compute: Compute


def cases() -> Iterator[Case]:
    """Yield the cases, with the same numbers in every process."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    yield from _attention_cases(normal)
    yield from _text_cases(normal)
    yield from _vision_cases(normal)


def _attention_cases(normal: Compute) -> Iterator[Case]:
    attend: Compute = F.scaled_dot_product_attention
    query, key, value = (normal(1, HEADS, QUERIES, SIZE) for _ in range(3))
    long_key, long_value = (normal(1, HEADS, KEYS, SIZE) for _ in range(2))
    yield Case("attention, no mask", UNMASKED, (query, key, value), attend)
    yield Case("attention, causal", CAUSAL, (query, key, value), partial(attend, is_causal=True))
    seen = torch.ones(QUERIES, KEYS, dtype=torch.bool).tril(KEYS - QUERIES)[None, None]
    yield Case("attention, bool mask", MASKED, (query, long_key, long_value, seen), attend)
    padded = seen.clone()
    padded[..., KEYS - QUERIES : KEYS - QUERIES + PADDING] = False
    yield Case("attention, bool mask with padding", MASKED, (query, long_key, long_value, padded), attend)
    one = (query[:, :, -1:], long_key, long_value, padded[:, :, -1:])
    yield Case(f"attention, one query and {KEYS} keys, padding", ONE_QUERY, one, attend)
    few = (query, long_key[:, : HEADS // 4], long_value[:, : HEADS // 4])
    yield Case("attention, grouped queries", UNMASKED, few, partial(attend, enable_gqa=True))
    frames = tuple(normal(1, VISION_HEADS, PATCHES, VISION_SIZE) for _ in range(3))
    yield Case(f"attention, {PATCHES} patches", UNMASKED, frames, attend)


def _text_cases(normal: Compute) -> Iterator[Case]:
    states, weight, bias = normal(1, QUERIES, HIDDEN), normal(HIDDEN), normal(HIDDEN)
    yield Case("gelu (erf)", OPERATORS["gelu"], (states,), F.gelu)
    yield Case("gelu (tanh)", KERNEL, (states,), partial(F.gelu, approximate="tanh"))
    yield Case("silu", KERNEL, (states,), F.silu)
    yield Case("quick gelu", KERNEL, (states,), lambda given: given * torch.sigmoid(1.702 * given))
    yield Case("RMSNorm", OPERATORS["layer_norm"], (states, weight), _rms_norm)
    norm: Compute = lambda given, *by: F.layer_norm(given, (HIDDEN,), *by)  # noqa: E731
    yield Case("LayerNorm", OPERATORS["layer_norm"], (states, weight, bias), norm)
    yield Case("linear", PRODUCT, (states, normal(HIDDEN, HIDDEN) / HIDDEN**0.5), F.linear)
    angles = torch.arange(KEYS, dtype=torch.float32)[:, None] * 10000.0 ** (-torch.arange(SIZE // 2) * 2.0 / SIZE)
    angles = torch.cat((angles, angles), -1)
    yield Case("rope", ROPE, (normal(1, 2, KEYS, SIZE), angles.cos(), angles.sin()), _rope)
    logits = (normal(2, 32064),)
    yield Case("log_softmax", OPERATORS["softmax"], logits, lambda given: given.float().log_softmax(-1))


def _rms_norm(states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    wide = states.float()
    return weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)).to(states.dtype)


def _rope(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = states[..., : SIZE // 2], states[..., SIZE // 2 :]
    return states * cos + torch.cat((-second, first), -1) * sin


def _vision_cases(normal: Compute) -> Iterator[Case]:
    image, patches = normal(1, 3, 336, 336), normal(VISION_HIDDEN, 3, 14, 14) / 588**0.5
    yield Case("patch convolution", OPERATORS["conv2d"], (image, patches), partial(F.conv2d, stride=14))
    grid = normal(1, VISION_HIDDEN, 24, 24)
    yield Case("average pooling", OPERATORS["avg_pool2d"], (grid,), partial(F.avg_pool2d, kernel_size=2))
    chosen = (torch.arange(QUERIES) % 3 == 0)[:, None].expand(QUERIES, HIDDEN)
    scattered = (normal(QUERIES, HIDDEN), chosen, normal(QUERIES, HIDDEN))
    yield Case("masked_scatter", OPERATORS["masked_scatter"], scattered, torch.masked_scatter)
    picked = (normal(2, HEADS, QUERIES, SIZE), torch.tensor([1, 0, 1, 1]))
    yield Case("index_select", KERNEL, picked, lambda given, at: given.index_select(0, at))


def check_operators(device: torch.device, dtype: torch.dtype) -> tuple[list[str], float]:
    """Return a line for each operator that deviates, and the largest error of the others over the tolerance."""
    lines, largest = [], 0.0
    for case in cases():
        name = f"{case.name}, {dtype_name(dtype)}"
        rounded = [each.to(dtype) if each.is_floating_point() else each for each in case.inputs]
        expected = case.compute(*map(on_host, rounded))
        try:
            found = deviation(on_host(case.compute(*(each.to(device) for each in rounded))), expected, dtype)
        except RuntimeError as error:
            lines.append(f"{name}: fails: {str(error).splitlines()[0]}; look at: {case.look_at}")
            continue
        if found.deviates:
            fix = OVERFLOW if found.overflow and dtype == torch.float16 else case.look_at
            lines.append(f"{name}: {found.text}; look at: {fix}")
        else:
            largest = max(largest, found.times)
    return lines, largest
