"""A checkpoint's weights for the CPU, tensor by tensor, from its files: not from the device, which may hold them
wrong."""

import re
from typing import Any

import torch
from safetensors import safe_open

from videobench.model.checkpoint import Checkpoint

# Parts of a weight's name that the versions of transformers set or leave out: `language_model.model.layers.0.` is
# `model.language_model.layers.0.` since 4.52, and 5.x leaves out `vision_model`.
PREFIXES = re.compile(r"\b(model|language_model|vision_model)\.")


class HostWeights:
    """Reads as `replay.ReadWeight` asks; the system keeps the files' pages, this process one tensor."""

    def __init__(self, checkpoint: Checkpoint, model: Any, dtype: torch.dtype) -> None:
        self._model, self._dtype = model, dtype
        self._found: dict[str, tuple[Any, str]] = {}
        for path in checkpoint.weights.paths:
            file = safe_open(path, framework="pt")
            self._found |= {PREFIXES.sub("", name): (file, name) for name in file.keys()}  # type: ignore[no-untyped-call]  # noqa: SIM118

    def __call__(self, name: str, on_device: torch.Tensor) -> torch.Tensor:
        """float32, after rounding to the run's dtype; what no file holds is computed again, or taken from the
        device."""
        found = self._found.get(PREFIXES.sub("", name))
        if found is None and name == "lm_head.weight":  # tied
            found = self._found["embed_tokens.weight"]
        if found is not None and isinstance(on_device, torch.nn.Parameter):
            file, stored = found
            return torch.nn.Parameter(file.get_tensor(stored).to(self._dtype).float(), requires_grad=False)
        module_name, _, key = name.rpartition(".")
        if key.endswith("inv_freq"):
            module = self._model.get_submodule(module_name)
            computed: torch.Tensor = getattr(type(module)(module.config), key)
            return computed.float()
        host = on_device.detach().cpu()
        return host.float() if host.is_floating_point() else host
