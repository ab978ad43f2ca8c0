"""--tensor_parallel: what is refused before the weights are read, and how they are counted. The groups themselves:
tests/jobs/test_distributed.py."""

from types import SimpleNamespace

import pytest
import torch

from videobench.errors import InputError
from videobench.jobs.job import Job
from videobench.model.checkpoint import load_checkpoint
from videobench.model.cost import check_tensor_parallel, row_bytes, weights_per_card
from videobench.run.tensor_parallel import check_group


@pytest.fixture(scope="module")
def checkpoint(tiny_model_path):
    return load_checkpoint(tiny_model_path)


@pytest.mark.parametrize(
    ("heads", "key_value_heads", "intermediate", "numbers"),
    [
        pytest.param(56, 8, 20480, "1, 2, 4, 8", id="34B"),
        pytest.param(32, 32, 11008, "1, 2, 4, 8, 16, 32", id="7B"),
        pytest.param(32, 8, 14336, "1, 2, 4, 8", id="7B-32K"),
    ],
)
def test_numbers_that_do_not_divide_the_heads_are_refused_with_those_that_do(
    heads, key_value_heads, intermediate, numbers
):
    """The real checkpoints can be split over 8 cards or more."""
    text = SimpleNamespace(
        num_attention_heads=heads, num_key_value_heads=key_value_heads, intermediate_size=intermediate
    )
    checkpoint = SimpleNamespace(path="w", config=SimpleNamespace(text_config=text))
    most = int(numbers.split()[-1])
    check_tensor_parallel(checkpoint, most)
    for refused in (3, 2 * most):
        with pytest.raises(InputError, match=f" heads, not divisible by {refused}; use one of {numbers}$"):
            check_tensor_parallel(checkpoint, refused)


def test_each_card_holds_its_part_of_the_weights_and_of_the_cache(checkpoint):
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
    found = f"--tensor_parallel {cards}: {processes} processes, {on_this_machine} of them"
    with pytest.raises(InputError, match=found):
        Job.from_environment(cards)


@pytest.mark.parametrize(
    ("part_held", "other_card", "found"),
    [
        pytest.param(0.5, torch.tensor([[1.0, 2.0]]), None, id="sound"),
        pytest.param(1.0, torch.tensor([[1.0, 2.0]]), "nothing was split", id="not-split"),
        pytest.param(0.5, torch.tensor([[1.0, 2.1]]), "cards of replica 0 disagree", id="partial-sums"),
        pytest.param(0.5, torch.tensor([[1.0, torch.nan]]), "cards of replica 0 disagree", id="nan"),
    ],
)
def test_a_split_that_does_not_work_is_refused_before_any_question(checkpoint, part_held, other_card, found):
    held = int(part_held * checkpoint.weights.in_rest)
    logits = torch.tensor([[1.0, 2.0]])
    engine = SimpleNamespace(count_held_weights=lambda: held, next_logits=lambda ids: logits)
    group = SimpleNamespace(job=SimpleNamespace(replica=0), gather=lambda own: [own, other_card])
    if found is None:
        check_group(engine, group, checkpoint)
        return
    with pytest.raises(InputError, match=f"--tensor_parallel does not work .*{found}.*; use one of the versions"):
        check_group(engine, group, checkpoint)
