"""Inside one call of a module: each operator again on the CPU in float32, from the device's own inputs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from videobench.model.locate.deviation import Deviation, deviation
from videobench.model.locate.recording import ENCODE, map_tensors


@dataclass(frozen=True)
class Operator:
    """One that departs."""

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
    """Notes what torch computes, while it is not paused."""

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
        self.computed.append(_Computed(function, given[0], given[1], args[0] if name == "__setitem__" else output))
        return output


@contextmanager
def watching(model: Any, module: str, call: int) -> Iterator[list[_Computed]]:
    """What that call of a module computes itself, not in modules within it; calls count from 0."""
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
        watched, encode = model.model, model.model.get_video_features
        model.model.get_video_features = _around(encode, begin, end)
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
    """The modules within it that it calls; a list of modules is not called itself."""
    for child in module.children():
        if isinstance(child, torch.nn.ModuleList):
            yield from child
        else:
            yield child


def _around(method: Any, begin: Callable[[], None], end: Callable[[], None]) -> Any:
    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        begin()
        output = method(*args, **kwargs)
        end()
        return output

    return call


def first_departing(computed: list[_Computed]) -> Operator | None:
    """None where each operator agrees."""
    with torch.no_grad():
        for each in computed:
            if found := _check(each):
                return found
    return None


def _check(computed: _Computed) -> Operator | None:
    args, kwargs = _to_host(computed.args), _to_host(computed.kwargs)
    try:
        output = computed.function(*args, **kwargs)
    except (RuntimeError, TypeError, NotImplementedError):  # the device's own, which the CPU lacks
        return None
    name = computed.function.__name__.strip("_")
    output = args[0] if name == "setitem" else output
    worst = Deviation(0.0)
    for found, expected in _pairs(computed.output, output):
        host = found.detach().cpu()
        each = deviation(host.float() if host.is_floating_point() else host, expected, _dtype(computed, found))
        worst = max(worst, each, key=lambda each: each.times)
    return Operator(name, describe(name, computed.args, computed.kwargs), worst) if worst.departs else None


def _dtype(computed: _Computed, output: torch.Tensor) -> torch.dtype:
    """The coarsest of what it read and gave."""
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
        host = value.detach().cpu()
        return host.float() if host.is_floating_point() else host
    if isinstance(value, torch.dtype):
        return torch.float32 if value.is_floating_point else value
    return torch.device("cpu") if isinstance(value, torch.device) else value


def _pairs(found: Any, expected: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    if isinstance(found, torch.Tensor) and isinstance(expected, torch.Tensor):
        yield found, expected
    elif isinstance(found, list | tuple) and isinstance(expected, list | tuple):
        for each in zip(found, expected, strict=False):
            yield from _pairs(*each)


def describe(name: str, args: Any, kwargs: Any) -> str:
    """ "gelu(float16 (8, 144, 4096), approximate='none')" """
    shown = [_shown(each) for each in args] + [f"{key}={_shown(value)}" for key, value in kwargs.items()]
    return f"{name}({', '.join(shown)})"


def _shown(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        text = f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
        return text if value.is_contiguous() else f"{text} strides {value.stride()}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_shown, value))}]"
    return str(value).removeprefix("torch.")
