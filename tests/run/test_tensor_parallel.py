"""What is refused before the weights are read, how they are counted, and where a group meets. The groups themselves:
test_distributed.py."""

from types import SimpleNamespace

import pytest
from torch.distributed import HashStore

from videobench.errors import InputError, OtherProcessFailed
from videobench.jobs.job import Job
from videobench.model.checkpoint import load_checkpoint
from videobench.model.cost import row_bytes
from videobench.model.sharding import check_tensor_parallel, weights_per_card


@pytest.fixture(scope="module")
def checkpoint(tiny_model_path):
    return load_checkpoint(tiny_model_path)


def test_numbers_that_do_not_divide_the_heads_are_refused_with_those_that_do(checkpoint):
    check_tensor_parallel(checkpoint, 4)
    with pytest.raises(InputError, match=r"has 4 attention heads, which 3 cards cannot share; use one of 1, 2, 4$"):
        check_tensor_parallel(checkpoint, 3)


@pytest.mark.parametrize(
    ("heads", "key_value_heads", "intermediate", "cards", "found"),
    [
        pytest.param(56, 8, 20480, 8, None, id="34B-on-8"),
        pytest.param(32, 32, 11008, 8, None, id="7B-on-8"),
        pytest.param(
            32, 8, 14336, 16, "8 key-value heads, which 16 cards cannot share; use one of 1, 2, 4, 8$", id="32K"
        ),
    ],
)
def test_the_real_checkpoints(heads, key_value_heads, intermediate, cards, found):
    text = SimpleNamespace(
        num_attention_heads=heads, num_key_value_heads=key_value_heads, intermediate_size=intermediate
    )
    checkpoint = SimpleNamespace(path="w", config=SimpleNamespace(text_config=text))
    if found is None:
        check_tensor_parallel(checkpoint, cards)
    else:
        with pytest.raises(InputError, match=found):
            check_tensor_parallel(checkpoint, cards)


def test_weights_that_each_card_holds(checkpoint):
    """The tiny model by hand: four layers of q, k, v, o (128 x 128) and gate, up, down (128 x 256), a head of
    281 x 128; the rest, 3 vision layers among it, is on every card."""
    split = 4 * (4 * 128 * 128 + 3 * 128 * 256) + 281 * 128
    whole = weights_per_card(checkpoint.weights, 1)
    assert weights_per_card(checkpoint.weights, 2) == whole - split // 2
    assert row_bytes(checkpoint, "float32", 100, 2) == row_bytes(checkpoint, "float32", 100) // 2


@pytest.mark.parametrize(("processes", "on_this_machine", "cards"), [(1, 1, 2), (3, 3, 2), (4, 1, 2), (8, 4, 8)])
def test_processes_that_make_no_groups_are_refused(monkeypatch, processes, on_this_machine, cards):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(on_this_machine))
    with pytest.raises(
        InputError, match=f"--tensor_parallel {cards}: {processes} processes, {on_this_machine} of them"
    ):
        Job.from_environment(cards)


@pytest.fixture
def first_of_two(monkeypatch):
    """The first process of a group, whose other one has ended the job."""

    def stopped(self):
        raise OtherProcessFailed

    monkeypatch.setattr(Job, "check_others", stopped)
    return Job(0, 2, store=HashStore(), tensor_parallel=2)


def test_a_group_meets_when_all_of_it_are_there(first_of_two):
    second = Job(1, 2, store=first_of_two.store, tensor_parallel=2)
    other_group = Job(2, 4, store=first_of_two.store, tensor_parallel=2)
    for each in (second, other_group):
        with pytest.raises(OtherProcessFailed):
            each.meet_group("start")  # alone
    first_of_two.meet_group("start")
