"""A checkpoint's chat template -> the turn around a question.

A template is a program of whoever made the checkpoint. It is rendered once, in a process with limits, and questions are
set into what it wrote: it can neither run on nor fill the memory, and no question makes it do anything else.
`python -m videobench.model.templates` is that process.
"""

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from os import environ, pathsep
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videobench.errors import InputError
from videobench.files import read_bytes, read_json

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from transformers import PreTrainedTokenizerBase

VIDEO_PLACEHOLDER = "<video>"
MAX_TEMPLATE_BYTES = 1 << 20  # of the file; those of the five checkpoints have up to 2000
MAX_TURN_CHARACTERS = 100_000  # that a template writes; theirs write up to 100
MAX_RENDER_S = 5  # of processor time, with the start of the process
MAX_START_S = 300  # that the process may take in all, from a cold network disk
MAX_RENDER_BYTES = 1 << 30  # of address space
# White space around it shows whether a template strips what it is given, or writes it as Python or JSON would.
PROBE, MARGIN, ESCAPED_MARGIN = "What is shown?", "\t\t", r"\t\t"


@dataclass(frozen=True)
class Turn:
    """The text around a question, up to where the reply begins."""

    before: str  # with VIDEO_PLACEHOLDER once
    after: str
    strips_left: bool = False  # whether white space at the question's ends goes, as by a template's `| trim`
    strips_right: bool = False

    def around(self, question: str) -> str:
        question = question.lstrip() if self.strips_left else question
        return f"{self.before}{question.rstrip() if self.strips_right else question}{self.after}"


# The turns of the three known text backbones, for a checkpoint that brings no template: Vicuna (7B, 7B-DPO), Mistral
# Instruct (7B-32K), ChatML (34B, 34B-DPO). Source: the model cards of the five checkpoints.
TURNS = {
    "vicuna": Turn(f"USER: {VIDEO_PLACEHOLDER}\n", " ASSISTANT:"),
    "mistral": Turn(f"[INST] {VIDEO_PLACEHOLDER}\n", " [/INST]"),
    "chatml": Turn(f"<|im_start|>user\n{VIDEO_PLACEHOLDER}\n", "<|im_end|>\n<|im_start|>assistant\n"),
}


def known_form(text_model_type: str, tokenizer: "PreTrainedTokenizerBase") -> str:
    """The name in TURNS for a text backbone: Mistral by its config, Yi by ChatML's token, else Vicuna."""
    if text_model_type == "mistral":
        return "mistral"
    return "chatml" if "<|im_start|>" in tokenizer.get_vocab() else "vicuna"


def find_template(checkpoint: Path, tokenizer: "PreTrainedTokenizerBase") -> str | None:
    """The chat template that a checkpoint brings, from any of the places where the versions of transformers put it.

    The processor's own come first: the tokenizer's may be the text backbone's, which knows nothing of videos. Raises
    InputError where a file cannot be read."""
    if (path := checkpoint / "chat_template.jinja").is_file():
        try:
            return read_bytes(path, MAX_TEMPLATE_BYTES).decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not UTF-8 at byte {error.start}; get the file again") from None
    for name in ("chat_template.json", "processor_config.json"):
        if (path := checkpoint / name).is_file():
            content = read_json(path)
            if isinstance(content, dict) and isinstance(content.get("chat_template"), str):
                return str(content["chat_template"])
    template = tokenizer.chat_template
    return template.get("default") if isinstance(template, dict) else template


def read_turn(template: str, variables: Mapping[str, Any]) -> Turn:
    """The turn that a template writes around one question of a user on one video; `variables` are a tokenizer's
    special tokens, by their names.

    Raises InputError where it does not hold both, in this order, or where it takes too long or too much."""
    failures = []
    for written in _render(json.dumps({"template": template, "variables": variables}, default=str)):
        text = written.get("text", "")
        before, _, after = text.partition(PROBE)
        is_plain = text.count(PROBE) == 1 and ESCAPED_MARGIN not in text
        if is_plain and before.count(VIDEO_PLACEHOLDER) == 1 and VIDEO_PLACEHOLDER not in after:
            return Turn(
                before.removesuffix(MARGIN),
                after.removeprefix(MARGIN),
                strips_left=not before.endswith(MARGIN),
                strips_right=not after.startswith(MARGIN),
            )
        failures.append(written.get("error") or f"it renders {text!r:.500}")
    raise InputError(f"the checkpoint's chat template cannot hold a video and a question: {'; '.join(failures)}")


@lru_cache(maxsize=8)  # several runs in one process start one other process for it, not each its own
def _render(request: str) -> list[dict[str, str]]:
    """For each form of message that a template may take: {"text": what it writes} or {"error": why it does not}."""
    path = pathsep.join(filter(None, sys.path))  # as in this process: the current folder is not searched
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "videobench.model.templates"],
            input=request.encode(),
            capture_output=True,
            timeout=MAX_START_S,
            env=environ | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"},
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"the checkpoint's chat template is not rendered within {MAX_START_S} s") from None
    if ended.returncode == -signal.SIGXCPU:
        raise InputError(f"the checkpoint's chat template is not rendered within {MAX_RENDER_S} s of processor time")
    if ended.returncode:
        said = ended.stderr.decode(errors="replace").strip().rpartition("\n")[2] or f"status {ended.returncode}"
        raise InputError(f"the process that renders the checkpoint's chat template failed ({said})")
    return list(json.loads(ended.stdout))


def _render_forms(request: Mapping[str, Any]) -> list[dict[str, str]]:
    """In the process with limits. A processor's template takes a list of parts, a tokenizer's takes a text."""
    question = f"{MARGIN}{PROBE}{MARGIN}"
    parts = [{"type": "video"}, {"type": "text", "text": question}]
    written = []
    for content in (parts, f"{VIDEO_PLACEHOLDER}\n{question}"):
        text = ""
        try:
            for piece in (
                _environment()
                .from_string(request["template"])
                .generate(
                    **request["variables"],
                    messages=[{"role": "user", "content": content}],
                    tools=None,
                    documents=None,
                    add_generation_prompt=True,
                )
            ):
                text += piece
                if len(text) > MAX_TURN_CHARACTERS:
                    raise ValueError(f"it writes more than {MAX_TURN_CHARACTERS} characters")
            written.append({"text": text})
        except Exception as error:  # templates raise what they like: jinja2's errors, TypeError, ...
            written.append({"error": (str(error) or type(error).__name__)[:500]})
    return written


def _environment() -> "ImmutableSandboxedEnvironment":
    """As transformers makes it for templates (tests/model/test_templates.py), whose own import takes seconds."""
    from jinja2 import TemplateError, nodes, parser
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(Extension):
        """{% generation %}: marks the assistant's words for training."""

        tags = {"generation"}  # noqa: RUF012  # as jinja2 wants it

        def parse(self, parser: parser.Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    class PlainNamespace(Namespace):
        """Without names that Python itself looks up."""

        def __init__(*args: Any, **names: Any) -> None:
            for name in dict(*args[1:], **names):
                if str(name).startswith("_"):
                    raise TemplateError(f"a namespace with {name}")
            Namespace.__init__(*args, **names)

    def fail(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, **({"ensure_ascii": False} | options))
    environment.globals |= {
        "raise_exception": fail,
        "strftime_now": lambda form: datetime.now().strftime(form),
        "namespace": PlainNamespace,
    }
    return environment


def main() -> None:
    for limit, most in (
        (resource.RLIMIT_CPU, MAX_RENDER_S),
        (resource.RLIMIT_AS, MAX_RENDER_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(limit)[1]
        resource.setrlimit(limit, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    json.dump(_render_forms(json.load(sys.stdin)), sys.stdout)


if __name__ == "__main__":
    main()
