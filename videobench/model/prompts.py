"""Question -> prompt text -> token ids, cut after the video: the same on every device.

The question text is Video-Bench's own, to the letter; the turn around it is the checkpoint's chat template.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from videobench.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VIDEO_PLACEHOLDER = "<video>"


# One turn of the three known text backbones, for a checkpoint that brings no template: Vicuna (7B, 7B-DPO), Mistral
# Instruct (7B-32K), ChatML (34B, 34B-DPO). Source: the model cards of the five checkpoints. Jinja drops a line end that
# stands at the end of a template, so ChatML's is written as an expression.
TEMPLATES = {
    "vicuna": "USER: {{ messages[0]['content'] }} ASSISTANT:",
    "mistral": "[INST] {{ messages[0]['content'] }} [/INST]",
    "chatml": "<|im_start|>user\n{{ messages[0]['content'] }}<|im_end|>\n<|im_start|>assistant{{ '\\n' }}",
}


def known_form(text_model_type: str, tokenizer: "PreTrainedTokenizerBase") -> str:
    """The name in TEMPLATES for a text backbone: Mistral by its config, Yi by ChatML's token, else Vicuna."""
    if text_model_type == "mistral":
        return "mistral"
    return "chatml" if "<|im_start|>" in tokenizer.get_vocab() else "vicuna"


def find_template(checkpoint: Path, tokenizer: "PreTrainedTokenizerBase") -> str | None:
    """The chat template that a checkpoint brings, from any of the places where the versions of transformers put it.

    The processor's own come first: the tokenizer's may be the text backbone's, which knows nothing of videos."""
    if (path := checkpoint / "chat_template.jinja").is_file():
        return path.read_text(encoding="utf-8")
    for name in ("chat_template.json", "processor_config.json"):
        if (path := checkpoint / name).is_file():
            template = json.loads(path.read_text(encoding="utf-8")).get("chat_template")
            if isinstance(template, str):
                return template
    template = tokenizer.chat_template
    return template.get("default") if isinstance(template, dict) else template


@dataclass(frozen=True)
class Prompt:
    prefix_ids: tuple[int, ...]  # up to and with the last video token: the same for all questions on a video
    suffix_ids: tuple[int, ...]  # the rest

    def __len__(self) -> int:
        return len(self.prefix_ids) + len(self.suffix_ids)

    @property
    def sha256(self) -> str:
        """Of all token ids as little-endian int32."""
        return hashlib.sha256(np.array(self.prefix_ids + self.suffix_ids, dtype="<i4").tobytes()).hexdigest()


class PromptBuilder:
    """Turns question texts into prompts for one checkpoint.

    `num_video_tokens` is the number of places that the frames take in the text model. The result is what the
    processor of transformers gives: it repeats the placeholder in the text, this its id (test_prompts.py)."""

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        template: str | None,
        form: str,
        video_token_id: int,
        num_video_tokens: int,
    ) -> None:
        self._tokenizer = tokenizer
        self._template = template or TEMPLATES[form]
        self._video_token_id = video_token_id
        self._num_video_tokens = num_video_tokens
        self._content = self._find_content()

    def render(self, question_text: str) -> str:
        """The whole turn as text, with one placeholder for the video. Rendered in transformers' sandbox."""
        return self._render(self._content(question_text))

    def build(self, question_texts: Sequence[str]) -> list[Prompt]:
        """Raises InputError for a question that brings a video token of its own."""
        texts = [self.render(text) for text in question_texts]
        # Most templates leave the begin-of-text token to the tokenizer, some write it themselves: never have it twice.
        bos = self._tokenizer.bos_token
        adds_bos = not (bos and texts and texts[0].startswith(bos))
        if not texts:
            return []
        # Of 17,036 prompts the masks, which nobody reads, would cost a second.
        rows = self._tokenizer(
            texts, add_special_tokens=adds_bos, return_attention_mask=False, return_token_type_ids=False
        )["input_ids"]
        return [self._expand(ids, text) for ids, text in zip(rows, question_texts, strict=True)]

    def _expand(self, ids: list[int], question_text: str) -> Prompt:
        if ids.count(self._video_token_id) != 1:
            raise InputError(f"question {question_text[:80]!r} holds {VIDEO_PLACEHOLDER}, which stands for the video")
        at = ids.index(self._video_token_id)
        return Prompt(self._build_prefix(tuple(ids[:at])), tuple(ids[at + 1 :]))

    @cache  # noqa: B019  # a builder lives as long as its run; one prefix in memory serves all questions
    def _build_prefix(self, before_video: tuple[int, ...]) -> tuple[int, ...]:
        return before_video + (self._video_token_id,) * self._num_video_tokens

    def _render(self, content: Any) -> str:
        messages = [{"role": "user", "content": content}]
        rendered: str = self._tokenizer.apply_chat_template(
            messages, chat_template=self._template, add_generation_prompt=True, tokenize=False
        )
        return rendered

    def _find_content(self) -> Any:
        """The form of message that the template takes: a processor's takes a list of parts, a tokenizer's a text."""
        probe, failures = "What is shown?", []
        for content in (_as_parts, _as_text):
            try:
                rendered = self._render(content(probe))
            except Exception as error:  # templates raise what they like: jinja2's errors, TypeError, ...
                failures.append(str(error))
                continue
            if rendered.count(VIDEO_PLACEHOLDER) == 1 and 0 <= rendered.find(VIDEO_PLACEHOLDER) < rendered.find(probe):
                return content
            failures.append(f"it renders {rendered!r}")
        raise InputError(f"the checkpoint's chat template cannot hold a video and a question: {'; '.join(failures)}")


def _as_parts(text: str) -> list[dict[str, str]]:
    return [{"type": "video"}, {"type": "text", "text": text}]


def _as_text(text: str) -> str:
    return f"{VIDEO_PLACEHOLDER}\n{text}"
