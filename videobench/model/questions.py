"""What the engine is asked and what it answers: no torch is needed to name them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from videobench.model.prompts import Prompt

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class VideoQuestions:
    """One video and the questions on it, which the engine answers together."""

    pixels: "torch.Tensor"  # uint8 (num_frames, 3, height, width), on the host or on the device
    prompts: Sequence[Prompt]  # all with the same prefix
    letters: Sequence[Sequence[str]]  # of each question's options


@dataclass(frozen=True)
class Answer:
    """What the engine returns for one question."""

    token_ids: tuple[int, ...]  # generated, without what follows the end-of-sequence token
    text: str
    letter_logprobs: Mapping[str, float]  # option letter -> natural log of its probability at the first position
    is_finite: bool  # False where a logit of a generated position is NaN or infinite

    @property
    def option_mass(self) -> float:
        """Probability that the first token is one of the options' letters; near 0, the model was not choosing one."""
        return sum(math.exp(logprob) for logprob in self.letter_logprobs.values())
