"""Rows of a cache with room hold what transformers' own cache would. Their answers: test_engine.py."""

import pytest
import torch
from transformers import DynamicCache

from videobench.model.cache import select_rows, shallow_copy

ROWS, HEADS, LENGTH, SIZE, LAYERS = 3, 2, 5, 4, 2


def states(rows, length, seed):
    return torch.randn(rows, HEADS, length, SIZE, generator=torch.Generator().manual_seed(seed))


def make_cache():
    cache = DynamicCache()
    for layer in range(LAYERS):
        cache.update(states(ROWS, LENGTH, layer), states(ROWS, LENGTH, layer + 10), layer)
    return cache


# Videos of two batches of questions that follow each other.
BATCHES = {"one-video": [[1, 1, 1], [1]], "another-video": [[0, 0], [2, 2]], "several": [[1, 1], [0, 2, 2]]}


@pytest.mark.parametrize("batches", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("leaves", [False, True])
def test_batches_that_follow_each_other_begin_with_their_prefixes(batches, leaves):
    """Whatever the first one has written, and whether rows of it have left."""
    prefixes, room = make_cache(), 4
    for number, videos in enumerate(batches):
        plain, own = make_cache(), shallow_copy(prefixes)
        select_rows(own, videos, room)
        plain.batch_select_indices(torch.tensor(videos))
        assert own.get_seq_length() == LENGTH
        new = states(len(videos), room, 60 + number), states(len(videos), room, 70 + number)
        for layer in range(LAYERS):
            expected, found = plain.update(*new, layer), own.update(*new, layer)
            assert all(torch.equal(left, right) for left, right in zip(expected, found, strict=True))
        if leaves:
            select_rows(own, [0], room=1)
