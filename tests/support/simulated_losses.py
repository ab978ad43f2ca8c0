"""Simulated pairs of runs whose true loss of accuracy is known, built fast: thousands of comparisons for a table.

The model of a model is that of simulated_runs.py: a logit for each option, higher for the right one, plus each device's
rounding noise. A loss is planted in the candidate's run, in one of several ways, its size solved for so that the
expected loss is the one asked for.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from tests.support.simulated_runs import LETTERS, Questions, all_questions
from videobench.compare import associations, pairing
from videobench.compare.associations import Subgroup
from videobench.compare.divergence import Diagnosis, coarser_dtype, diagnose, measure
from videobench.compare.pairing import Answers, Pair, Side
from videobench.compare.scoring import LEVEL_OF, RIGHT, UNREADABLE, WRONG
from videobench.compare.settings import SIDES, Margin
from videobench.compare.verdict import Verdict, judge, weigh
from videobench.data.rows import build_reply

ACCURACY_LEAD, SPREAD = 1.5, 2.0  # nats: of the right option's logit, and of all logits: a model of 46 %
LONG_PROMPT = 1345  # tokens; three prompts in ten are longer
LARGE_SET, SMALL_SET, OTHER_SET = "SQA3D", "NBA", "MSVD"  # 12, 4 and 12 % of all questions
BFLOAT16_NOISE = 0.05  # nats; below it a run says that it is float16
OUTSIDE = 0.01  # nats: a little probability lies outside the options
LOSSES = {
    "shift": "the right option a little less likely everywhere",
    "letter": "one letter preferred",
    "corrupted": "some questions answered at random, confidently",
    "unreadable": "some replies unreadable",
    "videos": "all questions on some videos answered at random",
    "one set": "the right option less likely in one set of 12 %",
    "small set": "the right option less likely in one set of 4 %",
    "long prompts": "noise in the longest prompts, three in ten",
    "noise": "noise in all answers",
    "unsure": "noise only where the model is unsure",
    "tiny leads": "only right answers of the smallest lead overturned (contrived)",
}
PROPORTIONS = ("corrupted", "unreadable", "videos")  # kinds whose size is one, and not nats
RANDOM = ("corrupted", "videos", "long prompts", "noise", "unsure")
# Beside these a loss may be "sets that cancel": one set loses `points` of its own accuracy, another gains as much.
CANCEL = "sets that cancel"
TEMPERATURE = "temperature"  # all logits times 1 - size
HEAVY = 0.8261  # with it the median of |t| at 2 degrees of freedom is that of a normal number
NOISES = ("normal", "heavy", "videos")


@dataclass(frozen=True)
class Loss:
    kind: str  # of LOSSES, or CANCEL
    points: float  # of accuracy, expected


@dataclass(frozen=True)
class World:
    """The model and the rounding noise of both devices."""

    noise: tuple[
        float, float
    ]  # nats, candidate and reference: root mean square of a logit's, or of a normal one of equal median
    scale: float = 1.0  # of all logits: 1 has a median lead of 1.7 nats
    kind: str = "normal"  # of NOISES: "heavy" has Student's t with 2 degrees of freedom, "videos" shares half by video
    quantised: float = 0.0  # nats of normal noise in the candidate besides


@dataclass(frozen=True)
class Logits:
    """(questions, 6), nan where there is no such option; and what each question is."""

    questions: Questions
    videos: np.ndarray  # numbered from 0
    right: np.ndarray  # column of the right option
    prompt_tokens: np.ndarray
    candidate: np.ndarray
    reference: np.ndarray
    unreadable: np.ndarray  # of the candidate's replies
    noise: tuple[float, float]  # nats

    def leads(self, side: str) -> np.ndarray:
        """The right option less the best wrong one; infinite where there is no other."""
        values = getattr(self, side)
        rows, wrong = np.arange(len(values)), np.where(np.isnan(values), -np.inf, values)
        wrong[rows, self.right] = -np.inf
        return np.asarray(values[rows, self.right] - wrong.max(axis=1))

    def is_right(self, side: str) -> np.ndarray:
        return (self.leads(side) > 0) & ~(self.unreadable if side == "candidate" else False)


def simulate(questions: Questions, rng: np.random.Generator, world: World, loss: Loss | None = None) -> Logits:
    size = solve_size(loss, world) if loss else 0.0
    return _simulate(questions, rng, world, loss.kind if loss else "", size)


def _simulate(questions: Questions, rng: np.random.Generator, world: World, kind: str, size: float) -> Logits:
    logits = _sound(questions, rng, world)
    _plant(logits, kind, size, rng, world.scale)
    return logits


def _sound(questions: Questions, rng: np.random.Generator, world: World) -> Logits:
    count = len(questions.number)
    logits = rng.normal(0, SPREAD, (count, len(LETTERS)))
    logits[np.arange(len(LETTERS)) >= questions.options[:, None]] = np.nan
    right = (rng.random(count) * questions.options).astype(int)
    logits[np.arange(count), right] += ACCURACY_LEAD
    logits *= world.scale
    tokens = (1152 + 60 + 25 * questions.options + rng.exponential(25, count)).astype(int)
    videos = np.unique(questions.video, return_inverse=True)[1]
    candidate, reference = (logits + _rounding(world, size, videos, rng) for size in world.noise)
    if world.quantised:
        candidate += world.quantised * rng.normal(size=candidate.shape)
    return Logits(questions, videos, right, tokens, candidate, reference, np.zeros(count, dtype=bool), world.noise)


def _rounding(world: World, size: float, videos: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    shape = len(videos), len(LETTERS)
    if world.kind == "heavy":
        return size * HEAVY * rng.standard_t(2, shape)
    if world.kind == "videos":
        shared = rng.normal(size=(int(videos.max()) + 1, len(LETTERS)))[videos]
        return size * math.sqrt(0.5) * (shared + rng.normal(size=shape))
    by_video = rng.lognormal(0, 0.3, int(videos.max()) + 1)[videos][:, None]
    by_letter = 0.2 * rng.normal(size=len(LETTERS))
    return size / math.sqrt(math.exp(2 * 0.3**2) + 0.2**2) * (by_video * rng.normal(size=shape) + by_letter)


def _plant(logits: Logits, kind: str, size: float, rng: np.random.Generator, scale: float) -> None:
    """Change the candidate's logits in place. `size` is nats or a proportion, and the loss grows with it."""
    candidate, right, videos = logits.candidate, logits.right, logits.videos
    rows = np.arange(len(candidate))
    chances = rng.random(len(candidate)) if kind in PROPORTIONS else np.zeros(0)
    random = rng.normal(size=candidate.shape) if kind in RANDOM else np.zeros(0)

    def in_set(name: str) -> np.ndarray:
        return np.asarray(logits.questions.dataset == name)

    if kind == "shift":
        candidate[rows, right] -= size
    elif kind == "letter":
        candidate[:, 1] += size
    elif kind == "corrupted":
        candidate[chances < size] = (candidate + np.nan_to_num(4 * random - candidate))[chances < size]
    elif kind == "unreadable":
        logits.unreadable[:] = chances < size
    elif kind == "videos":
        hit = rng.random(videos.max() + 1)[videos] < size
        candidate[hit] = (candidate + np.nan_to_num(SPREAD * scale * random - candidate))[hit]
    elif kind == "one set":
        candidate[rows, right] -= size * in_set(LARGE_SET)
    elif kind == "small set":
        candidate[rows, right] -= size * in_set(SMALL_SET)
    elif kind == CANCEL:
        candidate[rows, right] -= size * in_set(LARGE_SET) - size * in_set(OTHER_SET)
    elif kind == "long prompts":
        candidate += np.where(logits.prompt_tokens > LONG_PROMPT, size, 0.0)[:, None] * random
    elif kind == "noise":
        candidate += size * random
    elif kind == "unsure":
        two = np.sort(np.nan_to_num(logits.reference, nan=-np.inf), axis=1)[:, -2:]
        candidate += size * random * (two[:, 1:] - two[:, :1] < scale)
    elif kind == "tiny leads":
        lead = logits.leads("candidate")
        hit = (lead > 0) & (lead < size)
        candidate[rows, right] -= np.where(hit, lead + 0.001, 0.0)
    elif kind == TEMPERATURE:
        candidate *= 1 - size


@lru_cache
def solve_size(loss: Loss, world: World) -> float:
    """By interpolation over the whole benchmark eight times; where answers flip both ways then by a step of Newton's
    over 48 times. The loss is exact to about 0.03 points."""
    if loss.kind == TEMPERATURE:
        return loss.points
    lost = _loss_of(loss.kind, world, seed=1)
    nats = 8.0 * max(1.0, world.scale)
    low, high = (0.0, 1.0) if loss.kind in PROPORTIONS else (-nats if world.quantised else 0.0, nats)
    over, under = lost(high) - loss.points, lost(low) - loss.points
    for _ in range(20):
        middle = (low * over - high * under) / (over - under)
        off = lost(middle) - loss.points
        if abs(off) < 0.02:
            break
        if off > 0:  # the end that stays counts half, so that both ends move
            high, over, under = middle, off, under / 2
        else:
            low, under, over = middle, off, over / 2
    if loss.kind not in (*RANDOM, "letter") and not world.quantised:
        return middle
    step = max(0.2 * abs(middle), 0.005 * nats if loss.kind not in PROPORTIONS else 0.005)
    slope = (lost(middle + step) - lost(middle - step)) / (2 * step)
    found = np.mean([_loss_of(loss.kind, world, seed)(middle) for seed in range(2, 8)])
    return middle + (loss.points - float(found)) / slope


def _loss_of(kind: str, world: World, seed: int) -> Callable[[float], float]:
    """A size's loss in points. Two sound devices of one noise are equally good, so that it is measured against the
    candidate without the loss."""
    pool = Questions(*(np.tile(values, 8) for values in vars(all_questions()).values()))
    base = _sound(pool, np.random.default_rng(seed), world)
    sound = world.noise[0] == world.noise[1] and not world.quantised
    counted = pool.dataset == LARGE_SET if kind == CANCEL else np.ones(len(pool.number), dtype=bool)
    reference = 100 * float(base.is_right("candidate" if sound else "reference")[counted].mean())

    def lost(size: float) -> float:
        logits = replace(base, candidate=base.candidate.copy(), unreadable=base.unreadable.copy())
        _plant(logits, kind, size, np.random.default_rng(seed + 100), world.scale)
        return reference - 100 * float(logits.is_right("candidate")[counted].mean())

    return lost


def tabulate(logits: Logits, stores_logprobs: bool = True) -> Answers:
    """As pairing.tabulate makes of build_pairs, without the pairs."""
    scores = np.stack([_logprobs(logits, side) for side in SIDES.values()], axis=1)
    unreadable = np.stack([logits.unreadable, np.zeros(len(scores), dtype=bool)], axis=1)
    letters = np.stack([np.nanargmax(getattr(logits, side), axis=1) for side in SIDES.values()], axis=1)
    no = np.zeros(unreadable.shape, dtype=bool)
    if not stores_logprobs:
        scores = np.full(scores.shape, np.nan)
    return Answers(
        pairs=range(len(scores)),
        videos=logits.videos,
        right=logits.right,
        letters=np.where(unreadable, -1, letters),
        is_right=np.stack([logits.is_right(side) for side in SIDES.values()], axis=1),
        unreadable=unreadable,
        nonfinite=no,
        scores=scores,
        mass=np.nansum(np.exp(scores), axis=2),
        vague=no,
    )


def find_subgroups(logits: Logits) -> list[Subgroup]:
    """As associations.find_subgroups makes of build_pairs, but for their labels."""
    questions = logits.questions
    values = {
        "data set": questions.dataset,
        "npu card": questions.video % 4,
        "right letter": logits.right,
        "number of options": questions.options,
    }
    sizes = {"prompt length": logits.prompt_tokens, "video length": 100 + questions.video % 400}
    groups = [(name, each == one) for name, each in values.items() for one in np.unique(each)]
    for name, each in sizes.items():
        groups += [(name, each > cut) for cut in np.unique(np.quantile(each, (0.25, 0.5, 0.75, 0.9), method="lower"))]
    return [Subgroup(name, name, hit) for name, hit in groups if 5 <= hit.sum() <= len(hit) - 5]


def find_levels(logits: Logits) -> list[Subgroup]:
    """As associations.find_levels makes of build_pairs, but for their labels."""
    names, codes = np.unique(logits.questions.dataset, return_inverse=True)
    levels = np.array([LEVEL_OF[name] for name in names])[codes]
    return [Subgroup("level", "level", levels == level) for level in np.unique(levels)]


def _logprobs(logits: Logits, side: str) -> np.ndarray:
    values = getattr(logits, side)
    return np.asarray(values - np.log(np.nansum(np.exp(values), axis=1, keepdims=True)) - OUTSIDE)


def build_pairs(logits: Logits, stores_logprobs: bool = True) -> list[Pair]:
    """As pairing.pair_runs reads them from result files, without the files."""
    questions, pairs = logits.questions, []
    names = zip(questions.dataset.tolist(), map(str, questions.number.tolist()), strict=True)
    sides = [_sides(logits, side, stores_logprobs) for side in SIDES.values()]
    for (dataset, id), right, candidate, reference in zip(names, logits.right.tolist(), *sides, strict=True):
        pairs.append(Pair(dataset, id, LETTERS[right], candidate, reference))
    return pairs


def dtype_of(noise: float) -> str:
    return "float16" if noise < BFLOAT16_NOISE else "bfloat16"


def _sides(logits: Logits, side: str, stores_logprobs: bool) -> Iterator[Side]:
    questions, logprobs = logits.questions, _logprobs(logits, side)
    chosen, is_right = np.nanargmax(logprobs, axis=1).tolist(), logits.is_right(side).tolist()
    unreadable = logits.unreadable.tolist() if side == "candidate" else [False] * len(logprobs)
    run = {"dtype": dtype_of(logits.noise[side == "reference"]), "num_frames": 8}
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
            rank=video % 4 if side == "candidate" else 0,  # four NPUs against one GPU
        )
        yield Side(reply, text or None, UNREADABLE if not text else RIGHT if is_right[index] else WRONG)


@lru_cache
def _options(count: int) -> dict[str, str]:
    return {letter: f"option {letter}" for letter in LETTERS[:count]}


def judge_pairs(pairs: list[Pair], margin: Margin) -> tuple[Verdict, Diagnosis]:
    """As two result files are judged."""
    found, groups = pairing.tabulate(pairs), associations.find_subgroups(pairs)
    diagnosis = diagnose(found, measure(found), groups, coarser_dtype(pairs))
    return judge(weigh(found, [*groups, *associations.find_levels(pairs)], margin, diagnosis)), diagnosis
