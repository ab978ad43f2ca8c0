"""Can a model be cut up over so many cards? What is checked before its weights are read, and how they are then cut."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from videobench.errors import InputError
from videobench.model.weights import WeightFiles

if TYPE_CHECKING:
    from videobench.model.checkpoint import Checkpoint

OLDEST_TRANSFORMERS = (4, 56, 2)  # 4.49 to 4.55 fail with this model
# Weights that transformers cuts up: the text model's projections and the head; the rest is on every card.
SHARDED = re.compile(r"(?!.*vision_tower).*(\.(q|k|v|o|gate|up|down)_proj\.|lm_head\.)")


def check_tensor_parallel(checkpoint: "Checkpoint", cards: int) -> None:
    """Before the weights are read: raises InputError where they cannot be cut into so many parts."""
    import transformers

    if cards == 1:
        return
    version = tuple(int(number) for number in re.findall(r"\d+", transformers.__version__)[:3])
    if version < OLDEST_TRANSFORMERS:
        needed = ".".join(map(str, OLDEST_TRANSFORMERS))
        raise InputError(
            f"--tensor_parallel needs transformers {needed} or later, found {transformers.__version__}; "
            f'pip install "transformers>={needed}"'
        )
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
    """Numbers that each card of a group holds."""
    return sum(-(-size // cards) if SHARDED.match(name) else size for name, size in weights.sizes.items())


def cut_up() -> dict[str, Any]:
    """Arguments of from_pretrained: over all processes of torch.distributed's world. Their name has changed."""
    try:
        from transformers.distributed import DistributedConfig

        return {"distributed_config": DistributedConfig(tp_plan="auto")}
    except (ImportError, TypeError):
        return {"tp_plan": "auto"}


@contextmanager
def own_output() -> Iterator[None]:
    """transformers 4.52 to 5.0 sends what a process of a group prints to nowhere, tracebacks too."""
    streams = sys.stdout, sys.stderr
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
