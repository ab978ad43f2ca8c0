"""The literal text of the benchmark, and token ids equal to those of transformers' processor."""

import pytest

from videobench.data.dataset import build_question_text
from videobench.errors import InputError
from videobench.model.checkpoint import TURNS, load_checkpoint
from videobench.model.prompts import PromptBuilder

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
    for turn in (TURNS["vicuna"], "<s>" + TURNS["vicuna"]):
        builder = PromptBuilder(tiny.tokenizer, turn.format, tiny.config.video_token_index, 4)
        [prompt] = builder.build(["What is it?"])
        assert prompt.prefix_ids.count(bos) == 1
        assert prompt.prefix_ids[0] == bos


def test_all_questions_share_one_prefix(tiny):
    prompts = tiny.prompt_builder(8).build(["Which color?", "red? or blue?", "\n\n"])
    assert len({prompt.prefix_ids for prompt in prompts}) == 1
    assert len({prompt.sha256 for prompt in prompts}) == 3


def test_a_template_that_writes_something_else_before_another_video_is_refused(tiny):
    def render(question):
        return f"{len(question)} <video>\n{question}"

    builder = PromptBuilder(tiny.tokenizer, render, tiny.config.video_token_index, 4)
    with pytest.raises(InputError, match="writes a different text before the video"):
        builder.build(["one", "three"])
