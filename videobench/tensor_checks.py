"""Can a model be cut up over so many cards, and was it done rightly? transformers may go wrong without a word."""

import re
from typing import TYPE_CHECKING

from videobench.errors import InputError
from videobench.weight_files import WeightFiles

if TYPE_CHECKING:
    import torch

    from videobench.checkpoint import Checkpoint
    from videobench.engine import Engine
    from videobench.tensor_parallel import Group

OLDEST_TRANSFORMERS = (4, 56, 2)  # 4.49 to 4.55 fail with this model
CHECK_TEXTS = ("What is the man in the video doing?", "How many people are there?")
CHECK_TOLERANCE = (
    1e-3  # of logits against the largest one: the same sums on the same cards; another prompt moves them more
)
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


def check_group(engine: "Engine", group: "Group", checkpoint: "Checkpoint") -> None:
    """Raises InputError unless the text model is cut up, the processes of a group agree on one forward pass, and what
    other groups compute at the same time does not change it."""
    import torch

    ranks = group.ranks
    members = [int(each) for each in group.gather(torch.tensor([ranks.process], device=group.device.torch_device))]
    if members != list(range(ranks.rank * group.size, (ranks.rank + 1) * group.size)):
        raise InputError(_unfit(f"group {ranks.rank} is of processes {members}"))
    held, whole = engine.count_held_weights(), checkpoint.weights.in_rest
    if held >= whole:
        raise InputError(_unfit(f"each card holds {held} of {whole} text weights: nothing was cut up"))
    first, second = (checkpoint.tokenizer(text)["input_ids"] for text in CHECK_TEXTS)
    second = [*second, *first][: len(first)]  # of one length: mixed-up groups are to give wrong numbers, not to hang
    logits = engine.next_logits(first)
    if not all(_close(each, logits) for each in group.gather(logits)):
        raise InputError(_unfit(f"the processes of group {ranks.rank} disagree on one forward pass"))
    if ranks.world_size > 1:  # while groups with an even number read one text, the others read the other
        orders = [(first, second), (second, first)]
        read = [engine.next_logits(text) for text in orders[ranks.rank % 2]]
        if not _close(read[ranks.rank % 2], logits):
            raise InputError(_unfit(f"the answers of group {ranks.rank} depend on what other groups compute"))


def _close(one: "torch.Tensor", other: "torch.Tensor") -> bool:
    return bool((one - other).abs().max() <= CHECK_TOLERANCE * other.abs().max())


def _unfit(found: str) -> str:
    import transformers

    return (
        f"--tensor_parallel does not work with transformers {transformers.__version__}: {found}; use one of the "
        "versions in the README, or --tensor_parallel 1"
    )
