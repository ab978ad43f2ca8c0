"""The three known turns, and what a chat template makes of a question: as transformers renders it, but once, in a
process with limits."""

import json
import time

import pytest

from videobench.errors import InputError
from videobench.model.templates import TURNS, find_template, known_form, read_turn


def make_tokenizer(*words, chat_template=None):
    """A real tokenizer of transformers that knows `words` beside `<video>`."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(["<unk>", "<video>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", chat_template=chat_template)


@pytest.mark.parametrize(
    ("form", "turn"),
    [
        ("vicuna", "USER: <video>\nQ? ASSISTANT:"),
        ("mistral", "[INST] <video>\nQ? [/INST]"),
        ("chatml", "<|im_start|>user\n<video>\nQ?<|im_end|>\n<|im_start|>assistant\n"),
    ],
)
def test_the_known_turns(form, turn):
    assert TURNS[form].around("Q?") == turn


@pytest.mark.parametrize(
    ("model_type", "specials", "form"),
    [("mistral", [], "mistral"), ("llama", ["<|im_start|>"], "chatml"), ("llama", [], "vicuna")],
)
def test_known_forms(model_type, specials, form):
    assert known_form(model_type, make_tokenizer(*specials)) == form
    assert form in TURNS


# Written from the model cards' descriptions of each form, with the shapes that the real files have: a processor's
# template takes a list of parts, a tokenizer's takes a text.
PARTS = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'video') %}{{ '<video>\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
TEXT = "{% for message in messages %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% endfor %}"
TEMPLATES = {
    "parts": PARTS,
    "text": TEXT,
    "text-trimmed": TEXT.replace("message['content']", "(message['content'] | trim)"),
    "part-trimmed": PARTS.replace("part['text'] + ' '", "(part['text'] | trim) + ' '"),
    "special-token": "{{ bos_token }}" + TEXT,
    "marked-for-training": "{% if tools is none %}{% generation %}{% endgeneration %}{% endif %}" + TEXT,
    "namespace": "{% set seen = namespace(any=false) %}{% for each in messages %}{% set seen.any = true %}{% endfor %}"
    "{% if not seen.any %}{{ raise_exception('nobody asks') }}{% endif %}" + TEXT,
    "loop-control": "{% for number in range(9) %}{% if number == 2 %}{% break %}{% endif %}{{ number }}{% endfor %}"
    + TEXT,
    "blocks-on-lines": "  {% for message in messages %}\n    {% if true %}\n{{ message['content'] }}\n  {% endif %}\n"
    "{%- endfor %}\n",
    "json-and-date": "{{ {'a': '<é>'} | tojson }}{{ strftime_now('%Y') }}" + TEXT,
}
QUESTIONS = ["Q?", "  spaces \n", "<b> & 'quotes' \"\\ \u5b57", "What is shown? What is shown?", "{{ 1 + 1 }}"]


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_a_turn_is_what_transformers_renders(tiny_model_path, template):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path)
    turn = read_turn(template, tokenizer.special_tokens_map)
    for question in QUESTIONS:
        content = f"<video>\n{question}"
        if template.startswith(PARTS[:80]):
            content = [{"type": "video"}, {"type": "text", "text": question}]
        assert turn.around(question) == tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], chat_template=template, add_generation_prompt=True, tokenize=False
        )


@pytest.mark.parametrize(
    ("template", "found"),
    [
        pytest.param("{{ messages[0]['role'] }}", "it renders 'user'", id="neither"),
        pytest.param("a <video>", "it renders 'a <video>'", id="no-question"),
        pytest.param("<video>{{ messages[0]['content'] }}", "it renders '<video><video>", id="two-videos"),
        pytest.param("<video>{{ messages[0]['content'] | tojson }}", r"it renders .*\\t", id="as-json"),
        pytest.param("{{ messages[0]['content'] * 2 }}", "it renders", id="question-twice"),
        pytest.param("What is shown? <video>", "it renders", id="video-last"),
        pytest.param("{{ nothing.at.all }}", "'nothing' is undefined", id="undefined"),
        pytest.param("{% if %}", "Expected an expression", id="syntax"),
        pytest.param("{{ raise_exception('no users') }}", "no users", id="its-own-error"),
        pytest.param("{{ ''.__class__.__mro__ }}", "access to attribute '__class__'", id="reaches-for-python"),
        pytest.param("{{ namespace(__init__=1) }}", "a namespace with __init__", id="names-of-python"),
        pytest.param("{% for i in range(99999) %}{{ 'x' * 99 }}{% endfor %}", "more than 100000 characters", id="long"),
        pytest.param("{{ 'x' * 10 ** 11 }}", "MemoryError", id="gigabytes"),
        pytest.param("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "recursion", id="recursion"),
    ],
)
def test_a_template_that_cannot_hold_a_video_and_a_question_is_refused(template, found):
    with pytest.raises(InputError, match=r"chat template cannot hold a video and a question: .*" + found):
        read_turn(template, {})


ENDLESS = "{% for i in range(99999) %}{% for i in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize("template", [ENDLESS, "{{ 9 ** (9 ** 9) }}"])
def test_a_template_that_does_not_end_is_ended(template):
    begun = time.monotonic()
    with pytest.raises(InputError, match="is not rendered within 5 s of processor time"):
        read_turn(template, {})
    assert time.monotonic() - begun < 60


def test_a_process_that_cannot_render_is_reported(monkeypatch):
    monkeypatch.setattr("sys.path", ["/nowhere"])
    with pytest.raises(InputError, match=r"renders the checkpoint's chat template failed .*videobench"):
        read_turn(TEXT, {})


def test_a_template_is_found_wherever_it_lies(tmp_path):
    tokenizer = make_tokenizer(chat_template="in the tokenizer")
    assert find_template(tmp_path, make_tokenizer()) is None
    assert find_template(tmp_path, tokenizer) == "in the tokenizer"
    (tmp_path / "processor_config.json").write_text(json.dumps({"patch_size": 14}))
    assert find_template(tmp_path, tokenizer) == "in the tokenizer"
    (tmp_path / "processor_config.json").write_text(json.dumps({"chat_template": "in the processor"}))
    assert find_template(tmp_path, tokenizer) == "in the processor"
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "in its json"}))
    assert find_template(tmp_path, tokenizer) == "in its json"
    (tmp_path / "chat_template.jinja").write_text("in a file of its own")
    assert find_template(tmp_path, tokenizer) == "in a file of its own"
