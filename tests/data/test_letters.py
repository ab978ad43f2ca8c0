"""Strict reading: what models of this family write, and which letter it means."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videobench.data.letters import read_letter

GARDEN = {"A": "Grass", "B": "Trees", "C": "Flowers", "D": "Shrubs"}


def case(reply, letter, id):
    return pytest.param(reply, letter, id=id)


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        case("B", "B", "bare-letter"),
        case("B.", "B", "with-stop"),
        case("B. Trees", "B", "with-text"),
        case(" B. Trees", "B", "leading-space"),
        case("B.Trees", "B", "as-the-prompt-writes-it"),
        case("[B]", "B", "square-brackets"),
        case("B) Trees", "B", "one-bracket"),
        case("B - Trees", "B", "dash"),
        case("B Trees", "B", "own-text-without-punctuation"),
        case("Trees (B)", "B", "letter-behind-its-text"),
        case("Option B", "B", "option"),
        case("Answer: B", "B", "answer-colon"),
        case("The correct answer is: (B) Trees.", "B", "correct-answer-in-brackets"),
        case("Based on the video, the answer is D.", "D", "at-the-end"),
        case("The option closest to the correct answer is: B", "B", "echo-of-the-prompt"),
        case("Option A is incorrect, the answer is B", "B", "other-option-refused"),
        case("B because it is green", "B", "reason"),
        case("B is the correct answer", "B", "letter-first"),
        case("B. Trees\n\nThe video shows trees behind the yard.", "B", "explanation"),
        case("D. The A. is", "D", "later-letter-is-text"),
        case("**B**", "B", "bold"),
        case("\\boxed{B}", "B", "boxed"),
        case('"B"', "B", "quoted"),
        case("（B）", "B", "full-width-brackets"),
        case("正确答案是B。", "B", "chinese-stop"),
        case("B、Trees", "B", "chinese-comma"),
        case("B</s>", "B", "end-token"),
        case("<|im_start|>assistant\nB<|im_end|>", "B", "chat-tokens"),
        case("ASSISTANT: B", "B", "role-name"),
        case("b", "B", "lower-case-alone"),
        case("b. trees", "B", "lower-case-label"),
        case("Trees", "B", "option-text"),
        case("The answer is Trees", "B", "option-text-behind-preamble"),
        case("Trees. They stand behind the yard.", "B", "option-text-as-a-sentence"),
        case("", None, "empty"),
        case("Cat", None, "word-with-a-letter"),
        case("A man is cooking", None, "article-is-no-letter"),
        case("The answer is Black", None, "prefix-of-a-word"),
        case("The answer is a cat", None, "article-behind-preamble"),
        case("The answer is C major", None, "name-of-a-key"),
        case("Vitamin C", None, "letter-inside-a-name"),
        case("A.M.", None, "abbreviation"),
        case("F", None, "letter-that-is-no-option"),
        case("E. None of the above", None, "label-that-is-no-option"),
        case("The answer is not B", None, "negation"),
        case("A or B", None, "two-letters"),
        case("(A) or (B)", None, "two-letters-in-brackets"),
        case("A - B", None, "range"),
        case("The answer is (A) or (B).", None, "undecided-in-brackets"),
        case("B - and so on", "B", "dash-and-a-word"),
        case("B - A, C and D are wrong", "B", "dash-and-a-reason"),
        case("Both A and B", None, "both"),
        case("Answer: A\nAnswer: B", None, "two-answers"),
        case("B. The answer is C", None, "label-against-statement"),
        case("B. Flowers", None, "letter-against-text"),
        case("A. Grass\nB. Trees\nC. Flowers\nD. Shrubs", None, "options-repeated"),
        case("Trees. Grass.", None, "two-option-texts"),
    ],
)
def test_strict_reading(reply, letter):
    assert read_letter(reply, GARDEN) == letter


NONE_NAMED = (
    "A: Not supported by the video. B: Supported by the video.",
    "A: No\nB: Yes\nC: No\nD: No",
    "(A) is not right; (B) is.",
    "(A) Grass is not right; (B) Trees is.",
    "A is the wrong answer. B is the right one.",
    "A is the man on the left; B is the woman.",
    "A. Grass is not visible. B. Trees are visible.",
    "A. Wait, that's wrong. It should be B.",
    "A. No, wait, B.",
    "A. Actually, (B).",
    "A. There is no grass. B. There are trees. The answer is A or B.",
    "A: Not supported. B: Supported. The answer is not A.",
    "Option A: There is no grass.\nOption B: There are trees.",
    "**A:** Not supported\n**B:** Supported",
    "a) not supported b) supported",
    "Let's look at each. (A) Grass is not seen. (B) Trees are seen.",
    "In the video, (A) Grass can be excluded; it is not visible.",
    "A：不支持。B：支持。",
    "（A）不正确；（B）正确。",
    "A是错误的",
    "A。等等，不对，应该是B。",
    "A不对，B对",
    "选项A和选项B",
    "答案不是A",
)
B_NAMED = (
    "A: Not supported\nB: Supported\nC: Not supported\nD: Not supported\n\nThe answer is B.",
    "A) The video shows no grass. B) The video shows trees. I would choose B.",
    "A. Wait, that's wrong. The answer is B.",
    "Option A: There is no grass.\nOption B: There are trees.\nSo the answer is B.",
    "Option A is not supported. Option B is. Therefore, B is the correct answer.",
    "A：画面中没有草。\nB：画面中有树。\n所以选B。",
    "A选项错误，B选项正确，答案是B",
    "逐项分析：A. 草，未出现；B. 树，出现了。正确答案：B",
    # Others are refused beside it: B stays the answer.
    "B, not A.",
    "B, not a tree",
    "B. Trees. (A) is wrong.",
    "B. The man is near trees. (A) is not supported.",
    "(B) Trees is the answer, not (A).",
    "The answer is B. A is wrong.",
    "B. There are trees, while the grass is not visible.",
    "B. The man waits for the bus.",
    "选B，不选A",
    "B。视频中有树。",
    "正确选项：B",
    "答案应该是B。",
    "I'd go with B.",
)


@pytest.mark.parametrize(
    ("reply", "letter"), [*((each, None) for each in NONE_NAMED), *((each, "B") for each in B_NAMED)]
)
def test_a_reply_that_discusses_options_is_read_only_if_it_names_its_answer(reply, letter):
    assert read_letter(reply, GARDEN) == letter


@pytest.mark.parametrize(
    ("reply", "options", "letter"),
    [
        pytest.param("C. Not enough light", {"A": "x", "C": "It is dark"}, "C", id="an-answer-that-denies"),
        pytest.param("D. Dr. A. Smith", {"A": "John", "D": "Dr. A. Smith"}, "D", id="a-letter-in-the-own-text"),
        pytest.param("B. No", {}, "B", id="no-as-the-answer"),
        pytest.param("A. No. B. Yes.", {}, None, id="discussed-options-not-known"),
        pytest.param("F", {each: f"{each}{each}" for each in "ABCDEF"}, "F", id="six-options"),
        pytest.param("F", {}, "F", id="options-not-known"),
        pytest.param("The answer is Black", {"A": "White", "B": "Black"}, "B", id="text-of-an-option"),
        pytest.param("A man is cooking", {"A": "a dog", "B": "a man is cooking"}, "B", id="text-that-begins-with-A"),
        pytest.param("E", {"A": "W", "B": "E", "C": "D", "D": "R"}, "B", id="text-is-a-letter-that-is-no-option"),
        pytest.param("D", {"A": "W", "B": "E", "C": "D", "D": "R"}, "D", id="letter-before-text"),
        pytest.param("B.o.B", {"A": "B.o.B", "B": "DJ Frank E"}, "A", id="name-that-looks-like-a-label"),
        pytest.param("A dog", {"A": "dog", "B": "a dog"}, None, id="letter-and-text-disagree"),
        pytest.param("Yes", {"B": "Yes", "C": "No"}, "B", id="letters-with-gaps"),
        pytest.param("A", {"B": "Yes", "C": "No"}, None, id="letter-of-a-null-option"),
        pytest.param("red", {"A": "red", "B": "Red"}, None, id="two-options-of-equal-text"),
        pytest.param("A. red", {"A": "red", "B": "Red"}, "A", id="equal-texts-distinguished-by-the-letter"),
        pytest.param("3", {"A": "2", "B": "3"}, "B", id="number"),
        pytest.param("The answer is Dr . Cooper.", {"A": "Cooper", "B": "Dr . Cooper"}, "B", id="stop-within-a-text"),
        pytest.param("White. The answer is Dr . No.", {"A": "White", "B": "Dr . No"}, None, id="text-before-another"),
    ],
)
def test_strict_reading_of_special_options(reply, options, letter):
    assert read_letter(reply, options) == letter


@given(st.text(max_size=60), st.sampled_from([GARDEN, {}, {"B": "Yes", "C": "No"}]))
def test_reading_gives_an_option_or_nothing(reply, options):
    assert read_letter(reply, options) in [None, *(options or "ABCDEF")]


BEFORE_A_LETTER = ("answer", "option", "choice", "response", "letter")
WORDS = st.text(string.ascii_lowercase, min_size=1, max_size=9)


@given(st.lists(WORDS, min_size=2, max_size=9).filter(lambda words: words[0] not in BEFORE_A_LETTER).map(" ".join))
def test_lower_case_prose_is_never_a_letter(reply):
    assert read_letter(f"zz {reply} zz", {"A": "x1", "B": "x2"}) is None


OPTIONS = {"A": "a cat", "B": "a dog"}


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        pytest.param("x" + " " * 50_000 + "(A", None, id="spaces"),
        pytest.param("x" + " \n" * 50_000 + "(A)", None, id="lines"),
        pytest.param("(" * 100_000 + "A", "A", id="brackets"),
        pytest.param("answer: A " * 20_000, "A", id="statements"),
        pytest.param("the answer is " * 20_000 + "B", "B", id="nouns"),
        pytest.param("*" * 100_000 + "B", "B", id="markup"),
        pytest.param("B" + " because" * 20_000, "B", id="reasons"),
        pytest.param("Let me think. " * 2_000 + "The answer is B.", "B", id="letter-at-the-end"),
        pytest.param("A. " + "It is so. " * 2_000 + "The answer is B.", None, id="another-letter-at-the-end"),
    ],
)
def test_long_replies_are_read_in_linear_time(reply, letter):
    """Each of these takes hundredths of a second; if the time were quadratic, a minute and more."""
    assert read_letter(reply, OPTIONS) == letter
