"""Key-value cache for the rows of a batch, with room for the tokens to come.

The cache of transformers copies its whole content for every token added. Here a row is copied once, into a buffer with
room for question and reply.
"""

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache, LlavaNextVideoForConditionalGeneration
from transformers.cache_utils import DynamicLayer

_NAMES = inspect.signature(LlavaNextVideoForConditionalGeneration.forward).parameters
CACHE_ARGUMENT = "cache" if "cache" in _NAMES else "past_key_values"  # of `generate`; 5.24 renamed it


def shallow_copy(cache: DynamicCache) -> DynamicCache:
    """Return a cache of the same tensors, which `select_rows` may change without changing `cache`."""
    copied = copy.copy(cache)
    copied.layers = [copy.copy(layer) for layer in cache.layers]
    return copied


def select_rows(cache: DynamicCache, rows: Sequence[int], room: int) -> None:
    """Keep these rows of the cache, in this order, with room for `room` more tokens; rows may repeat.

    Works layer by layer, so that the memory of each layer is free before the next one is copied."""
    is_one = len(set(rows)) == 1
    indices = None if is_one else torch.tensor(rows, device=cache.layers[0].keys.device)

    def select(states: torch.Tensor) -> torch.Tensor:
        """Select from a tensor (rows, heads, length, size of a head)."""
        if indices is None:
            return states[rows[0] : rows[0] + 1].expand(len(rows), -1, -1, -1)
        return states.index_select(0, indices)

    for number, layer in enumerate(cache.layers):
        layer.keys, layer.values = select(layer.keys), select(layer.values)
        if type(layer) in (DynamicLayer, _RoomyLayer):  # not one with a sliding window
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
        """Append keys and values, and return all of them. RuntimeError if there is no room."""
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
