"""Operators inside a module's call."""

import torch

from videobench.locate.operators import first_deviating, watching


class InPlace(torch.nn.Module):
    def forward(self, given):
        doubled = given * 2
        doubled[0] = 7
        return doubled.add_(given).relu_()


def test_what_is_overwritten_later_is_compared_as_it_was():
    model = torch.nn.Sequential(InPlace())
    with watching(model, "0", 0) as computed:
        model(torch.ones(4))
    assert [each.function.__name__ for each in computed] == ["mul", "__setitem__", "add_", "relu_"]
    assert first_deviating(computed) is None
