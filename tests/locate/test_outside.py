"""What no module computes: by hand, on tensors of the host."""

from types import SimpleNamespace

import pytest
import torch

from videobench.locate.operators import COPIES, POSITIONS, TOKENS
from videobench.locate.outside import OutsideCheck
from videobench.locate.recording import DECODE, SUFFIX, Forward, Given, Result, Rows

SIDES = torch.randn(2, 2, 5, 4, generator=torch.Generator().manual_seed(0))  # keys or values


@pytest.fixture
def check():
    return OutsideCheck(SimpleNamespace(), [torch.zeros(1, 3, 4, 4)], Rows((0, 1), 2, (0,), 1, (0, 0)))


def forward(kind, ids, cache=None, logits=((0.0, 1.0), (0.0, 1.0)), **kwargs):
    """A pass that is given `ids`, the last of each row, and that results in these logits of a vocabulary of two."""
    given = Given(0, "", 0, (), {"input_ids": torch.tensor(ids)[:, None], **kwargs})
    result = Result(1, "", SimpleNamespace(logits=torch.tensor(logits)[:, None]))
    return Forward(kind, 0, [given, result], cache or {})


def deviating(check, *forwards):
    return [each.name for one in forwards for each in check.of(one) if each.deviation.deviates]


@pytest.mark.parametrize(
    ("logits", "ids", "found"),
    [
        pytest.param([[0.0, 1.0], [2.0, 1.0]], [1, 0], [], id="the-best"),
        pytest.param([[0.0, 1.0], [2.0, 1.0]], [1, 1], [TOKENS], id="another"),
        pytest.param([[1.0, 1.0], [2.0, 2.0]], [0, 1], [], id="equal-logits-may-give-either"),
        pytest.param([[torch.nan, 1.0], [1.0, torch.inf]], [1, 0], [], id="nothing-is-asked-of-NaN"),
    ],
)
def test_the_next_token_is_the_best(check, logits, ids, found):
    assert deviating(check, forward(SUFFIX, [0, 0], logits=logits), forward(DECODE, ids)) == found


@pytest.mark.parametrize(
    ("positions", "wrong"),
    [
        pytest.param([[2, 3], [1, 2]], False, id="sound"),
        pytest.param([[2, 3], [9, 2]], True, id="seen"),
        pytest.param([[2, 3]], True, id="one-for-all-rows"),
    ],
)
def test_positions_count_what_is_seen(check, positions, wrong):
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 1]])
    given = forward(SUFFIX, [0, 0], position_ids=torch.tensor(positions), attention_mask=mask)
    assert deviating(check, given) == ([POSITIONS] if wrong else [])


def test_positions_of_padding_do_not_matter(check):
    mask, positions = torch.tensor([[1, 0, 1]]), torch.tensor([[0, 77, 1]])
    assert deviating(check, forward(SUFFIX, [0], position_ids=positions, attention_mask=mask)) == []


@pytest.mark.parametrize("value", [1.0, torch.nan, torch.inf])
def test_copies_are_equal_to_the_last_bit_nan_and_all(check, value):
    left = SIDES[:1].clone()
    left[0, 0, 0, 0] = value
    check._left = {0: (left, left)}
    begun = left.expand(2, -1, -1, -1).clone()
    assert deviating(check, forward(SUFFIX, [0, 0], {0: (begun, begun)})) == []
    check._left = {0: (left, left)}
    other = begun.clone()
    other[1, 1, 4, 3] += 1e-3
    assert deviating(check, forward(SUFFIX, [0, 0], {0: (begun, other)})) == [COPIES]
