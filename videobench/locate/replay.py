"""Repeat one forward pass on the CPU in float32, giving each module the inputs that it had on the device.

A copy of the model without weights runs the same code. When a module begins, its inputs are compared with the device's
and replaced by them; when it ends, the same is done with its result. So errors do not pile up, and every number is
compared once. A module's weights are in memory only while it computes."""

import re
import types
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import Cache, DynamicCache

from videobench.locate.recording import ENCODE, Forward, Given, Result, map_tensors, on_host, setting_on_host
from videobench.model.checkpoint import Checkpoint

ReadWeight = Callable[[str, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Compared:
    """One tensor that a module computed: its result, or an input of an inner module."""

    number: int  # of the event
    module: str  # whose code computed it
    call: int  # how often that module was called before
    passed_to: str | None  # the inner module that received it; None: it is the result
    found: torch.Tensor  # the device's, float32 or integers, on the host
    expected: torch.Tensor  # the CPU's from the same inputs
    dtype: torch.dtype  # the device's


class Replay:
    """The CPU's copy of a model, for any number of forward passes."""

    def __init__(self, model: Any, read_weight: ReadWeight) -> None:
        self._read_weight = read_weight
        self._modules: dict[str, Any] = {}
        copied = self._copy(model, "")
        encode = self._around(copied.model.get_video_features, copied.model, ENCODE, {})
        self._modules[ENCODE] = copied.model.get_video_features = encode

    def run(
        self,
        forward: Forward,
        compare: Callable[[Compared], None],
        change: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor,
    ) -> None:
        """Call `compare` for everything that the modules compute, in order; `change` may alter each float32 input."""
        self._events, self._at, self._compare, self._change = forward.events, 0, compare, change
        self._on_host: weakref.WeakValueDictionary[int, torch.Tensor] = weakref.WeakValueDictionary()
        self._running: list[Given] = []
        self._cache = DynamicCache()
        for layer, (keys, values) in forward.cache.items():
            self._cache.update(self._to_host(keys), self._to_host(values), layer)
        given = forward.events[0]
        assert isinstance(given, Given)
        call = self._modules[given.module]
        with torch.no_grad():  # a new context: in its own, a model that is computing collects its layers' states
            Context().run(call, *self._to_host(given.args), **self._to_host(given.kwargs))

    def _copy(self, module: nn.Module, name: str) -> Any:
        """Copy a module's code and settings. Its weights take no memory but look like float32 on the CPU."""
        copied = self._modules[name] = type(module).__new__(type(module))
        copied.__dict__.update(module.__dict__)
        hooks = {
            key: value.copy() for key, value in module.__dict__.items() if "_hooks" in key and hasattr(value, "copy")
        }
        copied.__dict__.update(hooks)  # transformers' hooks, which collect the states that a caller asks for
        copied.__dict__["_modules"] = {
            key: child and self._copy(child, f"{name}.{key}" if name else key) for key, child in module._modules.items()
        }
        own = {key: value for kind in ("_parameters", "_buffers") for key, value in getattr(module, kind).items()}
        for kind in ("_parameters", "_buffers"):
            copied.__dict__[kind] = {key: _hollow(value) for key, value in getattr(module, kind).items()}
        own_forward = getattr(module, "_old_forward", module.forward)  # accelerate, which brings weights, wraps it
        code = types.MethodType(getattr(own_forward, "__func__", type(module).forward), copied)
        copied.__dict__["forward"] = self._around(code, copied, name, own)
        return copied

    def _around(
        self, code: Callable[..., Any], copied: nn.Module, name: str, own: dict[str, torch.Tensor | None]
    ) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            given = self._next(Given, name)
            host_args, host_kwargs = self._to_host(given.args), self._to_host(given.kwargs)
            if self._running:
                self._pairs(given.number, (args, kwargs), (host_args, host_kwargs), (given.args, given.kwargs), name)
            following = self._events[self._at]
            if isinstance(following, Result) and following.is_compared:
                return self._to_host(self._next(Result, name).output)
            self._running.append(given)
            with self._lent(copied, name, own):
                output = code(*host_args, **host_kwargs)
            result = self._next(Result, name)
            found = self._to_host(result.output)
            self._pairs(result.number, output, found, result.output, None)
            self._running.pop()
            return found

        return forward

    def _next(self, kind: type, name: str) -> Any:
        event = self._events[self._at]
        self._at += 1
        if not isinstance(event, kind) or event.module != name:
            raise RuntimeError(f"the device called {event.module!r}, the CPU calls {name!r}")
        return event

    @contextmanager
    def _lent(self, copied: nn.Module, name: str, own: dict[str, torch.Tensor | None]) -> Iterator[None]:
        kinds = {kind: dict(copied.__dict__[kind]) for kind in ("_parameters", "_buffers")}
        for values in (copied.__dict__[kind] for kind in kinds):
            for key in values:
                if (on_device := own.get(key)) is not None:
                    values[key] = self._read_weight(f"{name}.{key}" if name else key, on_device)
        try:
            yield
        finally:
            copied.__dict__.update(kinds)

    def _pairs(self, number: int, expected: Any, found: Any, recorded: Any, passed_to: str | None) -> None:
        """Compare the tensors at the same places of both structures."""
        if isinstance(found, torch.Tensor) and isinstance(expected, torch.Tensor):
            if expected is not found:
                module, call = self._running[-1].module, self._running[-1].call
                self._compare(Compared(number, module, call, passed_to, found, expected, recorded.dtype))
        elif isinstance(found, dict) and isinstance(expected, dict):
            for key in (each for each in found if each in expected):
                self._pairs(number, expected[key], found[key], recorded[key], passed_to)
        elif isinstance(found, list | tuple) and isinstance(expected, list | tuple) and len(found) == len(expected):
            for each in zip(expected, found, recorded, strict=True):
                self._pairs(number, *each, passed_to)

    def _to_host(self, value: Any) -> Any:
        """Copy the structure with float32 tensors on the host; a cache is replaced by the CPU's own."""
        return map_tensors(
            value, self._tensor, lambda each: self._cache if isinstance(each, Cache) else setting_on_host(each)
        )

    def _tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        """Copy a tensor to the host; the same one gives the same copy as long as it is in use, so that a tensor that is
        passed on is recognised."""
        found = self._on_host.get(id(tensor))
        if found is None:
            found = tensor.detach().cpu()
            found = self._change(found.float()) if found.is_floating_point() else found
            if found is tensor:  # already float32 on the CPU
                found = tensor.detach()
            self._on_host[id(tensor)] = found
        return found


def _hollow(tensor: torch.Tensor | None) -> torch.Tensor | None:
    if tensor is None:
        return None
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    hollow = torch.zeros((), dtype=dtype).expand(tensor.shape)
    return nn.Parameter(hollow, requires_grad=False) if isinstance(tensor, nn.Parameter) else hollow


# Parts of a weight's name that depend on the version of transformers: `language_model.model.layers.0.` is
# `model.language_model.layers.0.` since 4.52, and 5.x leaves out `vision_model`.
PREFIXES = re.compile(r"\b(model|language_model|vision_model)\.")


class HostWeights:
    """A ReadWeight that keeps only one tensor in memory; the system caches the files."""

    def __init__(self, checkpoint: Checkpoint, model: Any, dtype: torch.dtype) -> None:
        self._model, self._dtype = model, dtype
        self._found: dict[str, tuple[Any, str]] = {}
        for path in checkpoint.weights.paths:
            file = safe_open(path, framework="pt")
            self._found |= {PREFIXES.sub("", name): (file, name) for name in file.keys()}  # type: ignore[no-untyped-call]  # noqa: SIM118

    def __call__(self, name: str, on_device: torch.Tensor) -> torch.Tensor:
        """Read a weight as float32, rounded to the run's dtype. Buffers are in no file: rope's angles are computed,
        others are the device's."""
        if isinstance(on_device, torch.nn.Parameter):
            key = PREFIXES.sub("", name)
            if key == "lm_head.weight" and key not in self._found:  # tied
                key = "embed_tokens.weight"
            file, stored = self._found[key]
            return torch.nn.Parameter(file.get_tensor(stored).to(self._dtype).float(), requires_grad=False)
        module_name, _, key = name.rpartition(".")
        if key.endswith("inv_freq"):
            module = self._model.get_submodule(module_name)
            computed: torch.Tensor = getattr(type(module)(module.config), key)
            return computed.float()
        return on_host(on_device)
