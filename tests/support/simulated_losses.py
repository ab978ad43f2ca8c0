"""Simulated pairs of runs whose true loss of accuracy is known, built fast: thousands of comparisons for a table.

The model of a model is that of simulated_runs.py: a logit for each option, higher for the right one, plus each device's
rounding noise, which has heavy tails, is larger on some videos and favours some letters a little. A loss is planted in
the NPU's run, in one of several ways, its size solved for so that the expected loss is the one asked for.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from tests.support.simulated_runs import LETTERS, Questions, all_questions
from videobench.compare.pairing import Pair, Side
from videobench.compare.scoring import RIGHT, UNREADABLE, WRONG
from videobench.data.replies import build_reply

ACCURACY_LEAD, SPREAD = 1.5, 2.0  # nats: of the right option's logit, and of all logits: a model of 46 %
LONG_PROMPT = 1345  # tokens; three prompts in ten are longer
ONE_SET = "SQA3D"  # 12 % of all questions
BFLOAT16_NOISE = 0.05  # nats; below it a run says that it is float16
OUTSIDE = 0.01  # nats: a little probability lies outside the options
LOSSES = {
    "shift": "the right option a little less likely everywhere",
    "corrupted": "some questions answered at random, confidently",
    "unreadable": "some replies unreadable",
    "videos": "all questions on some videos answered at random",
    "one set": "the right option less likely in one set of 12 %",
    "long prompts": "noise in the longest prompts, three in ten",
    "noise": "noise in all answers",
    "tiny leads": "only right answers of the smallest lead overturned (contrived)",
}


@dataclass(frozen=True)
class Loss:
    kind: str  # of LOSSES
    points: float  # of accuracy, expected


@dataclass(frozen=True)
class Logits:
    """(questions, 6), nan where there is no such option; and what each question is."""

    questions: Questions
    right: np.ndarray  # column of the right option
    prompt_tokens: np.ndarray
    npu: np.ndarray
    gpu: np.ndarray
    unreadable: np.ndarray  # of the NPU's replies
    noise: tuple[float, float]  # nats, NPU and GPU

    def margins(self, side: str) -> np.ndarray:
        """The right option less the best wrong one; infinite where there is no other."""
        values = getattr(self, side)
        rows, wrong = np.arange(len(values)), values.copy()
        wrong[rows, self.right] = np.nan
        return values[rows, self.right] - np.nan_to_num(wrong, nan=-np.inf).max(axis=1)

    def is_right(self, side: str) -> np.ndarray:
        return (self.margins(side) > 0) & ~(self.unreadable if side == "npu" else False)


def simulate(questions: Questions, rng: np.random.Generator, noise: tuple[float, float], loss: Loss | None) -> Logits:
    """`noise`: root mean square of a logit's rounding error, NPU and GPU, nats."""
    size = solve_size(loss, noise) if loss else 0.0
    return _simulate(questions, rng, noise, loss.kind if loss else "", size)


def _simulate(
    questions: Questions, rng: np.random.Generator, noise: tuple[float, float], kind: str, size: float
) -> Logits:
    count = len(questions.number)
    logits = rng.normal(0, SPREAD, (count, len(LETTERS)))
    logits[np.arange(len(LETTERS)) >= questions.options[:, None]] = np.nan
    right = (rng.random(count) * questions.options).astype(int)
    logits[np.arange(count), right] += ACCURACY_LEAD
    tokens = (1152 + 60 + 25 * questions.options + rng.exponential(25, count)).astype(int)
    videos = np.unique(questions.video, return_inverse=True)[1]
    by_video = rng.lognormal(0, 0.3, videos.max() + 1)[videos][:, None]
    scale = 1 / math.sqrt(5 / 3 * math.exp(2 * 0.3**2) + 0.2**2)  # the three parts' variances: 1 in all

    def rounded(values: np.ndarray, size: float) -> np.ndarray:
        by_letter = 0.2 * rng.normal(size=len(LETTERS))
        return values + size * scale * (by_video * rng.standard_t(5, values.shape) + by_letter)

    npu, gpu = rounded(logits, noise[0]), rounded(logits, noise[1])
    planted = Logits(questions, right, tokens, npu, gpu, np.zeros(count, dtype=bool), noise)
    _plant(planted, kind, size, rng, videos)
    return planted


def _plant(logits: Logits, kind: str, size: float, rng: np.random.Generator, videos: np.ndarray) -> None:
    """Change the NPU's logits in place. `size` is nats or a proportion, and the loss grows with it."""
    npu, right = logits.npu, logits.right
    count = len(npu)
    rows, chances, random = np.arange(count), rng.random(count), rng.normal(size=npu.shape)
    if kind == "shift":
        npu[rows, right] -= size
    elif kind == "corrupted":
        npu[chances < size] = (npu + np.nan_to_num(4 * random - npu))[chances < size]
    elif kind == "unreadable":
        logits.unreadable[:] = chances < size
    elif kind == "videos":
        hit = rng.random(videos.max() + 1)[videos] < size
        npu[hit] = (npu + np.nan_to_num(SPREAD * random - npu))[hit]
    elif kind == "one set":
        npu[rows, right] -= np.where(logits.questions.dataset == ONE_SET, size, 0.0)
    elif kind == "long prompts":
        npu += np.where(logits.prompt_tokens > LONG_PROMPT, size, 0.0)[:, None] * random
    elif kind == "noise":
        npu += size * random
    elif kind == "tiny leads":
        lead = logits.margins("npu")
        hit = (lead > 0) & (lead < size)
        npu[rows, right] -= np.where(hit, lead + 0.001, 0.0)


@lru_cache
def solve_size(loss: Loss, noise: tuple[float, float]) -> float:
    """By halving, over the whole benchmark 16 times: the loss is exact to about 0.03 points."""
    every = all_questions()
    pool = Questions(*(np.tile(values, 16) for values in vars(every).values()))

    def lost(size: float) -> float:
        logits = _simulate(pool, np.random.default_rng(1), noise, loss.kind, size)
        return 100 * float(logits.is_right("gpu").mean() - logits.is_right("npu").mean())

    low, high = 0.0, 8.0 if loss.kind in ("shift", "one set", "long prompts", "noise", "tiny leads") else 1.0
    for _ in range(14):
        middle = (low + high) / 2
        low, high = (middle, high) if lost(middle) < loss.points else (low, middle)
    return (low + high) / 2


def build_pairs(logits: Logits, stores_logprobs: bool = True) -> list[Pair]:
    """As pairing.pair_runs reads them from result files, without the files."""
    questions, pairs = logits.questions, []
    names = zip(questions.dataset.tolist(), map(str, questions.number.tolist()), strict=True)
    sides = [_sides(logits, side, stores_logprobs) for side in ("npu", "gpu")]
    for (dataset, id), right, npu, gpu in zip(names, logits.right.tolist(), *sides, strict=True):
        pairs.append(Pair(dataset, id, LETTERS[right], npu, gpu))
    return pairs


def _sides(logits: Logits, side: str, stores_logprobs: bool) -> Iterator[Side]:
    values, questions = getattr(logits, side), logits.questions
    logprobs = values - np.log(np.nansum(np.exp(values), axis=1, keepdims=True)) - OUTSIDE
    chosen, is_right = np.nanargmax(values, axis=1).tolist(), logits.is_right(side).tolist()
    unreadable = logits.unreadable.tolist() if side == "npu" else [False] * len(values)
    run = {"dtype": "float16" if logits.noise[side == "gpu"] < BFLOAT16_NOISE else "bfloat16", "num_frames": 8}
    first = build_reply(("", ""), "", {"output_sequence": [""], "question": "What is it?", "run": run})
    for index, video in enumerate(questions.video.tolist()):
        text = "" if unreadable[index] else LETTERS[chosen[index]]
        options = _options(int(questions.options[index]))
        reply = replace(
            first,
            dataset=str(questions.dataset[index]),
            id=str(questions.number[index]),
            text=text,
            vid_path=f"{video}.mp4",
            options=options,
            logprobs=dict(zip(options, logprobs[index].tolist(), strict=False)) if stores_logprobs else {},
            prompt_tokens=int(logits.prompt_tokens[index]),
            frames_decoded=100 + video % 400,
            rank=video % 4 if side == "npu" else 0,  # four NPUs against one GPU
        )
        yield Side(reply, text or None, UNREADABLE if not text else RIGHT if is_right[index] else WRONG)


@lru_cache
def _options(count: int) -> dict[str, str]:
    return {letter: f"option {letter}" for letter in LETTERS[:count]}
