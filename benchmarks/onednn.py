"""Linear layers on oneDNN, with which vLLM multiplies matrices on a CPU. For float32 torch takes another library, half
as fast on some processors; on the same one the two can be compared by everything else that they do."""

import torch


class OneDnnLinear(torch.nn.Module):
    """As the layer it is made of, for float32 on a CPU, without gradients."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.weight = linear.weight  # transformers asks for its dtype and device
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)
        self._bias = linear.bias

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(states, self._packed, self._bias, "none", [], "")


def use_onednn(model: torch.nn.Module) -> None:
    for module in [*model.modules()]:
        for name, child in [*module.named_children()]:
            if type(child) is torch.nn.Linear:
                setattr(module, name, OneDnnLinear(child))
