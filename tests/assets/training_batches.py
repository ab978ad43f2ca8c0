"""What the small model is trained on: random clips, and rows of tokens about each of them.

Most rows are questions as Video-Bench asks them. Two other sorts teach its parts one at a time: "open" rows have no
options, their answer is the fact itself; "told" rows have no video, the text tells the fact that they ask for.
"""

import random
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from tests.assets.clip_questions import LETTERS, ClipQuestion, make_question
from tests.assets.clips import COLOR_NAMES, DIRECTIONS, FRAMES_SHOWN, SHAPE_KINDS, Clip, make_clip, render, sample_times
from tests.assets.hard_clips import HARD_KINDS, render_hard
from tests.assets.tiny_model import AFTER_QUESTION, FACT_TOLD, PAD_ID, preprocess
from videobench.data.question_text import build_question_text

CLIPS_PER_BATCH, ROWS_PER_CLIP = 24, 6
# How often a kind of question is trained, against 1 for the others: what is harder to learn more often.
KIND_WEIGHTS = {"direction": 2.5, "shape": 2, "first_shape": 2, "last_shape": 2, "background": 0.7}
MOST_OPTIONS = len(LETTERS)
STATE_CLASSES = (len(COLOR_NAMES), len(SHAPE_KINDS), len(COLOR_NAMES), 4)  # of the first numbers of frame_state
MOTIONS = [*sorted(DIRECTIONS), "none"]


@dataclass(frozen=True)
class Mix:
    """The shares of the sorts of rows, and how many of them are long."""

    open_share: float
    told_share: float
    full_prompt_share: float  # of batches with Video-Bench's whole text; the others end after the options: faster
    hard_share: float = 0  # of clips that are hard to see


@dataclass(frozen=True)
class Row:
    text: str  # of the user's turn after the video
    answer: str  # the word to be answered: "B", or in an open row "red"
    option: str  # the right option as it is written: "red", "2"
    fact: str  # "red", "two"
    sees_video: bool
    tag: str  # under which its hits are counted: "direction", "open direction", "told"


@dataclass(frozen=True)
class Batch:
    """Row r is about clip r // ROWS_PER_CLIP. Token ids are int64; C clips, R rows, T tokens, F frames."""

    pixels: torch.Tensor | None  # float32 (C, F, 3, height, width); None where every row is told
    states: torch.Tensor  # float32 (C, F, 6): frame_state of each frame
    motions: torch.Tensor  # (C, F): the clip's motion, a place in MOTIONS
    ids: torch.Tensor  # (R, T): question, "ASSISTANT:" and answer, padded on the right
    last: torch.Tensor  # (R,): the place of the prompt's last token in `ids`, just before the answer
    answers: torch.Tensor  # (R,): the token to be answered
    options: torch.Tensor  # (R,): the token of the right option
    facts: torch.Tensor  # (R,): the token of the fact
    sees_video: torch.Tensor  # bool (R,)
    tags: list[str]  # R


def make_batch(tokenizer: PreTrainedTokenizerFast, rng: random.Random, mix: Mix) -> Batch:
    clips = [make_clip(rng) for _ in range(CLIPS_PER_BATCH)]
    is_full = rng.random() < mix.full_prompt_share
    most_options = rng.randint(2, MOST_OPTIONS)
    rows = [make_row(clip, rng, mix, most_options, is_full) for clip in clips for _ in range(ROWS_PER_CLIP)]
    prompts = tokenizer([row.text + AFTER_QUESTION for row in rows], add_special_tokens=False)["input_ids"]
    words = tokenizer.convert_tokens_to_ids
    answers = torch.tensor([words(row.answer) for row in rows])
    last = torch.tensor([len(prompt) - 1 for prompt in prompts])
    ids = torch.full((len(rows), int(last.max()) + 2), PAD_ID)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(prompt)
        ids[row, len(prompt)] = answers[row]
    sees_video = torch.tensor([row.sees_video for row in rows])
    return Batch(
        pixels=preprocess_noisily(render_samples(clips, rng, mix.hard_share), rng) if sees_video.any() else None,
        states=torch.tensor([[frame_state(clip, time) for time in sample_times(clip)] for clip in clips]),
        motions=torch.tensor([[MOTIONS.index(clip.facts.get("direction", "none"))] * FRAMES_SHOWN for clip in clips]),
        ids=ids,
        last=last,
        answers=answers,
        options=torch.tensor([words(row.option) for row in rows]),
        facts=torch.tensor([words(row.fact) for row in rows]),
        sees_video=sees_video,
        tags=[row.tag for row in rows],
    )


def make_row(clip: Clip, rng: random.Random, mix: Mix, most_options: int, is_full: bool) -> Row:
    kinds = sorted(clip.facts)
    kind = rng.choices(kinds, [KIND_WEIGHTS.get(kind, 1) for kind in kinds])[0]
    digits = kind == "count" and rng.random() < 0.3
    question = make_question(clip, rng, kind, random_letters(rng, most_options), digits=digits)
    text = build_question_text(question.text, question.options)
    if not is_full:
        text = text.partition("\n")[0]
    sort = rng.random()
    if sort < mix.open_share:
        return as_row(question, question.text, answer=question.fact, tag=f"open {kind}")
    if sort < mix.open_share + mix.told_share:
        return as_row(question, FACT_TOLD.format(fact=question.fact) + text, tag="told", sees_video=False)
    return as_row(question, text, tag=kind)


def as_row(question: ClipQuestion, text: str, tag: str, answer: str = "", sees_video: bool = True) -> Row:
    option = question.options[question.answer]
    return Row(text, answer or question.answer, option, question.fact, sees_video, tag)


def random_letters(rng: random.Random, most: int) -> str:
    """2 to `most` letters, at times only 1, and at times with gaps: questions of Video-Bench with null options."""
    count = 1 if rng.random() < 0.02 else rng.randint(2, most)
    if rng.random() < 0.15:
        return "".join(sorted(rng.sample(LETTERS, count)))
    return LETTERS[:count]


def make_loose_frames(rng: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
    """As many frames as a batch has, each of a clip of its own: `pixels` and `states` as in Batch."""
    clips = [make_clip(rng) for _ in range(CLIPS_PER_BATCH * FRAMES_SHOWN)]
    times = [rng.random() for _ in clips]
    frames = np.concatenate([render(clip, [time]) for clip, time in zip(clips, times, strict=True)])
    states = torch.tensor([frame_state(clip, time) for clip, time in zip(clips, times, strict=True)])
    pixels = preprocess_noisily(frames.reshape(CLIPS_PER_BATCH, FRAMES_SHOWN, *frames.shape[1:]), rng)
    return pixels, states.reshape(CLIPS_PER_BATCH, FRAMES_SHOWN, -1)


def render_samples(clips: list[Clip], rng: random.Random, hard_share: float = 0) -> np.ndarray:
    """The frames that a model is shown: uint8 (clips, FRAMES_SHOWN, SIDE, SIDE, 3). Some clips are made hard."""
    frames = np.stack([render(clip, sample_times(clip)) for clip in clips])
    for index in rng.sample(range(len(clips)), round(hard_share * len(clips))):
        frames[index] = render_hard(clips[index], sample_times, rng.choice(HARD_KINDS), rng)
    return frames


def preprocess_noisily(frames: np.ndarray, rng: random.Random) -> torch.Tensor:
    """As `preprocess`, with a noise that stands for that of a video codec."""
    noise = np.random.default_rng(rng.getrandbits(32)).standard_normal((*frames.shape[:-1], 1), dtype=np.float32)
    return preprocess((frames + np.float32(rng.uniform(0, 6)) * noise).clip(0, 255))


def frame_state(clip: Clip, time: float) -> tuple[float, ...]:
    """Color, kind, background and number of the shapes in a frame as class numbers, then x and y of their centre."""
    shapes = [shape for shape in clip.shapes if shape.is_visible(time)]
    x, y = np.mean([shape.centre(time) for shape in shapes], axis=0)
    color, kind = COLOR_NAMES.index(shapes[0].color_at(time)), SHAPE_KINDS.index(shapes[0].kind)
    return color, kind, COLOR_NAMES.index(clip.background), len(shapes) - 1, 6 * x - 3, 6 * y - 3
