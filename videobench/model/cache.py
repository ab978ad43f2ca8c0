"""Key-value cache for the rows of a batch, with room for the tokens to come.

The cache of transformers copies its whole content for every token added. Here a row is copied once, into a buffer with
room for question and reply; all batches of questions on one video share these copies.
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


class Prefixes:
    """Cache of the prefixes of some videos, one row per video, from which batches of questions start."""

    def __init__(self, cache: DynamicCache) -> None:
        self._cache: DynamicCache | None = cache
        self.length = int(cache.get_seq_length())  # tokens of each prefix
        self._copied: list[_RoomyLayer] = []  # layers of an earlier batch whose questions were all on one video
        self._video = -1

    def rows(self, videos: Sequence[int], room: int, is_last: bool) -> DynamicCache:
        """Return a cache with one row per entry of `videos` (indices of prefixes), which the caller may extend by
        `room` tokens. It is valid until the next call.

        With `is_last`, no call may follow: the prefixes themselves may be used up."""
        assert self._cache is not None, "the last batch has been taken"
        cache = self._cache
        if is_last:
            self._cache = None
        else:  # a cache of the same tensors that `select_rows` may change
            cache = copy.copy(cache)
            cache.layers = [copy.copy(layer) for layer in cache.layers]
        is_one = len({*videos}) == 1
        if is_one and videos[0] == self._video and all(each.has(len(videos), room) for each in self._copied):
            cache.layers = [each.begin(len(videos), self.length) for each in self._copied]
            return cache
        self._copied, self._video = [], -1  # free its memory first
        select_rows(cache, videos, room)
        if is_one and all(isinstance(each, _RoomyLayer) for each in cache.layers):
            self._copied, self._video = [*cache.layers], videos[0]
        return cache


def select_rows(cache: DynamicCache, rows: Sequence[int], room: int) -> None:
    """Keep these rows of the cache, in this order, with room for `room` more tokens; rows may repeat."""
    first, indices = rows[0], None
    is_one = all(row == first for row in rows)

    def select(states: torch.Tensor) -> torch.Tensor:
        """Select from a tensor (rows, heads, length, size of a head)."""
        nonlocal indices
        if is_one:
            return states[first : first + 1].expand(len(rows), -1, -1, -1)
        if indices is None:  # only once, since it waits for the device
            indices = torch.tensor(rows, device=states.device)
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
        self._room = room
        self._buffers = [_with_room(states, room) for states in (layer.keys, layer.values)]
        self._show(length)

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_: object, **__: object) -> Any:
        """Append keys and values, and return all of them. RuntimeError if there is no room."""
        begin, count = self.keys.shape[2], keys.shape[2]
        for buffer, states in zip(self._buffers, (keys, values), strict=True):
            buffer.narrow(2, begin, count).copy_(states)
        self._show(begin + count)
        return self.keys, self.values

    def has(self, rows: int, room: int) -> bool:
        """Whether `begin` can return `rows` rows with room for `room` tokens after the prefix."""
        return rows <= self._buffers[0].shape[0] and room <= self._room

    def begin(self, rows: int, length: int) -> "_RoomyLayer":
        """Reuse the first rows of the same buffers with only their first `length` tokens; the rest is overwritten."""
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
