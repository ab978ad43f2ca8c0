"""What the modules of a model were given and gave on a device, during one forward pass: as it was, by reference.

Nothing is copied to the host while the device computes: waiting for each value can make a fault of timing vanish."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any

import torch
from transformers import Cache

VISION, PREFIX, SUFFIX, DECODE = KINDS = ("vision", "prefix", "suffix", "decoding step")
# A method, but the one place where the frames' features are put together; since transformers 5 `generate` calls it.
ENCODE = "model.get_video_features"

Keep = Callable[[torch.Tensor], torch.Tensor]


@dataclass
class Given:
    """A module's call begins."""

    module: str  # its name in the model, "" for the whole model
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass
class Result:
    """A module's call ends."""

    module: str
    output: Any


@dataclass
class Forward:
    """One call from outside: of the whole model, or of what encodes a video for it."""

    kind: str  # of KINDS
    events: list[Given | Result]  # in the order of the device's calls; the outermost come first and last
    cache: list[tuple[torch.Tensor, torch.Tensor]]  # keys and values of each layer before it


def map_tensors(value: Any, change: Keep) -> Any:
    """The same structure, in containers of its own, with each tensor changed; caches are left as they are."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        mapped = {key: map_tensors(each, change) for key, each in value.items()}
        return mapped if type(value) is dict else type(value)(**mapped)  # a ModelOutput
    if isinstance(value, list | tuple):
        return type(value)(map_tensors(each, change) for each in value)
    return value


def on_host(tensor: torch.Tensor) -> torch.Tensor:
    """On the CPU, numbers in float32."""
    host = tensor.detach().cpu()
    return host.float() if host.is_floating_point() else host


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def around(method: Callable[..., Any], begin: Callable[..., object], end: Callable[..., object]) -> Callable[..., Any]:
    """A method that counts as a module: `begin` gets its arguments, `end` its result."""

    @wraps(method)  # transformers reads its signature
    def call(*args: Any, **kwargs: Any) -> Any:
        begin(None, args, kwargs)
        output = method(*args, **kwargs)
        end(None, args, output)
        return output

    return call


def held_states(values: Iterable[Any]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values (rows, heads, length, size of a head) of each layer of the cache among some arguments."""
    layers = next((each.layers for each in values if isinstance(each, Cache)), ())
    return [(each.keys, each.values) for each in layers if getattr(each, "keys", None) is not None]


@contextmanager
def recording(model: Any, done: Callable[[Forward], None], keep: Keep = lambda tensor: tensor) -> Iterator[None]:
    """Calls `done` at the end of each Forward; `keep` may put a tensor elsewhere at once."""
    recorder = _Recorder(done, keep)
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
    def __init__(self, done: Callable[[Forward], None], keep: Keep) -> None:
        self._done, self._keep = done, partial(map_tensors, change=keep)
        self._events: list[Given | Result] = []
        self._cache: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._depth = 0

    def begin(self, name: str, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._depth == 0:
            self._events, self._cache = [], self._keep(held_states((*args, *kwargs.values())))
        self._depth += 1
        self._events.append(Given(name, self._keep(args), self._keep(kwargs)))

    def end(self, name: str, _: Any, __: tuple[Any, ...], output: Any) -> None:
        self._events.append(Result(name, self._keep(output)))
        self._depth -= 1
        if self._depth == 0:
            events, self._events = self._events, []
            self._done(Forward(_kind(events[0], self._cache), events, self._cache))


def _kind(given: Given | Result, cache: list[tuple[torch.Tensor, torch.Tensor]]) -> str:
    assert isinstance(given, Given)
    if given.module == ENCODE:
        return VISION
    return PREFIX if not cache else SUFFIX if given.kwargs["input_ids"].shape[1] > 1 else DECODE
