"""Tokens for the rows of a batch, generated in stages, so that a row that has ended can leave the batch."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache, GenerationConfig

from videobench.model.cache import CACHE_ARGUMENT, select_rows
from videobench.model.timing import Usage


@dataclass
class GeneratedRow:
    """What one row of a batch has generated so far."""

    ids: list[int] = field(default_factory=list)  # with the end-of-sequence token where it came
    is_finite: bool = True  # False where a logit of its positions is NaN or infinite
    has_ended: bool = False

    def add(self, ids: Sequence[int], finite: Sequence[bool], end_ids: Sequence[int]) -> None:
        """What the batch computes after the row's end is left out."""
        for id, is_finite in zip(ids, finite, strict=True):
            self.ids.append(id)
            self.is_finite = self.is_finite and is_finite
            if id in end_ids:
                self.has_ended = True
                return


def generate_rows(
    model: Any,
    ids: torch.Tensor,
    mask: torch.Tensor,
    cache: DynamicCache,
    max_new_tokens: int,
    end_ids: Sequence[int],
    usage: Usage,
) -> tuple[list[GeneratedRow], torch.Tensor]:
    """The rows, and the logits (rows, vocabulary) of their first position, in the model's dtype.

    `ids` and `mask` are int64 (rows, length); `cache` holds the keys and values of their first positions, for the same
    rows, has room for the rest and for `max_new_tokens`, and is used up."""
    rows = [GeneratedRow() for _ in ids]
    going = list(rows)
    first: torch.Tensor | None = None
    room = max_new_tokens
    for num_tokens in _stages(max_new_tokens):
        room -= num_tokens
        with usage.measure("suffix" if first is None else "decode"):
            output = model.generate(
                input_ids=ids,
                attention_mask=mask,
                **{CACHE_ARGUMENT: cache},
                generation_config=num_tokens_config(model, num_tokens),
            )
            finite = torch.stack([step.isfinite().all(-1) for step in output.logits], -1).tolist()
        first = output.logits[0] if first is None else first
        generated = output.sequences[:, ids.shape[1] :].tolist()
        for row, tokens, flags in zip(going, generated, finite, strict=True):
            row.add(tokens, flags, end_ids)
        left = [number for number, row in enumerate(going) if not row.has_ended]
        if not left:
            break
        if len(left) < len(going):
            select_rows(cache, left, room)
        going = [going[number] for number in left]
        ids, mask = output.sequences[left], _lengthen(mask[left], output.sequences.shape[1])
    assert first is not None
    return rows, first


def num_tokens_config(model: Any, num_tokens: int) -> GenerationConfig:
    """The model's own, for so many tokens. Given whole: from single arguments `generate` makes and checks one of its
    own, for milliseconds in which a card has nothing to do."""
    config = copy.copy(model.generation_config)
    config.max_new_tokens = num_tokens
    config.return_dict_in_generate = config.output_logits = True
    return config


def _stages(max_new_tokens: int) -> Iterator[int]:
    """Tokens to generate before rows that have ended leave: 1, 3, 4, 8, 16, ..., in all `max_new_tokens`.

    The first alone, since most replies are a letter and the end; then rarely, since leaving costs a copy of the cache.
    """
    done = 0
    while done < max_new_tokens:
        end = min({0: 1, 1: 4}.get(done, 2 * done), max_new_tokens)
        yield end - done
        done = end


def _lengthen(mask: torch.Tensor, length: int) -> torch.Tensor:
    """With ones up to `length`, for the tokens that were generated."""
    return torch.nn.functional.pad(mask, (0, length - mask.shape[1]), value=1)
