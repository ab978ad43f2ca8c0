"""Rows of a cache with room hold and return what transformers' own cache would."""

import pytest
import torch
import transformers
from transformers import DynamicCache

from videobench.cache import copy_cache, select_rows

ROWS, HEADS, LENGTH, SIZE, LAYERS = 3, 2, 5, 4, 2


def states(rows, length, seed):
    return torch.randn(rows, HEADS, length, SIZE, generator=torch.Generator().manual_seed(seed))


def make_cache():
    cache = DynamicCache()
    for layer in range(LAYERS):
        cache.update(states(ROWS, LENGTH, layer), states(ROWS, LENGTH, layer + 10), layer)
    return cache


def both(cache, layer):
    if hasattr(cache, "layers"):
        return cache.layers[layer].keys, cache.layers[layer].values
    return cache.key_cache[layer], cache.value_cache[layer]


@pytest.mark.parametrize("rows", [[0, 1, 2], [2, 2, 2, 2], [1], [2, 0, 0]])
def test_selected_rows_grow_as_those_of_transformers(rows):
    plain, own = make_cache(), make_cache()
    plain.batch_select_indices(torch.tensor(rows))
    select_rows(own, rows, room=4)
    for added in (3, 1):
        for layer in range(LAYERS):
            new = states(len(rows), added, 20 + layer), states(len(rows), added, 30 + layer)
            expected, found = plain.update(*new, layer), own.update(*new, layer)
            assert all(torch.equal(left, right) for left, right in zip(expected, found, strict=True))
    assert own.get_seq_length() == plain.get_seq_length() == LENGTH + 4
    plain.batch_select_indices(torch.tensor([0]))
    select_rows(own, [0], room=1)
    for layer in range(LAYERS):
        assert all(torch.equal(*pair) for pair in zip(both(plain, layer), both(own, layer), strict=True))


def test_a_copy_leaves_the_cache_whole():
    cache, untouched = make_cache(), make_cache()
    copied = copy_cache(cache)
    select_rows(copied, [1, 1], room=2)
    for layer in range(LAYERS):
        copied.update(states(2, 2, 40), states(2, 2, 41), layer)
        assert all(torch.equal(*pair) for pair in zip(both(cache, layer), both(untouched, layer), strict=True))
    assert (cache.get_seq_length(), copied.get_seq_length()) == (LENGTH, LENGTH + 2)


@pytest.mark.skipif(transformers.__version__ < "4.54", reason="the cache of transformers before 4.54 has no layers")
def test_what_has_been_copied_stays_where_it_is():
    cache = make_cache()
    select_rows(cache, [0, 0], room=2)
    before = both(cache, 0)[0].data_ptr()
    cache.update(states(2, 2, 50), states(2, 2, 51), 0)
    assert both(cache, 0)[0].data_ptr() == before
    with pytest.raises(RuntimeError):
        cache.update(states(2, 1, 52), states(2, 1, 53), 0)
