"""The three known turns, where a chat template is found, and which ones cannot ask a question on a video."""

import json

import pytest

from videobench.model.checkpoint import TURNS, find_template, known_form, renderer


def make_tokenizer(*words, chat_template=None):
    """A real tokenizer of transformers that knows `words` beside `<video>`."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(["<unk>", "<video>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", chat_template=chat_template
    )


@pytest.mark.parametrize(
    ("model_type", "specials", "turn"),
    [
        ("llama", [], "USER: <video>\nQ? ASSISTANT:"),
        ("mistral", [], "[INST] <video>\nQ? [/INST]"),
        ("llama", ["<|im_start|>"], "<|im_start|>user\n<video>\nQ?<|im_end|>\n<|im_start|>assistant\n"),
    ],
)
def test_without_a_template_the_turn_is_known_by_model_and_tokenizer(model_type, specials, turn):
    assert TURNS[known_form(model_type, make_tokenizer(*specials))].format("Q?") == turn


# Written from the model cards' descriptions, in the shapes of the real files: a processor's template takes a list
# of parts, a tokenizer's takes a text.
def parts(begin, end, answer):
    return (
        "{% for message in messages %}{{ " + begin + " }}"
        "{% for part in message['content'] | selectattr('type', 'equalto', 'video') %}{{ '<video>\n' }}{% endfor %}"
        "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] }}{% endfor %}"
        "{{ '" + end + "' }}{% endfor %}{% if add_generation_prompt %}{{ '" + answer + "' }}{% endif %}"
    )


VICUNA = parts("message['role'].upper() + ': '", " ", "ASSISTANT:")
CHATML = parts("'<|im_start|>' + message['role'] + '\n'", "<|im_end|>\n", "<|im_start|>assistant\n")
TEXT = "{% for message in messages %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% endfor %}"
QUESTIONS = ["Q?", "  spaces \n", "<b> & 'quotes' \"\\ \u5b57", "What is\tshown? What is\tshown?", "{{ 1 + 1 }} {}"]


@pytest.mark.parametrize(
    ("template", "before", "after"),
    [
        pytest.param(VICUNA, "USER: <video>\n", " ASSISTANT:", id="vicuna"),
        pytest.param(TEXT, "[INST] <video>\n", " [/INST]", id="mistral"),
        pytest.param(CHATML, "<|im_start|>user\n<video>\n", "<|im_end|>\n<|im_start|>assistant\n", id="chatml"),
        pytest.param("{{ bos_token }}" + TEXT, "<s>[INST] <video>\n", " [/INST]", id="special-token"),
        pytest.param(
            "{% generation %}{% endgeneration %}" + TEXT, "[INST] <video>\n", " [/INST]", id="marked-for-training"
        ),
    ],
)
def test_a_template_leaves_the_question_as_it_is(template, before, after):
    render = renderer(template, make_tokenizer())
    assert [render(question) for question in QUESTIONS] == [f"{before}{question}{after}" for question in QUESTIONS]


def test_a_template_may_strip_the_question():
    render = renderer(TEXT.replace("message['content']", "(message['content'] | trim)"), make_tokenizer())
    assert render("  Q? \n") == "[INST] <video>\n  Q? [/INST]"  # the text begins with the video


@pytest.mark.parametrize(
    ("template", "found"),
    [
        pytest.param("a <video>", "it renders 'a <video>'", id="no-question"),
        pytest.param("<video>{{ messages[0]['content'] }}", "it renders '<video><video>", id="two-videos"),
        pytest.param("{{ messages[0]['content'] | tojson }}", r"it renders .*\\t", id="as-json"),
        pytest.param("{% if %}", "Expected an expression", id="syntax"),
        pytest.param("{{ raise_exception('no users') }}", "no users", id="its-own-error"),
        pytest.param("{{ ''.__class__.__mro__ }}", "access to attribute '__class__'", id="reaches-for-python"),
    ],
)
def test_a_template_that_cannot_hold_a_video_and_a_question_is_refused(template, found):
    with pytest.raises(ValueError, match=r"chat template cannot hold a video and a question: .*" + found):
        renderer(template, make_tokenizer())


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
