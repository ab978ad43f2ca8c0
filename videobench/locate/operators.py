"""Repeat the operators inside one module call on the CPU in float32, from the device's own inputs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from videobench.locate.deviation import Deviation, deviation
from videobench.locate.recording import ENCODE, around, dtype_name, map_tensors, on_host

OVERFLOW = (
    "overflow: float16 ends at 65504, so --dtype bfloat16 or float32; on an NPU leave INF_NAN_MODE_ENABLE at 1: "
    "0 hides it"
)
OWN_KERNEL = "this operator's own kernel, and releases of torch_npu and CANN that do not fit each other"
ATTENTION = "scaled_dot_product_attention"
CAUSAL_ATTENTION = "the attention operator's causal flag: is_causal without a mask must hide later keys"
PLAIN_ATTENTION = "the attention operator without a mask: its scale, layout of heads, the range of its softmax"
ONE_QUERY = (
    "the attention operator for one query: masks that it ignores beyond 512 keys, polarity of the mask, lengths of the "
    "keys"
)
MASKED_ATTENTION = (
    "the attention operator's mask: polarity (True is seen), dtype (bool; a float mask is added), its broadcast over "
    "heads"
)
PRODUCT = (
    "the matrix product: rows of the weight as loaded, NZ format (torch.npu.config.allow_internal_format), HF32 or "
    "TF32 in place of float32"
)
ROPE = "rope: halves or pairs, positions beyond its cache, base and scaling, float32 until cos and sin are there"
# Used like a module's name for what a run computes outside of the modules (outside.py).
PIXELS, COPIES, POSITIONS = "the normalised pixels", "copies of the cache", "the positions"
TOKENS, LETTERS = "the tokens that are chosen", "the options' log-probabilities"
# By the operator that deviates.
OPERATORS = {
    "npu_fusion_attention": "the polarity of its mask (True is hidden, the opposite of torch's), sparse_mode, scale",
    "gelu": "the formula: an NPU computes tanh's whatever is asked for; TORCH_NPU_USE_COMPATIBLE_IMPL=1 before the "
    "start (TorchNPU 26.0.0 and later) gives erf's",
    "linear": PRODUCT,
    "conv2d": "the convolution: layout of its weight (private formats, transposed axes), HF32 or TF32 for float32",
    "layer_norm": "its eps, and which axes it normalises",
    "softmax": "the range of its exponential, the axis, masked rows",
    "embedding": "the rows of the embedding, and the dtype of the indices",
    "masked_scatter": "the order in which places are filled, and the mask's broadcast",
    "avg_pool2d": "its window, stride and rounding at the edge",
}
OUTSIDE = {
    PIXELS: "the copy to the device, and subtracting and dividing in place",
    COPIES: "copies of keys and values for a video's questions: expand, index_select, writing into part of a buffer",
    POSITIONS: "cumsum of whole numbers, and masked_fill",
    TOKENS: "argmax: its axis, and equal numbers",
    LETTERS: "log_softmax, logsumexp and indexing by a list, in float32",
}
# By the end of the module's name, if the operator has no advice.
MODULES = {
    "rotary_emb": ROPE,
    "self_attn": ROPE + "; the cache of keys and values; the attention operator",
    "get_video_features": "the order of frames and patches: views and copies of tensors that are not contiguous",
    "norm": "its eps, and where it returns to 16 bits",
    "lm_head": PRODUCT,
    "mlp": "the activation's formula, and products in 16 bits",
    "language_model": "how the mask is made from the padding, and the positions",
}


def look_at(module: str, place: str, operator: str | None, overflows: bool) -> str:
    """Likely causes. `place` is like "decoding step", `operator` a whole call like "gelu(float32 (8, 9, 128))"."""
    if overflows:
        return OVERFLOW
    if module in OUTSIDE:
        return OUTSIDE[module]
    if operator is None:
        return next((text for end, text in MODULES.items() if module.endswith(end)), OWN_KERNEL)
    name = operator.partition("(")[0]
    if name == ATTENTION:
        return _attention(operator, place)
    if name in OPERATORS:
        return OPERATORS[name]
    return ROPE if module.endswith("self_attn") else f"{name}: {OWN_KERNEL}"


def _attention(call: str, place: str) -> str:
    if "attn_mask=None" in call:
        return CAUSAL_ATTENTION if "is_causal=True" in call else PLAIN_ATTENTION
    return ONE_QUERY if place == "decoding step" else MASKED_ATTENTION


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


class _Recorder(TorchFunctionMode):
    """Records what torch computes unless paused."""

    def __init__(self) -> None:
        super().__init__()
        self.computed: list[_Computed] = []
        self.paused = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.paused or function.__name__ in ("__get__", "__set__"):
            return function(*args, **kwargs)
        name = function.__name__
        if name == "__setitem__" or (name.endswith("_") and not name.endswith("__")):  # writes in place
            given = map_tensors((args, kwargs), torch.Tensor.clone)
        else:
            given = (args, kwargs)
        output = function(*args, **kwargs)
        if _is_elsewhere((args, kwargs, output)):  # accelerate brings a weight
            return output
        self.computed.append(_Computed(function, given[0], given[1], args[0] if name == "__setitem__" else output))
        return output


def _is_elsewhere(values: Any) -> bool:
    """Whether one of the tensors is on the meta device."""
    if isinstance(values, dict):
        values = values.values()
    elif not isinstance(values, list | tuple):
        return isinstance(values, torch.Tensor) and values.is_meta
    return any(map(_is_elsewhere, values))


@contextmanager
def watching(model: Any, module: str, call: int) -> Iterator[list[_Computed]]:
    """Record what one call of a module (counted from 0) computes itself, outside of its inner modules."""
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
        for each in computed:
            if found := _check(each):
                return found
    return None


def _check(computed: _Computed) -> Operator | None:
    args, kwargs = _to_host(computed.args), _to_host(computed.kwargs)
    try:
        output = computed.function(*args, **kwargs)
    except (RuntimeError, TypeError, NotImplementedError):  # a device-only operator, which the CPU lacks
        return None
    name = computed.function.__name__.strip("_")
    output = args[0] if name == "setitem" else output
    worst = Deviation(0.0)
    for found, expected in _pairs(computed.output, output):
        each = deviation(on_host(found), on_host(expected), _dtype(computed, found))
        worst = max(worst, each, key=lambda each: each.times)
    shown = [*map(_shown, computed.args), *(f"{key}={_shown(value)}" for key, value in computed.kwargs.items())]
    return Operator(name, f"{name}({', '.join(shown)})", worst) if worst.deviates else None


def _dtype(computed: _Computed, output: torch.Tensor) -> torch.dtype:
    """The coarsest dtype of its inputs and outputs."""
    dtypes = {output.dtype}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        dtypes.add(tensor.dtype)
        return tensor

    map_tensors((computed.args, computed.kwargs), note)
    return next((each for each in (torch.bfloat16, torch.float16) if each in dtypes), torch.float32)


def _to_host(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _to_host(each) for key, each in value.items()}
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)(_to_host(each) for each in value)
    if isinstance(value, torch.Tensor):
        return on_host(value)
    if isinstance(value, torch.dtype):
        return torch.float32 if value.is_floating_point else value
    return torch.device("cpu") if isinstance(value, torch.device) else value


def _pairs(found: Any, expected: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    if isinstance(found, torch.Tensor) and isinstance(expected, torch.Tensor):
        yield found, expected
    elif isinstance(found, list | tuple) and isinstance(expected, list | tuple):
        for each in zip(found, expected, strict=False):
            yield from _pairs(*each)


def _shown(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        text = f"{dtype_name(value.dtype)} {tuple(value.shape)}"
        return text if value.is_contiguous() else f"{text} strides {value.stride()}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_shown, value))}]"
    return str(value).removeprefix("torch.")


HEADS, SIZE, HIDDEN = 32, 128, 4096  # of LLaVA-NeXT-Video-7B's text model
PATCHES, VISION_HEADS, VISION_SIZE, VISION_HIDDEN = 577, 16, 64, 1024  # of its vision tower
QUERIES, KEYS = 64, 1300  # of a question, and of the longest prompt
PADDING = 20  # tokens
PLAIN, CAUSAL = (f"{ATTENTION}(attn_mask=None, is_causal={is_causal})" for is_causal in (False, True))


Compute = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Case:
    name: str  # "attention, causal"
    operator: str  # for look_at: "scaled_dot_product_attention(attn_mask=None, is_causal=True)"
    inputs: tuple[torch.Tensor, ...]  # float32, integers or bool, on the host
    compute: Compute


def cases() -> Iterator[Case]:
    """Yield the cases, with the same numbers in every process."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    yield from _attention_cases(normal)
    yield from _by_position(normal)
    yield from _of_the_video(normal)


def _attention_cases(normal: Compute) -> Iterator[Case]:
    attend: Compute = F.scaled_dot_product_attention
    query, key, value = (normal(1, HEADS, QUERIES, SIZE) for _ in range(3))
    long_key, long_value = (normal(1, HEADS, KEYS, SIZE) for _ in range(2))
    yield Case("attention, no mask", PLAIN, (query, key, value), attend)
    yield Case("attention, causal", CAUSAL, (query, key, value), lambda *given: attend(*given, is_causal=True))
    seen = torch.ones(QUERIES, KEYS, dtype=torch.bool).tril(KEYS - QUERIES)[None, None]
    given = (query, long_key, long_value)
    masked: Compute = lambda *each: attend(*each[:3], attn_mask=each[3])  # noqa: E731
    yield Case("attention, bool mask", ATTENTION, (*given, seen), masked)
    padded = seen.clone()
    padded[..., KEYS - QUERIES : KEYS - QUERIES + PADDING] = False
    yield Case("attention, bool mask with padding", ATTENTION, (*given, padded), masked)
    one = (query[:, :, -1:], long_key, long_value)
    yield Case(f"attention, one query and {KEYS} keys, padding", ATTENTION, (*one, padded[:, :, -1:]), masked)
    few = (query, long_key[:, : HEADS // 4], long_value[:, : HEADS // 4])
    grouped: Compute = lambda *each: attend(*each, enable_gqa=True)  # noqa: E731
    yield Case("attention, grouped queries", PLAIN, few, grouped)
    frames = [normal(1, VISION_HEADS, PATCHES, VISION_SIZE) for _ in range(3)]
    yield Case(f"attention, {PATCHES} patches", PLAIN, tuple(frames), attend)


def _by_position(normal: Compute) -> Iterator[Case]:
    states, weight, bias = normal(1, QUERIES, HIDDEN), normal(HIDDEN), normal(HIDDEN)
    yield Case("gelu (erf)", "gelu", (states,), F.gelu)
    yield Case("gelu (tanh)", "tanh", (states,), lambda given: F.gelu(given, approximate="tanh"))
    yield Case("silu", "silu", (states,), F.silu)
    yield Case("quick gelu", "sigmoid", (states,), lambda given: given * torch.sigmoid(1.702 * given))
    yield Case("RMSNorm", "layer_norm", (states, weight), _rms_norm)
    yield Case("LayerNorm", "layer_norm", (states, weight, bias), _layer_norm)
    yield Case("linear", "linear", (states, normal(HIDDEN, HIDDEN) / HIDDEN**0.5), F.linear)
    angles = torch.arange(KEYS, dtype=torch.float32)[:, None] * 10000.0 ** (-torch.arange(SIZE // 2) * 2.0 / SIZE)
    angles = torch.cat((angles, angles), -1)
    yield Case("rope", "cat", (normal(1, 2, KEYS, SIZE), angles.cos(), angles.sin()), _rope)
    yield Case("log_softmax", "softmax", (normal(2, 32064),), lambda given: given.float().log_softmax(-1))


def _layer_norm(states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(states, (HIDDEN,), weight, bias)


def _rms_norm(states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    wide = states.float()
    return weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)).to(states.dtype)


def _rope(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = states[..., : SIZE // 2], states[..., SIZE // 2 :]
    return states * cos + torch.cat((-second, first), -1) * sin


def _of_the_video(normal: Compute) -> Iterator[Case]:
    patches = normal(VISION_HIDDEN, 3, 14, 14) / 588**0.5
    stride: Compute = lambda each, by: F.conv2d(each, by, stride=14)  # noqa: E731
    yield Case("patch convolution", "conv2d", (normal(1, 3, 336, 336), patches), stride)
    grid = normal(1, VISION_HIDDEN, 24, 24)
    yield Case("average pooling", "avg_pool2d", (grid,), lambda each: F.avg_pool2d(each, 2, 2))
    chosen = (torch.arange(QUERIES) % 3 == 0)[:, None].expand(QUERIES, HIDDEN)
    scattered = (normal(QUERIES, HIDDEN), chosen, normal(QUERIES, HIDDEN))
    yield Case("masked_scatter", "masked_scatter", scattered, torch.Tensor.masked_scatter)
    picked = (normal(2, HEADS, QUERIES, SIZE), torch.tensor([1, 0, 1, 1]))
    yield Case("index_select", "index_select", picked, lambda each, at: each.index_select(0, at))


def check_operators(device: torch.device, dtype: torch.dtype) -> tuple[list[str], float]:
    """Return a line for each operator that deviates, and the largest error of the others over the tolerance."""
    lines, largest = [], 0.0
    name = dtype_name(dtype)
    for case in cases():
        rounded = [each.to(dtype) if each.is_floating_point() else each for each in case.inputs]
        expected = case.compute(*(each.float() if each.is_floating_point() else each for each in rounded))
        try:
            result = case.compute(*(each.to(device) for each in rounded)).cpu()
        except (RuntimeError, NotImplementedError) as error:
            lines.append(f"{case.name}, {name}: {str(error).splitlines()[0]}")
            continue
        found = deviation(result.float(), expected, dtype)
        if not found.deviates:
            largest = max(largest, found.times)
            continue
        where = f"; {found.where}" if found.where else ""
        module, place = "self_attn" * (case.name == "rope"), "decoding step" * ("one query" in case.name)
        fix = look_at(module, place, case.operator, found.overflow and dtype == torch.float16)
        lines.append(f"{case.name}, {name}: {found.text}{where}; look at: {fix}")
    return lines, largest
