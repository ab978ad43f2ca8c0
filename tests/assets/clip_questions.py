"""Multiple-choice questions about synthetic clips, with nothing in the text that tells the answer."""

import random
from dataclasses import dataclass

from tests.assets.clips import COLOR_NAMES, COUNTS, DIRECTIONS, SHAPE_KINDS, Clip

LETTERS = "ABCDEF"
# Each fact of a clip is a kind of question, asked in one of two ways.
WORDINGS = {
    "background": ("What is the color of the background?", "Which color is behind the shape?"),
    "change": ("Does the shape change its color?", "Is there a change of color?"),
    "color": ("What is the color of the shape?", "Which color does the shape have?"),
    "count": ("How many shapes are there in the video?", "What is the number of shapes?"),
    "direction": ("In which direction does the shape move?", "Where is the shape moving to?"),
    "first_color": ("Which color appears first?", "What is the color of the shape at the beginning?"),
    "first_shape": ("Which shape appears first?", "Which shape is shown at the beginning?"),
    "last_color": ("Which color appears last?", "What is the color of the shape at the end?"),
    "last_shape": ("Which shape appears last?", "Which shape is shown at the end?"),
    "shape": ("Which shape is shown in the video?", "What kind of shape is moving?"),
}
# Kinds whose answer is another one when the frames are shown backwards.
ORDER_KINDS = frozenset({"direction", "first_color", "first_shape", "last_color", "last_shape"})
OPPOSITES = {"up": "down", "down": "up", "left": "right", "right": "left"}
DIGITS = {word: str(number) for number, word in enumerate(COUNTS, start=1)}


@dataclass(frozen=True)
class ClipQuestion:
    kind: str  # a key of WORDINGS
    text: str  # without the options
    options: dict[str, str]  # letter -> text, letters in order, perhaps with gaps: {"B": "red", "C": "blue"}
    answer: str  # "B": a key of `options`
    fact: str  # the answer in words: "two", also where the option reads "2"


def make_question(
    clip: Clip, rng: random.Random, kind: str, letters: str, wording: int | None = None, digits: bool = False
) -> ClipQuestion:
    """A question of this kind with at most one option for each of `letters`, at random places.

    Where a kind has fewer possible answers than there are letters, the last letters go unused. `digits` writes counts
    as "2", not "two"."""
    fact = clip.facts[kind]
    texts = [fact, *tempting_distractors(clip, rng, kind)][: len(letters)]
    rng.shuffle(texts)
    letter_of = dict(zip(texts, letters, strict=False))
    options = {letter: DIGITS.get(text, text) if digits else text for text, letter in letter_of.items()}
    text = WORDINGS[kind][rng.randrange(2) if wording is None else wording]
    return ClipQuestion(kind, text, options, letter_of[fact], fact)


def tempting_distractors(clip: Clip, rng: random.Random, kind: str) -> list[str]:
    """All wrong answers of a kind, best distractors first.

    Of two things in order of time the other one comes first, and of directions the opposite: who cannot tell the order
    of the frames cannot tell these from the answer. Else colors of the same clip often come before all others."""
    fact = clip.facts[kind]
    wrong = [answer for answer in possible_answers(kind) if answer != fact]
    rng.shuffle(wrong)
    if kind == "direction":
        wrong.sort(key=lambda answer: answer != OPPOSITES[fact])
    elif kind in ORDER_KINDS:
        when, what = kind.split("_")
        twin = clip.facts[f"{'last' if when == 'first' else 'first'}_{what}"]
        wrong.sort(key=lambda answer: answer != twin)
    elif "color" in kind and rng.random() < 0.6:
        wrong.sort(key=lambda answer: answer not in clip.colors)
    return wrong


def possible_answers(kind: str) -> list[str]:
    if kind == "change":
        return ["no", "yes"]
    if kind == "count":
        return COUNTS
    if kind == "direction":
        return sorted(DIRECTIONS)
    return SHAPE_KINDS if "shape" in kind else COLOR_NAMES
