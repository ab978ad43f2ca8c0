"""Record the inputs and results of a model's modules on a device during one forward pass, by reference.

Nothing is copied to the host while the device computes: waiting for values can hide a fault of timing. Only if the
device has no room for the values of a whole pass is each layer passed on as soon as it ends."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial, wraps
from typing import Any

import torch
from transformers import Cache

VISION, PREFIX, SUFFIX, DECODE = KINDS = ("vision", "prefix", "suffix", "decoding step")
# Not a module but a method: the only place that joins the frames' features. In transformers 5 `generate` calls it.
ENCODE = "model.get_video_features"
LAYER = re.compile(r"\.layers\.(\d+)$")

States = dict[int, tuple[torch.Tensor, torch.Tensor]]  # layer -> keys and values (rows, heads, length, size of a head)


@dataclass
class Given:
    """The begin of a module's call, and its inputs."""

    number: int  # of the event in its forward pass
    module: str  # its name in the model, "" for the whole model
    call: int  # how often the module was called before, since the recording began
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass
class Result:
    """The end of a module's call, and its result."""

    number: int
    module: str
    output: Any
    is_compared: bool = False  # a layer that was passed on earlier; what happened inside of it is left out


@dataclass
class Forward:
    """One outermost call, of the whole model or of the method that encodes a video; or one layer of such a call."""

    kind: str  # of KINDS
    number: int  # of the outermost call, since the recording began
    events: list[Given | Result]  # in the order of the device's calls; the outermost come first and last
    cache: States  # before the call

    @property
    def is_layer(self) -> bool:
        return LAYER.search(self.events[0].module) is not None


@dataclass(frozen=True)
class Rows:
    """The rows of a batch to record; the others are left out."""

    rows: tuple[int, ...]
    of: int  # rows of the batch
    videos: tuple[int, ...]  # the numbers of their videos in the prefix, in order
    of_videos: int
    places: tuple[int, ...]  # for each row, where its video is in `videos`

    def keep(self, kind: str, value: Any) -> Any:
        """Select these rows from tensors whose first dimension is the batch (alone, or times frames and patches).
        Others, like one mask for all rows, stay whole."""
        wanted, count = (self.videos, self.of_videos) if kind in (VISION, PREFIX) else (self.rows, self.of)

        def select(tensor: torch.Tensor) -> torch.Tensor:
            if len(wanted) == count or tensor.dim() < 2 or tensor.shape[0] % count:
                return tensor
            parts = tensor.chunk(count)
            return torch.cat([parts[each] for each in wanted])

        return map_tensors(value, select)

    def keep_encoded(self, output: Any) -> Any:
        """The same for the result of ENCODE; transformers 4.56 returns one tensor for each video."""
        if isinstance(output, list | tuple) and len(output) == self.of_videos:
            return tuple(output[each] for each in self.videos)
        return self.keep(VISION, output)


def _same(value: Any) -> Any:
    return value


def map_tensors(value: Any, change: Callable[[torch.Tensor], torch.Tensor], other: Callable[[Any], Any] = _same) -> Any:
    """Copy a structure with `change` applied to every tensor, and `other` to every other value, such as a cache."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        mapped = {key: map_tensors(each, change, other) for key, each in value.items()}
        return mapped if type(value) is dict else type(value)(**mapped)  # a ModelOutput
    if type(value) in (list, tuple):
        return type(value)(map_tensors(each, change, other) for each in value)
    return other(value)


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of a structure."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for each in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(each)


def on_host(tensor: torch.Tensor) -> torch.Tensor:
    """Copy to the CPU, with floating-point numbers as float32."""
    host = tensor.detach().cpu()
    return host.float() if host.is_floating_point() else host


def setting_on_host(value: Any) -> Any:
    """What a call on the CPU in float32 gets for a dtype or a device; other values are kept."""
    if isinstance(value, torch.dtype) and value.is_floating_point:
        return torch.float32
    return torch.device("cpu") if isinstance(value, torch.device) else value


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def around(method: Callable[..., Any], begin: Callable[..., object], end: Callable[..., object]) -> Callable[..., Any]:
    """Wrap a method so that it counts as a module: `begin` gets its arguments, `end` its result."""

    @wraps(method)  # transformers reads its signature
    def call(*args: Any, **kwargs: Any) -> Any:
        begin(None, args, kwargs)
        output = method(*args, **kwargs)
        end(None, args, output)
        return output

    return call


def held_states(values: Iterable[Any]) -> States:
    """The keys and values of the cache, if there is one among the arguments."""
    layers = next((each.layers for each in values if isinstance(each, Cache)), ())
    held = (
        (number, (each.keys, each.values))
        for number, each in enumerate(layers)
        if getattr(each, "keys", None) is not None
    )
    return dict(held)


@contextmanager
def recording(model: Any, done: Callable[[Forward], None], rows: Rows, by_layer: bool = False) -> Iterator[None]:
    """Call `done` at the end of each Forward; with `by_layer` also at the end of each of its layers."""
    recorder = _Recorder(done, rows, by_layer)
    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(partial(recorder.begin, name), with_kwargs=True))
        handles.append(module.register_forward_hook(partial(recorder.end, name)))
    begin, end = partial(recorder.begin, ENCODE), partial(recorder.end, ENCODE)
    model.model.get_video_features = around(model.model.get_video_features, begin, end)
    try:
        yield
    finally:
        del model.model.get_video_features
        for handle in handles:
            handle.remove()


class _Recorder:
    def __init__(self, done: Callable[[Forward], None], rows: Rows, by_layer: bool) -> None:
        self._done, self._rows, self._by_layer = done, rows, by_layer
        self._events: list[Given | Result] = []
        self._running: list[int] = []  # index in `_events` at which each running module began
        self._calls: Counter[str] = Counter()  # of each module
        self._number = 0  # of the next event
        self._forward = -1
        self._kind = ""
        self._cache: States = {}

    def begin(self, name: str, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self._running:
            states = held_states((*args, *kwargs.values()))
            self._kind, self._number, self._events = _kind(name, kwargs, states), 0, []
            self._forward += 1
            self._cache = self._rows.keep(self._kind, states)
        self._running.append(len(self._events))
        args, kwargs = self._rows.keep(self._kind, (args, kwargs))
        self._events.append(Given(self._number, name, self._calls[name], args, kwargs))
        self._number += 1
        self._calls[name] += 1

    def end(self, name: str, _: Any, __: tuple[Any, ...], output: Any) -> None:
        begun = self._running.pop()
        kept = self._rows.keep_encoded(output) if name == ENCODE else self._rows.keep(self._kind, output)
        self._events.append(result := Result(self._number, name, kept))
        self._number += 1
        if not self._running:
            events, self._events = self._events, []
            self._done(Forward(self._kind, self._forward, events, self._cache))
        elif self._by_layer and (found := LAYER.search(name)):
            layer = int(found[1])
            cache = {layer: self._cache[layer]} if layer in self._cache else {}
            self._done(Forward(self._kind, self._forward, self._events[begun:], cache))
            self._events[begun + 1 :] = [replace(result, is_compared=True)]


def _kind(module: str, kwargs: dict[str, Any], cache: States) -> str:
    if module == ENCODE:
        return VISION
    return PREFIX if not cache else SUFFIX if kwargs["input_ids"].shape[1] > 1 else DECODE
