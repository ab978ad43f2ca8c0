"""Keys and values of some rows of a batch, with room for the tokens to come.

The cache of transformers copies all that it holds for each token that it adds. Here a row is copied once, into a buffer
in which its question and its reply have room; batch after batch of questions on one video share the copies of it.
"""

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache, LlavaNextVideoForConditionalGeneration
from transformers.cache_utils import DynamicLayer

_NAMES = inspect.signature(LlavaNextVideoForConditionalGeneration.forward).parameters
CACHE_ARGUMENT = "cache" if "cache" in _NAMES else "past_key_values"  # of `generate`; renamed in transformers 5.24


class Prefixes:
    """The cache of some videos' prefixes, one row each, and what batches of questions on them begin with."""

    def __init__(self, cache: DynamicCache) -> None:
        self._cache: DynamicCache | None = cache
        self.length = int(cache.get_seq_length())  # tokens of each prefix
        self._copied: list[_RoomyLayer] = []  # of one video alone: the layers of an earlier batch
        self._video = -1

    def rows(self, videos: Sequence[int], room: int, is_last: bool) -> DynamicCache:
        """A cache with a row for each of `videos`, indices of prefixes, for the caller to fill with at most `room`
        tokens. It is valid until the next call.

        After the one that `is_last` there are no more: it may take the prefixes themselves."""
        assert self._cache is not None, "the last batch has been taken"
        cache = self._cache
        if is_last:
            self._cache = None
        else:  # another cache of the same tensors, for `select_rows` to change
            cache = copy.copy(cache)
            cache.layers = [copy.copy(layer) for layer in cache.layers]
        is_one = len({*videos}) == 1
        if is_one and videos[0] == self._video and all(each.has(len(videos), room) for each in self._copied):
            cache.layers = [each.begin(len(videos), self.length) for each in self._copied]
            return cache
        self._copied, self._video = [], -1  # gives its memory back first
        select_rows(cache, videos, room)
        if is_one and all(isinstance(each, _RoomyLayer) for each in cache.layers):
            self._copied, self._video = [*cache.layers], videos[0]
        return cache


def select_rows(cache: DynamicCache, rows: Sequence[int], room: int) -> None:
    """Leaves some rows in the cache, in this order, with room for `room` tokens; a row may be named more than once."""
    first, indices = rows[0], None
    is_one = all(row == first for row in rows)

    def select(states: torch.Tensor) -> torch.Tensor:
        """(rows, heads, length, size of a head)"""
        nonlocal indices
        if is_one:
            return states[first : first + 1].expand(len(rows), -1, -1, -1)
        if indices is None:  # once: each time would wait for the device
            indices = torch.tensor(rows, device=states.device)
        return states.index_select(0, indices)

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
        self._room = room
        self._buffers = [_with_room(states, room) for states in (layer.keys, layer.values)]
        self._show(length)

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_: object, **__: object) -> Any:
        """Adds them, and returns all. RuntimeError if there is no room for them."""
        begin, count = self.keys.shape[2], keys.shape[2]
        for buffer, states in zip(self._buffers, (keys, values), strict=True):
            buffer.narrow(2, begin, count).copy_(states)
        self._show(begin + count)
        return self.keys, self.values

    def has(self, rows: int, room: int) -> bool:
        """Whether `begin` can give `rows` rows with room for `room` tokens behind those of the beginning."""
        return rows <= self._buffers[0].shape[0] and room <= self._room

    def begin(self, rows: int, length: int) -> "_RoomyLayer":
        """The first rows of the same buffers, with the tokens that they began with; later ones are overwritten."""
        layer = copy.copy(self)
        layer._buffers = [buffer[:rows] for buffer in self._buffers]
        layer._show(length)
        return layer

    def _show(self, length: int) -> None:
        self.keys, self.values = (buffer[:, :, :length] for buffer in self._buffers)


def _with_room(states: torch.Tensor, room: int) -> torch.Tensor:
    rows, heads, length, size = states.shape
    buffer = states.new_empty(rows, heads, length + room, size)
    buffer[:, :, :length] = states
    return buffer
