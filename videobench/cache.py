"""Keys and values of some rows of a batch, with room for the tokens to come.

The cache of transformers copies all that it holds for each token that it adds. Here a row is copied once, into a buffer
in which its question and its reply have room.
"""

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache, LlavaNextVideoForConditionalGeneration

try:
    from transformers.cache_utils import DynamicLayer
except ImportError:  # before transformers 4.54: there the cache stays as it is
    DynamicLayer = object


_NAMES = inspect.signature(LlavaNextVideoForConditionalGeneration.forward).parameters
CACHE_ARGUMENT = "cache" if "cache" in _NAMES else "past_key_values"  # of `generate`; renamed in transformers 5.24


def copy_cache(cache: DynamicCache) -> DynamicCache:
    """Another cache of the same tensors, for `select_rows` to change."""
    copied = copy.copy(cache)
    if hasattr(cache, "layers"):
        copied.layers = [copy.copy(layer) for layer in cache.layers]
    else:
        copied.key_cache, copied.value_cache = list(cache.key_cache), list(cache.value_cache)
    return copied


def select_rows(cache: DynamicCache, rows: Sequence[int], room: int) -> None:
    """Leaves some rows in the cache, in this order; one may stand in `rows` more than once.

    At most `room` tokens are added to it afterwards."""
    first, indices = rows[0], torch.tensor(rows)
    is_one = all(row == first for row in rows)

    def select(states: torch.Tensor) -> torch.Tensor:
        """(rows, heads, length, size of a head)"""
        nonlocal indices
        if is_one:
            return states[first : first + 1].expand(len(rows), -1, -1, -1)
        indices = indices.to(states.device)  # once: each time would wait for the device
        return states.index_select(0, indices)

    if not hasattr(cache, "layers"):
        cache.key_cache[:] = map(select, cache.key_cache)
        cache.value_cache[:] = map(select, cache.value_cache)
        return
    for number, layer in enumerate(cache.layers):
        layer.keys, layer.values = select(layer.keys), select(layer.values)
        if type(layer) in (DynamicLayer, _RoomyLayer):  # and no sliding window
            cache.layers[number] = _RoomyLayer(layer, room)


class _RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values (rows, heads, length, size of a head) at the beginning of longer buffers."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, layer: Any, room: int) -> None:
        self.__dict__.update(layer.__dict__)
        length = layer.keys.shape[2]
        self._buffers = [_with_room(states, room) for states in (layer.keys, layer.values)]
        self._show(length)

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_: object, **__: object) -> Any:
        """Adds them, and returns all. RuntimeError where there is no room for them."""
        begin, count = self.keys.shape[2], keys.shape[2]
        for buffer, states in zip(self._buffers, (keys, values), strict=True):
            buffer.narrow(2, begin, count).copy_(states)
        self._show(begin + count)
        return self.keys, self.values

    def _show(self, length: int) -> None:
        self.keys, self.values = (buffer[:, :, :length] for buffer in self._buffers)


def _with_room(states: torch.Tensor, room: int) -> torch.Tensor:
    rows, heads, length, size = states.shape
    buffer = states.new_empty(rows, heads, length + room, size)
    buffer[:, :, :length] = states
    return buffer
