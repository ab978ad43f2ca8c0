"""For a model that does not fit its card: which parts stay in the files, from where accelerate brings them, module by
module, whenever they compute."""

import copy
import logging
from typing import Any

import torch
from accelerate import infer_auto_device_map, init_empty_weights
from transformers import LlavaNextVideoForConditionalGeneration

from videobench.device.devices import Device
from videobench.errors import InputError
from videobench.model.checkpoint import Checkpoint


def offload_map(checkpoint: Checkpoint, device: Device, dtype: str, room: int) -> dict[str, str]:
    """Module -> the card, or "disk"; at most `room` bytes of weights lie on the card at once."""
    logging.getLogger("accelerate.big_modeling").setLevel(logging.ERROR)  # says that parameters are offloaded
    with init_empty_weights():
        model = LlavaNextVideoForConditionalGeneration(copy.deepcopy(checkpoint.config))
    whole = list(model._no_split_modules or ())
    numbered: dict[str, Any] = infer_auto_device_map(
        model, {0: room, "disk": 1 << 62}, no_split_module_classes=whole, dtype=getattr(torch, dtype)
    )
    if numbered.get("", 0) != 0 or next(iter(numbered.values())) != 0:  # the first weight says where inputs go
        raise InputError(f"device {device.torch_device}: no room even for parts of the model; free some of its memory")
    return {name: str(device.torch_device) if place == 0 else place for name, place in numbered.items()}


def is_offloaded(model: torch.nn.Module) -> bool:
    return any(each.is_meta for each in model.parameters())
