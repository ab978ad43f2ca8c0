"""Can the text model be split over N cards? What is checked before the weights are read, and how they are split."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from videobench.errors import InputError
from videobench.model.checkpoint import WeightFiles

if TYPE_CHECKING:
    from videobench.model.checkpoint import Checkpoint

# Weights that transformers splits: the text model's projections and the head; every card holds all of the others.
SHARDED = re.compile(r"(?!.*vision_tower).*(\.(q|k|v|o|gate|up|down)_proj\.|lm_head\.)")


def check_tensor_parallel(checkpoint: "Checkpoint", cards: int) -> None:
    """Raises InputError where the weights cannot be split into `cards` equal parts."""
    text = checkpoint.config.text_config
    sizes = {
        "attention heads": text.num_attention_heads,
        "key-value heads": text.num_key_value_heads or text.num_attention_heads,
        "intermediate size": text.intermediate_size,
    }
    for name, size in sizes.items():
        if size % cards:
            fitting = [each for each in range(1, 65) if not any(other % each for other in sizes.values())]
            raise InputError(
                f"--tensor_parallel {cards}: {checkpoint.path} has {size} {name}, which {cards} cards cannot share; "
                f"use one of {', '.join(map(str, fitting))}"
            )


def weights_per_card(weights: WeightFiles, cards: int) -> int:
    """Numbers of weights that each card of a group holds."""
    return sum(-(-size // cards) if SHARDED.match(name) else size for name, size in weights.sizes.items())


def split_arguments() -> dict[str, Any]:
    """Split the weights over torch.distributed's world: arguments of from_pretrained, in old and new transformers."""
    try:
        from transformers.distributed import DistributedConfig

        return {"distributed_config": DistributedConfig(tp_plan="auto")}
    except (ImportError, TypeError):
        return {"tp_plan": "auto"}


@contextmanager
def kept_output() -> Iterator[None]:
    """Restores the streams: transformers up to 5.0 drops what a process of a group prints, tracebacks too."""
    streams = sys.stdout, sys.stderr
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
