"""The literal text of the benchmark, the three turns, and token ids equal to those of transformers' processor."""

import json

import pytest

from videobench.data.question_text import build_question_text
from videobench.errors import InputError
from videobench.model.checkpoint import load_checkpoint
from videobench.model.prompts import TEMPLATES, PromptBuilder, find_template, known_form

# Whole and literal, spaces and line ends included: they are part of the benchmark.
END = (
    "Please respond with only the corresponding options and do not provide any explanations or additional information."
)
TEXTS = {
    1: "Q? A.a1 \n Among the one option A above, the one closest to the correct answer is:  " + END,
    2: "Q? A.a1 B.b2 \n Among the two options A, B above, the one closest to the correct answer is:  " + END,
    3: "Q? A.a1 B.b2 C.c3 \n Among the three options A, B, C above, the one closest to the correct answer is:  " + END,
    4: "Q? A.a1 B.b2 C.c3 D.d4 \n Among the four options A, B, C, D above, the one closest to the correct answer is: "
    + END,
    5: "Q? A.a1 B.b2 C.c3 D.d4 E.e5 \n Among the five options A, B, C, D, E above, the one closest to the correct "
    "answer is:  " + END,
    6: "Q?Choices: A.a1 B.b2 C.c3 D.d4 E.e5 F.f6 \n Among the six options A, B, C, D, E, F above, the one closest to "
    "the correct answer is: " + END,
}
OPTIONS = {"A": "a1", "B": "b2", "C": "c3", "D": "d4", "E": "e5", "F": "f6"}


@pytest.mark.parametrize("count", TEXTS)
def test_question_text_is_video_benchs_own(count):
    assert build_question_text("Q?", dict(list(OPTIONS.items())[:count])) == TEXTS[count]


def test_dropped_options_keep_their_letters():
    text = build_question_text("Q?", {"B": "Yes", "C": "No"})
    assert text.startswith("Q? B.Yes C.No \n Among the two options B, C above, the one")


def make_tokenizer(*words, chat_template=None):
    """A real tokenizer of transformers that knows `words` beside `<video>`."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(["<unk>", "<video>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", chat_template=chat_template)


# Written anew from the model cards' descriptions of each form, with the shapes that the real files have: a processor's
# template takes a list of parts, a tokenizer's takes a text.
PARTS_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'video' %}{{ '<video>\n' }}{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
TEXT_TEMPLATE = "{% for message in messages %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "form", "turn"),
    [
        pytest.param(None, "vicuna", "USER: <video>\nQ? ASSISTANT:", id="vicuna"),
        pytest.param(None, "mistral", "[INST] <video>\nQ? [/INST]", id="mistral"),
        pytest.param(None, "chatml", "<|im_start|>user\n<video>\nQ?<|im_end|>\n<|im_start|>assistant\n", id="chatml"),
        pytest.param(PARTS_TEMPLATE, "chatml", "USER: <video>\nQ? ASSISTANT:", id="processor-template-with-parts"),
        pytest.param(TEXT_TEMPLATE, "vicuna", "[INST] <video>\nQ? [/INST]", id="tokenizer-template-with-text"),
    ],
)
def test_the_question_stands_inside_the_users_turn(template, form, turn):
    assert PromptBuilder(make_tokenizer(), template, form, 1, 4).render("Q?") == turn


@pytest.mark.parametrize("template", ["{{ messages[0]['role'] }}", "{{ nothing.at.all }}", "{% if %}"])
def test_a_template_that_cannot_hold_a_video_is_refused(template):
    with pytest.raises(InputError, match="chat template cannot hold a video"):
        PromptBuilder(make_tokenizer(), template, "vicuna", 1, 4)


@pytest.mark.parametrize(
    ("model_type", "specials", "form"),
    [("mistral", [], "mistral"), ("llama", ["<|im_start|>"], "chatml"), ("llama", [], "vicuna")],
)
def test_known_forms(model_type, specials, form):
    assert known_form(model_type, make_tokenizer(*specials)) == form
    assert form in TEMPLATES


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


@pytest.fixture(scope="module")
def tiny(tiny_model_path):
    return load_checkpoint(tiny_model_path)


def test_ids_are_those_of_the_text_with_the_placeholder_repeated(tiny):
    """What LlavaNextVideoProcessor does: it expands in the text, we expand the id."""
    builder, text = tiny.prompt_builder(8), build_question_text("Which shape?", {"A": "circle", "B": "square"})
    [prompt] = builder.build([text])
    expanded = builder.render(text).replace("<video>", "<video>" * 8 * tiny.tokens_per_frame)
    assert list(prompt.prefix_ids + prompt.suffix_ids) == tiny.tokenizer(expanded)["input_ids"]
    assert prompt.prefix_ids[-1] == tiny.config.video_token_index
    assert tiny.config.video_token_index not in prompt.suffix_ids
    assert len(prompt) == len(tiny.tokenizer(expanded)["input_ids"])


def test_there_is_one_begin_of_text_token(tiny):
    bos = tiny.tokenizer.bos_token_id
    for template in (TEMPLATES["vicuna"], "<s>" + TEMPLATES["vicuna"]):
        builder = PromptBuilder(tiny.tokenizer, template, "vicuna", tiny.config.video_token_index, 4)
        [prompt] = builder.build(["What is it?"])
        assert prompt.prefix_ids.count(bos) == 1
        assert prompt.prefix_ids[0] == bos


def test_all_questions_share_one_prefix(tiny):
    prompts = tiny.prompt_builder(8).build(["Which color?", "red? or blue?", "\n\n"])
    assert len({prompt.prefix_ids for prompt in prompts}) == 1
    assert len({prompt.sha256 for prompt in prompts}) == 3


def test_a_question_with_a_video_token_of_its_own_is_refused(tiny):
    with pytest.raises(InputError, match="<video>"):
        tiny.prompt_builder(8).build(["Is <video> a video?"])
