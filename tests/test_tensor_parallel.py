"""What is refused before the weights are read, and how they are counted. The groups themselves: test_distributed.py."""

from types import SimpleNamespace

import pytest

from videobench.checkpoint import load_checkpoint
from videobench.errors import InputError
from videobench.estimate import row_bytes
from videobench.ranks import Ranks
from videobench.tensor_checks import check_tensor_parallel, weights_per_card


@pytest.fixture(scope="module")
def checkpoint(tiny_model_path):
    return load_checkpoint(tiny_model_path)


@pytest.fixture
def new_transformers(monkeypatch):
    monkeypatch.setattr("transformers.__version__", "5.0.0")


@pytest.mark.usefixtures("new_transformers")
def test_numbers_that_do_not_divide_the_heads_are_refused_with_those_that_do(checkpoint):
    check_tensor_parallel(checkpoint, 4)
    with pytest.raises(InputError, match=r"has 4 attention heads, which 3 cards cannot share; use one of 1, 2, 4$"):
        check_tensor_parallel(checkpoint, 3)


@pytest.mark.usefixtures("new_transformers")
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


@pytest.mark.parametrize("version", ["4.45.2", "4.56.1"])
def test_an_older_transformers_is_refused(checkpoint, monkeypatch, version):
    monkeypatch.setattr("transformers.__version__", version)
    check_tensor_parallel(checkpoint, 1)
    with pytest.raises(InputError, match=f"needs transformers 4.56.2 or later, found {version}; pip install"):
        check_tensor_parallel(checkpoint, 2)


def test_weights_that_each_card_holds(checkpoint):
    """The tiny model by hand: four layers of q, k, v, o (128 x 128) and gate, up, down (128 x 256), a head of
    281 x 128; the rest, 3 vision layers among it, is on every card."""
    cut_up = 4 * (4 * 128 * 128 + 3 * 128 * 256) + 281 * 128
    whole = weights_per_card(checkpoint.weights, 1)
    assert weights_per_card(checkpoint.weights, 2) == whole - cut_up // 2
    assert row_bytes(checkpoint, "float32", 100, 2) == row_bytes(checkpoint, "float32", 100) // 2


@pytest.mark.parametrize(("processes", "on_this_machine", "cards"), [(1, 1, 2), (3, 3, 2), (4, 1, 2), (8, 4, 8)])
def test_processes_that_make_no_groups_are_refused(monkeypatch, processes, on_this_machine, cards):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(on_this_machine))
    with pytest.raises(
        InputError, match=f"--tensor_parallel {cards}: {processes} processes, {on_this_machine} of them"
    ):
        Ranks.from_environment(cards)
