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


def forward(kind, ids, best, cache=None, **kwargs):
    """A pass that is given `ids`, the last of each row, and whose largest logit is that of `best` in each row."""
    logits = torch.nn.functional.one_hot(torch.tensor(best), 9).float()[:, None]
    given = Given(0, "", 0, (), {"input_ids": torch.tensor(ids)[:, None], **kwargs})
    return Forward(kind, 0, [given, Result(1, "", SimpleNamespace(logits=logits))], cache or {})


def deviating(check, *forwards):
    return [each.name for one in forwards for each in check.of(one) if each.deviation.deviates]


@pytest.mark.parametrize(
    ("steps", "wrong"),
    [
        pytest.param([([5, 6], [7, 8]), ([7, 8], [1, 1])], False, id="the-best"),
        pytest.param([([5, 6], [7, 8]), ([7, 1], [1, 1])], True, id="another"),
    ],
)
def test_the_next_token_is_the_best(check, steps, wrong):
    kinds = [SUFFIX] + [DECODE] * (len(steps) - 1)
    found = deviating(check, *(forward(kind, *step) for kind, step in zip(kinds, steps, strict=True)))
    assert found == ([TOKENS] if wrong else [])


def test_equal_logits_may_give_either(check):
    equal = forward(SUFFIX, [5], [7])
    equal.events[-1].output.logits[0, 0, 4] = 1
    assert deviating(check, equal, forward(DECODE, [4], [1])) == []


def test_nothing_is_asked_of_nan(check):
    broken = forward(SUFFIX, [5], [7])
    broken.events[-1].output.logits[:] = torch.nan
    assert deviating(check, broken, forward(DECODE, [4], [1])) == []


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
    given = forward(SUFFIX, [5, 6], [7, 8], position_ids=torch.tensor(positions), attention_mask=mask)
    assert deviating(check, given) == ([POSITIONS] if wrong else [])


def test_positions_of_padding_do_not_matter(check):
    mask, positions = torch.tensor([[1, 0, 1]]), torch.tensor([[0, 77, 1]])
    assert deviating(check, forward(SUFFIX, [5], [7], position_ids=positions, attention_mask=mask)) == []


@pytest.mark.parametrize("value", [1.0, torch.nan, torch.inf])
def test_copies_are_equal_to_the_last_bit_nan_and_all(check, value):
    left = SIDES[:1].clone()
    left[0, 0, 0, 0] = value
    check._left = {0: (left, left)}
    begun = left.expand(2, -1, -1, -1).clone()
    assert deviating(check, forward(SUFFIX, [5, 6], [7, 8], {0: (begun, begun)})) == []
    check._left = {0: (left, left)}
    other = begun.clone()
    other[1, 1, 4, 3] += 1e-3
    assert deviating(check, forward(SUFFIX, [5, 6], [7, 8], {0: (begun, other)})) == [COPIES]
