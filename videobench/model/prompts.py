"""Turn questions into prompts: text, then token ids, split after the video; the same on every device.

The question text is exactly Video-Bench's; the turn around it comes from the checkpoint's chat template.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from videobench.errors import InputError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

VIDEO_PLACEHOLDER = "<video>"


@dataclass(frozen=True)
class Prompt:
    """Token ids of one question."""

    prefix_ids: tuple[int, ...]  # up to and including the last video token; the same for all questions on a video
    suffix_ids: tuple[int, ...]  # the rest

    def __len__(self) -> int:
        return len(self.prefix_ids) + len(self.suffix_ids)

    @property
    def sha256(self) -> str:
        """The hash of all token ids as little-endian int32."""
        return hashlib.sha256(np.array(self.prefix_ids + self.suffix_ids, dtype="<i4").tobytes()).hexdigest()


@dataclass(frozen=True)
class VideoQuestions:
    """One video and the questions on it, which the engine answers together."""

    pixels: "torch.Tensor"  # uint8 (num_frames, 3, height, width), on the host or on the device
    prompts: Sequence[Prompt]  # all with the same prefix
    letters: Sequence[Sequence[str]]  # of each question's options


@dataclass(frozen=True)
class Answer:
    """What the engine returns for one question."""

    token_ids: tuple[int, ...]  # generated, up to the end-of-sequence token
    text: str
    letter_logprobs: Mapping[str, float]  # option letter -> natural log of its probability at the first position
    is_finite: bool  # False if a logit of a generated token is NaN or infinite

    @property
    def option_mass(self) -> float:
        """Probability that the first token is an option's letter; near 0, the model was not choosing an option."""
        return sum(math.exp(logprob) for logprob in self.letter_logprobs.values())


@dataclass(frozen=True)
class PromptBuilder:
    """Turns question texts into prompts for one checkpoint.

    `render` writes a question's whole turn as text, with one placeholder for the video, which stands for
    `num_video_tokens` tokens in the text model. transformers' processor repeats the placeholder in the text; this class
    repeats its id, with the same result (test_prompts.py)."""

    tokenizer: "PreTrainedTokenizerBase"
    render: Callable[[str], str]
    video_token_id: int
    num_video_tokens: int

    @property
    def adds_special_tokens(self) -> bool:
        """Whether the tokenizer must add the begin-of-text token: some templates already write it."""
        bos = self.tokenizer.bos_token
        return not (bos and self.render("").startswith(bos))

    def build(self, question_texts: Sequence[str]) -> list[Prompt]:
        """Build prompts in the order of the texts, all with the same prefix. Raises InputError if a text has a video
        token."""
        texts = [self.render(text) for text in question_texts]
        if not texts:
            return []
        # Nobody reads the masks, which would take a second for 17,036 prompts.
        rows = self.tokenizer(
            texts, add_special_tokens=self.adds_special_tokens, return_attention_mask=False, return_token_type_ids=False
        )["input_ids"]
        for ids, text in zip(rows, question_texts, strict=True):
            if ids.count(self.video_token_id) != 1:
                raise InputError(
                    f"question {text[:80]!r} holds {VIDEO_PLACEHOLDER}, which marks the place of the video; reword it "
                    "in the QA file"
                )
        at = rows[0].index(self.video_token_id)
        if any(ids[: at + 1] != rows[0][: at + 1] for ids in rows):
            raise InputError("the chat template writes a different text before the video for another question")
        # One prefix in memory serves all questions.
        prefix = (*rows[0][:at], *[self.video_token_id] * self.num_video_tokens)
        return [Prompt(prefix, tuple(ids[at + 1 :])) for ids in rows]
