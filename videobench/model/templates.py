"""Chat templates: the text of a user's turn, from a question to where the reply begins.

transformers renders a checkpoint's template, in the sandbox of jinja2.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from videobench.files import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VIDEO_PLACEHOLDER = "<video>"
# Shows where the question stands. In a list that a template writes as Python or JSON its tab is a backslash and a t.
PROBE = "What is\tshown?"

# The turns of the three known text backbones, for a checkpoint that brings no template: Vicuna (7B, 7B-DPO), Mistral
# Instruct (7B-32K), ChatML (34B, 34B-DPO). Source: the model cards of the five checkpoints.
TURNS = {
    "vicuna": "USER: <video>\n{} ASSISTANT:",
    "mistral": "[INST] <video>\n{} [/INST]",
    "chatml": "<|im_start|>user\n<video>\n{}<|im_end|>\n<|im_start|>assistant\n",
}


def known_form(text_model_type: str, tokenizer: "PreTrainedTokenizerBase") -> str:
    """The name in TURNS for a text backbone: Mistral by its config, Yi by ChatML's token, else Vicuna."""
    if text_model_type == "mistral":
        return "mistral"
    return "chatml" if "<|im_start|>" in tokenizer.get_vocab() else "vicuna"


def find_template(checkpoint: Path, tokenizer: "PreTrainedTokenizerBase") -> str | None:
    """The chat template that a checkpoint brings, from any of the places where the versions of transformers put it.

    The processor's own come first: the tokenizer's may be the text backbone's, which knows nothing of videos."""
    if (path := checkpoint / "chat_template.jinja").is_file():
        return path.read_text("utf-8")
    for name in ("chat_template.json", "processor_config.json"):
        if (path := checkpoint / name).is_file():
            content = read_json(path)
            if isinstance(content, dict) and isinstance(content.get("chat_template"), str):
                return str(content["chat_template"])
    template = tokenizer.chat_template
    return template.get("default") if isinstance(template, dict) else template


def renderer(template: str, tokenizer: "PreTrainedTokenizerBase") -> Callable[[str], str]:
    """A function from a question to the turn that `template` writes around it and one video.

    Raises ValueError if the turn does not hold both, the video first."""

    apply = partial(tokenizer.apply_chat_template, chat_template=template, add_generation_prompt=True, tokenize=False)

    def of_parts(question: str) -> str:  # as the processors' templates take it
        content = [{"type": "video"}, {"type": "text", "text": question}]
        return str(apply([{"role": "user", "content": content}]))

    def of_text(question: str) -> str:  # as the tokenizers' do
        return str(apply([{"role": "user", "content": f"{VIDEO_PLACEHOLDER}\n{question}"}]))

    failures = []
    for turn in (of_parts, of_text):
        try:
            text = turn(PROBE)
        except Exception as error:  # templates raise what they like: jinja2's errors, TypeError, ...
            failures.append(str(error) or type(error).__name__)
            continue
        before, _, after = text.partition(PROBE)
        if text.count(PROBE) == 1 and before.count(VIDEO_PLACEHOLDER) == 1 and VIDEO_PLACEHOLDER not in after:
            return turn
        failures.append(f"it renders {text!r:.500}")
    raise ValueError(f"the chat template cannot hold a video and a question: {'; '.join(failures)}")
