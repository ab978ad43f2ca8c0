"""How well the small model answers about clips that it was not trained on: `train_tiny_model.py --evaluate`."""

import random
from collections import defaultdict
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlavaNextVideoForConditionalGeneration, PreTrainedTokenizerBase

from tests.assets.clip_questions import LETTERS, ORDER_KINDS, ClipQuestion, make_question
from tests.assets.clips import make_clip
from tests.assets.tiny_model import CHAT_TEMPLATE, NUM_VIDEO_TOKENS
from tests.assets.training_batches import preprocess_noisily, render_samples
from videobench.data.question_text import build_question_text

HELD_OUT_SEED = 20240  # no seed of a training run
NUM_CLIPS, QUESTIONS_PER_CLIP = 120, 4
BATCH_SIZE = 32


def evaluate(folder: Path) -> str:
    """A table: accuracy by kind of question on the right video, on another clip's and on the frames reversed."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = LlavaNextVideoForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    questions, videos = make_questions(random.Random(HELD_OUT_SEED))
    columns = {
        "right": answer(model, tokenizer, questions, videos),
        "other": answer(model, tokenizer, questions, videos.roll(QUESTIONS_PER_CLIP, dims=0)),
        "reversed": answer(model, tokenizer, questions, videos.flip(1)),
    }
    return format_table(questions, columns)


def make_questions(rng: random.Random) -> tuple[list[ClipQuestion], torch.Tensor]:
    """The questions and the video of each: float32 (questions, frames, 3, height, width)."""
    questions, videos = [], []
    for _ in range(NUM_CLIPS):
        clip = make_clip(rng)
        for kind in rng.sample(sorted(clip.facts), QUESTIONS_PER_CLIP):
            letters = LETTERS[: rng.randint(2, len(LETTERS))]
            questions.append(make_question(clip, rng, kind, letters))
        videos += [preprocess_noisily(render_samples([clip], rng), rng)] * QUESTIONS_PER_CLIP
    return questions, torch.cat(videos)


@torch.inference_mode()
def answer(
    model: LlavaNextVideoForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    questions: list[ClipQuestion],
    videos: torch.Tensor,
) -> list[str]:
    """The text that the model writes for each question, by transformers' own generate() in padded batches."""
    replies = []
    for first in range(0, len(questions), BATCH_SIZE):
        part = questions[first : first + BATCH_SIZE]
        prompts = [render_prompt(tokenizer, question) for question in part]
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False)
        ids = model.generate(
            **inputs, pixel_values_videos=videos[first : first + BATCH_SIZE], do_sample=False, max_new_tokens=4
        )
        replies += tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return replies


def render_prompt(tokenizer: PreTrainedTokenizerBase, question: ClipQuestion) -> str:
    text = build_question_text(question.text, question.options)
    content = [{"type": "video"}, {"type": "text", "text": text}]
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], chat_template=CHAT_TEMPLATE, add_generation_prompt=True, tokenize=False
    )
    return prompt.replace("<video>", "<video>" * NUM_VIDEO_TOKENS)


def format_table(questions: list[ClipQuestion], columns: dict[str, list[str]]) -> str:
    """One line for each kind of question, one for those on order and direction, and one for all."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, question in enumerate(questions):
        groups[question.kind].append(index)
    groups = dict(sorted(groups.items()))
    groups["order kinds"] = [index for index, question in enumerate(questions) if question.kind in ORDER_KINDS]
    groups["all"] = list(range(len(questions)))
    lines = ["kind          count  chance" + "".join(f"{name:>10}" for name in columns)]
    for name, members in groups.items():
        chance = sum(1 / len(questions[index].options) for index in members) / len(members)
        line = f"{name:<13} {len(members):>5} {chance:>7.3f}"
        for replies in columns.values():
            hits = sum(replies[index] == questions[index].answer for index in members)
            line += f"{hits / len(members):>10.3f}"
        lines.append(line)
    return "\n".join(lines)
