"""The operators of a 7B model, each on its own against the CPU in float32, at its shapes: no checkpoint is needed."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from videobench.model.locate.deviation import deviation
from videobench.model.locate.look_at import ATTENTION, look_at

HEADS, SIZE, HIDDEN = 32, 128, 4096  # of LLaVA-NeXT-Video-7B's text model
PATCHES, VISION_HEADS, VISION_SIZE, VISION_HIDDEN = 577, 16, 64, 1024  # of its vision tower
TOKENS, KEYS = 64, 1300  # of a question, and of the longest prompt
PADDING = 20  # tokens
PLAIN, CAUSAL = (f"{ATTENTION}(attn_mask=None, is_causal={is_causal})" for is_causal in (False, True))


Compute = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Case:
    name: str  # "attention, causal"
    operator: str  # as look_at wants it: "scaled_dot_product_attention(attn_mask=None, is_causal=True)"
    inputs: tuple[torch.Tensor, ...]  # float32, integers or bool, on the host
    compute: Compute


def cases() -> Iterator[Case]:
    """The same numbers in every process."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    yield from _attention(normal)
    yield from _by_position(normal)
    yield from _of_the_video(normal)


def _attention(normal: Compute) -> Iterator[Case]:
    attend: Compute = F.scaled_dot_product_attention
    query, key, value = (normal(1, HEADS, TOKENS, SIZE) for _ in range(3))
    long_key, long_value = (normal(1, HEADS, KEYS, SIZE) for _ in range(2))
    yield Case("attention, no mask", PLAIN, (query, key, value), attend)
    yield Case("attention, causal", CAUSAL, (query, key, value), lambda *given: attend(*given, is_causal=True))
    seen = torch.ones(TOKENS, KEYS, dtype=torch.bool).tril(KEYS - TOKENS)[None, None]
    given = (query, long_key, long_value)
    masked: Compute = lambda *each: attend(*each[:3], attn_mask=each[3])  # noqa: E731
    yield Case("attention, bool mask", ATTENTION, (*given, seen), masked)
    padded = seen.clone()
    padded[..., KEYS - TOKENS : KEYS - TOKENS + PADDING] = False
    yield Case("attention, bool mask with padding", ATTENTION, (*given, padded), masked)
    one = (query[:, :, -1:], long_key, long_value)
    yield Case(f"attention, one query and {KEYS} keys, padding", ATTENTION, (*one, padded[:, :, -1:]), masked)
    few = (query, long_key[:, : HEADS // 4], long_value[:, : HEADS // 4])
    grouped: Compute = lambda *each: attend(*each, enable_gqa=True)  # noqa: E731
    yield Case("attention, grouped queries", PLAIN, few, grouped)
    frames = [normal(1, VISION_HEADS, PATCHES, VISION_SIZE) for _ in range(3)]
    yield Case(f"attention, {PATCHES} patches", PLAIN, tuple(frames), attend)


def _by_position(normal: Compute) -> Iterator[Case]:
    states, weight, bias = normal(1, TOKENS, HIDDEN), normal(HIDDEN), normal(HIDDEN)
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
    yield Case(
        "patch convolution", "conv2d", (normal(1, 3, 336, 336), patches), lambda each, by: F.conv2d(each, by, stride=14)
    )
    yield Case(
        "average pooling", "avg_pool2d", (normal(1, VISION_HIDDEN, 24, 24),), lambda each: F.avg_pool2d(each, 2, 2)
    )
    chosen = (torch.arange(TOKENS) % 3 == 0)[:, None].expand(TOKENS, HIDDEN)
    yield Case(
        "masked_scatter",
        "masked_scatter",
        (normal(TOKENS, HIDDEN), chosen, normal(TOKENS, HIDDEN)),
        torch.Tensor.masked_scatter,
    )
    rows = torch.tensor([1, 0, 1, 1])
    yield Case(
        "index_select",
        "index_select",
        (normal(2, HEADS, TOKENS, SIZE), rows),
        lambda each, at: each.index_select(0, at),
    )


def check_operators(device: torch.device, dtype: torch.dtype) -> tuple[list[str], float]:
    """A line for each that departs, and the largest error of the others, over what the dtype's rounding explains."""
    lines, largest = [], 0.0
    name = str(dtype).removeprefix("torch.")
    for case in cases():
        rounded = [each.to(dtype) if each.is_floating_point() else each for each in case.inputs]
        expected = case.compute(*(each.float() if each.is_floating_point() else each for each in rounded))
        try:
            result = case.compute(*(each.to(device) for each in rounded)).cpu()
        except (RuntimeError, NotImplementedError) as error:
            lines.append(f"{case.name}, {name}: {str(error).splitlines()[0]}")
            continue
        found = deviation(result.float(), expected, dtype)
        if not found.departs:
            largest = max(largest, found.times)
            continue
        far = "infinite or NaN" if math.isinf(found.times) else f"{found.times:,.0f} times what {name} explains"
        where = f", {found.where}" if found.where else ""
        is_late = "one query" in case.name
        fix = look_at(
            "self_attn" if case.name == "rope" else "",
            "decoding step" if is_late else "",
            case.operator,
            found.overflow and dtype == torch.float16,
        )
        lines.append(f"{case.name}, {name}: {far}{where}; look at: {fix}")
    return lines, largest
