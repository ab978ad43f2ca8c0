"""Rows of a cache with room hold what transformers' own cache would. Their answers: test_engine.py."""

import pytest
import torch
from transformers import DynamicCache

from videobench.model.cache import Prefixes, select_rows

ROWS, HEADS, LENGTH, SIZE, LAYERS = 3, 2, 5, 4, 2


def states(rows, length, seed):
    return torch.randn(rows, HEADS, length, SIZE, generator=torch.Generator().manual_seed(seed))


def make_cache():
    cache = DynamicCache()
    for layer in range(LAYERS):
        cache.update(states(ROWS, LENGTH, layer), states(ROWS, LENGTH, layer + 10), layer)
    return cache


# Videos of the batches of questions that follow each other, and how much room each needs.
SEQUENCES = {
    "one-video": [([1, 1, 1], 4), ([1, 1, 1], 3), ([1], 3)],
    "another-video": [([0, 0], 4), ([2, 2], 4), ([0, 0], 2)],
    "several-between": [([1, 1], 4), ([0, 2], 4), ([1, 1], 4)],
    "more-room-or-rows": [([1, 1], 2), ([1, 1], 4), ([1, 1, 1], 4)],
}


@pytest.mark.parametrize("batches", SEQUENCES.values(), ids=SEQUENCES)
@pytest.mark.parametrize("leaves", [False, True])
def test_batches_that_follow_each_other_begin_with_their_prefixes(batches, leaves):
    """Whatever an earlier one has written, and whether rows of it have left."""
    prefixes = Prefixes(make_cache())
    for number, (videos, room) in enumerate(batches):
        plain, own = make_cache(), prefixes.rows(videos, room, is_last=number == len(batches) - 1)
        plain.batch_select_indices(torch.tensor(videos))
        assert own.get_seq_length() == LENGTH
        new = states(len(videos), room, 60 + number), states(len(videos), room, 70 + number)
        for layer in range(LAYERS):
            expected, found = plain.update(*new, layer), own.update(*new, layer)
            assert all(torch.equal(left, right) for left, right in zip(expected, found, strict=True))
        if leaves:
            select_rows(own, [0], room=1)
