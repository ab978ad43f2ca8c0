"""Simulated pairs of runs with known truth: sound, with a planted fault, or with a true loss of accuracy.

Questions, options and videos are shared out as in the real Video-Bench. The model of a model: a logit for each option,
higher for the right one, plus each device's rounding noise. `simulate` makes arrays, fast enough for thousands of
comparisons; `build_rows` and `build_pairs` make of them what result files hold. The size of a loss is solved for, so
that the expected loss is the one asked for.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from videobench.compare import associations, pairing
from videobench.compare.associations import Subgroup
from videobench.compare.divergence import Diagnosis, diagnose, measure
from videobench.compare.pairing import Answers, Pair, Side
from videobench.compare.scoring import LEVEL_OF, choose_letter, judge
from videobench.compare.settings import SIDES, Margin
from videobench.compare.verdict import Verdict, weigh
from videobench.compare.verdict import judge as judge_evidence
from videobench.data.rows import Reply, build_reply

Row = dict[str, Any]

LETTERS = "ABCDEF"
# Per set: videos by number of their questions, and questions by number of their options. Counted in the QA files.
VIDEO_BENCH: dict[str, tuple[dict[int, int], dict[int, int]]] = {
    "ActivityNet": ({1: 104, 2: 206, 3: 188, 4: 119, 5: 66, 6: 19}, {1: 1, 2: 699, 3: 198, 4: 1102}),
    "MSVD": (
        {1: 58, 2: 64, 3: 91, 4: 86, 5: 72, 6: 45, 7: 34, 8: 16, 9: 9, 10: 7, 11: 2, 13: 1, 15: 1},
        {2: 89, 3: 30, 4: 1881},
    ),
    "MSRVTT": ({1: 839, 2: 362, 3: 105, 4: 23, 5: 6}, {2: 110, 3: 36, 4: 1853, 5: 1}),
    "TGIF": ({1: 1708, 2: 175, 3: 15, 4: 1}, {2: 1, 3: 54, 4: 852, 5: 1200}),
    "Youcook2": (
        {1: 2, 2: 18, 3: 71, 4: 97, 5: 105, 6: 56, 7: 31, 8: 19, 9: 8, 10: 1, 11: 1, 12: 1, 13: 2},
        {4: 2000},
    ),
    "Ucfcrime": ({1: 290}, {4: 290}),
    "MOT": ({1: 18}, {6: 18}),
    "TVQA": ({1: 4, 2: 19, 3: 56, 4: 109, 5: 126, 6: 95, 7: 22}, {5: 2000}),
    "MV": (
        {6: 1, 7: 1, 8: 10, 9: 11, 10: 48, 11: 15, 12: 10, 13: 4, 14: 1, 15: 2, 16: 4},
        {2: 1, 3: 152, 4: 963, 5: 1},
    ),
    "NBA": ({7: 98}, {2: 61, 3: 3, 4: 622}),
    "Driving-exam": ({1: 36}, {2: 17, 4: 19}),
    "Driving-decision-making": (
        {8: 2, 15: 2, 16: 5, 21: 1, 22: 1, 23: 2, 24: 8, 25: 2, 26: 2, 27: 1, 28: 1, 29: 2, 30: 1, 32: 4},
        {2: 587, 3: 37, 4: 156},
    ),
    "SQA3D": (
        {
            1: 2, 12: 1, 20: 1, 21: 1, 22: 2, 23: 3, 24: 3, 25: 7, 26: 3, 27: 5, 28: 6, 29: 7, 30: 7, 31: 3, 32: 1,
            33: 3, 35: 3, 37: 1, 38: 4, 40: 2, 44: 1, 45: 1, 46: 1, 60: 1,
        },
        {2: 1, 4: 2001},
    ),
}  # fmt: skip

# Root mean square of a logit's rounding noise, nats; measurements are cited in videobench/tolerances.py.
NOISE = {"float32": 0.001, "float16": 0.013, "bfloat16": 0.065}
FLOAT16_NOISE, BFLOAT16_NOISE = 0.002, 0.05  # nats, from which on a run says that it is of that dtype
ACCURACY_LEAD, SPREAD = 1.5, 2.0  # nats: of the right option's logit, and of all logits: a model of 46 %
OUTSIDE = 0.01  # nats: a little probability lies outside the options
LONG_PROMPT = 1345  # tokens; three prompts in ten are longer
LARGE_SET = "SQA3D"  # 12 % of all questions, as MSVD; NBA has 4 %
BROKEN_CARD = 2  # of the NPU's four
HEAVY = 0.8261  # with it the median of |t| at 2 degrees of freedom is that of a normal number
NOISES = ("normal", "heavy", "videos")
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
RANDOM = ("corrupted", "videos", "long prompts", "noise", "unsure", "frame order", "card")
# Beside these a loss may be "sets that cancel": one set loses `points` of its own accuracy, another gains as much.
CANCEL = "sets that cancel"
SETS = {"one set": {LARGE_SET: 1}, "small set": {"NBA": 1}, CANCEL: {LARGE_SET: 1, "MSVD": -1}}
TEMPERATURE = "temperature"  # all logits times 1 - size
FAULTS = ("noise", "letter", "long prompts", "frame order", "card", "mass", "overflow")


@dataclass(frozen=True)
class Questions:
    """Arrays over the questions of a sample."""

    dataset: np.ndarray  # names
    number: np.ndarray  # id within the whole benchmark
    video: np.ndarray  # number of the video
    options: np.ndarray  # 1 to 6

    def take(self, rows: np.ndarray) -> "Questions":
        return Questions(*(values[rows] for values in vars(self).values()))


@lru_cache
def all_questions() -> Questions:
    dataset, video, options, videos = [], [], [], 0
    for name, (by_size, by_options) in VIDEO_BENCH.items():
        for size, count in by_size.items():
            video += list(np.repeat(np.arange(videos, videos + count), size))
            videos += count
        counts = [options for options, count in by_options.items() for _ in range(count)]
        options += list(np.random.default_rng(0).permutation(counts))
        dataset += [name] * len(counts)
    return Questions(np.array(dataset), np.arange(len(dataset)), np.array(video), np.array(options))


def sample_questions(count: int, rng: np.random.Generator) -> Questions:
    questions = all_questions()
    return questions.take(np.sort(rng.choice(len(questions.number), count, replace=False)))


@dataclass(frozen=True)
class Loss:
    kind: str  # of LOSSES, CANCEL or TEMPERATURE
    points: float  # of accuracy, expected


@dataclass(frozen=True)
class Fault:
    kind: str  # of FAULTS
    size: float  # nats; of "overflow" tokens beyond LONG_PROMPT


@dataclass(frozen=True)
class World:
    """The model and the rounding noise of both devices."""

    noise: tuple[float, float]  # nats, candidate and reference: root mean square of a logit's, or a normal one's
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

    def take(self, rows: np.ndarray) -> "Logits":
        arrays = {name: value[rows] for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return replace(self, questions=self.questions.take(rows), **arrays)

    def leads(self, side: str) -> np.ndarray:
        """The right option less the best wrong one; infinite where there is no other."""
        values = getattr(self, side)
        rows, wrong = np.arange(len(values)), np.where(np.isnan(values), -np.inf, values)
        wrong[rows, self.right] = -np.inf
        return np.asarray(values[rows, self.right] - wrong.max(axis=1))

    def is_right(self, side: str) -> np.ndarray:
        return (self.leads(side) > 0) & ~(self.unreadable if side == "candidate" else False)

    def logprobs(self, side: str) -> np.ndarray:
        values = getattr(self, side)
        return np.asarray(values - np.log(np.nansum(np.exp(values), axis=1, keepdims=True)) - OUTSIDE)

    def dtype(self, side: str) -> str:
        noise = self.noise[side == "reference"]
        return "float32" if noise < FLOAT16_NOISE else "float16" if noise < BFLOAT16_NOISE else "bfloat16"


def simulate(questions: Questions, rng: np.random.Generator, world: World, loss: Loss | None = None) -> Logits:
    logits = _sound(questions, rng, world)
    if loss:
        _plant(logits, loss.kind, solve_size(loss, world), rng, world.scale)
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
    elif kind in SETS:
        for name, sign in SETS[kind].items():
            candidate[rows, right] -= sign * size * (logits.questions.dataset == name)
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
    elif kind == "frame order":
        candidate += size * random * np.where(_is_about_time(logits.questions), 1.0, 0.02)[:, None]
    elif kind == "card":
        candidate += size * random * (logits.questions.video % 4 == BROKEN_CARD)[:, None]


@lru_cache
def solve_size(loss: Loss, world: World) -> float:
    """Solve by interpolation over the whole benchmark eight times; if answers flip both ways, then by a step of
    Newton's over 48 times. The loss is exact to about 0.03 points."""
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
    """Map a size to its loss in points. Two sound devices of one noise are equally good, so the loss is then measured
    against the candidate without it."""
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


# --- As the code under test sees them ---


def tabulate(logits: Logits, stores_logprobs: bool = True) -> Answers:
    """Make the arrays that pairing.tabulate makes of build_pairs, but fast; `pairs` only tell the dtypes."""
    scores = np.stack([logits.logprobs(side) for side in SIDES.values()], axis=1)
    unreadable = np.stack([logits.unreadable, np.zeros(len(scores), dtype=bool)], axis=1)
    letters = np.stack([np.nanargmax(getattr(logits, side), axis=1) for side in SIDES.values()], axis=1)
    no = np.zeros(unreadable.shape, dtype=bool)
    if not stores_logprobs:
        scores = np.full(scores.shape, np.nan)
    [pair] = build_pairs(logits.take(np.array([0])))
    return Answers(
        pairs=[pair] * len(scores),
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
    """Find the groups that associations.find_subgroups finds in build_pairs, but for their labels."""
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
    levels = np.vectorize(LEVEL_OF.get)(logits.questions.dataset)
    return [Subgroup("level", "level", levels == level) for level in np.unique(levels)]


def _is_about_time(questions: Questions) -> np.ndarray:
    return np.asarray(questions.number % 4 == 0)


def build_rows(
    logits: Logits, stores_logprobs: bool = True, fault: Fault | None = None
) -> dict[tuple[str, str], tuple[Row, Row, str]]:
    """(dataset, id) -> NPU row, GPU row, right letter."""
    questions, rows = logits.questions, {}
    about_time, logprobs = _is_about_time(questions), [logits.logprobs(side) for side in SIDES.values()]
    columns = (values.tolist() for values in vars(questions).values())
    for index, (dataset, number, video, count) in enumerate(zip(*columns, strict=True)):
        row = {
            "video_id": f"v{video}",
            "vid_path": f"Eval_video/{dataset}/v{video}.mp4",
            "dataset": dataset,
            "question": "What happens after that?" if about_time[index] else "What is it?",
            "choices": {letter: f"option {letter} of {number}" for letter in LETTERS[:count]},
            "prompt_tokens": int(logits.prompt_tokens[index]),
            "prompt_sha256": f"prompt {number}",
            "pixels_sha256": f"pixels {video}",
            "frames_decoded": 100 + video % 400,
        }
        pair = []
        for (device, side), own in zip(SIDES.items(), logprobs, strict=True):
            values = dict(zip(row["choices"], own[index].tolist(), strict=False))
            text = "" if side == "candidate" and logits.unreadable[index] else max(values, key=values.__getitem__)
            run = {"device": device, "dtype": logits.dtype(side), "num_frames": 8}
            rank = video % 4 if side == "candidate" else 0  # four NPUs against one GPU
            more = {"letter_logprobs": values} if stores_logprobs else {}
            pair.append(row | more | {"output_sequence": [text], "rank": rank, "run": run})
        rows[dataset, str(number)] = _mark(pair[0], fault), pair[1], LETTERS[logits.right[index]]
    return rows


def _mark(row: Row, fault: Fault | None) -> Row:
    """What a fault leaves in the candidate's row beside other logits."""
    if fault is None:
        return row
    if fault.kind == "mass" and row["rank"] == BROKEN_CARD:  # some other token has become likely
        return row | {"letter_logprobs": {name: each - fault.size for name, each in row["letter_logprobs"].items()}}
    if fault.kind == "overflow" and row["prompt_tokens"] > LONG_PROMPT + fault.size:
        return row | {"letter_logprobs": None, "output_sequence": [""], "nonfinite": True, "error": "NaN"}
    return row


def simulate_rows(
    count: int,
    seed: int | np.random.Generator = 0,
    dtypes: tuple[str, str] = ("float16", "float16"),
    fault: Fault | None = None,
) -> dict[tuple[str, str], tuple[Row, Row, str]]:
    """Build the rows of two runs of `count` questions in these dtypes; the fault, if any, is the NPU's."""
    rng = np.random.default_rng(seed)
    logits = simulate(sample_questions(count, rng), rng, World((NOISE[dtypes[0]], NOISE[dtypes[1]])))
    if fault:
        _plant(logits, fault.kind, fault.size, rng, scale=1.0)
    return build_rows(logits, fault=fault)


def pair_rows(rows: Mapping[tuple[str, str], tuple[Row, Row, str]]) -> list[Pair]:
    """Pair them as pairing.pair_runs pairs result files, without the files."""
    return [
        Pair(*name, right, _side(build_reply(name, name[1], npu), right), _side(build_reply(name, name[1], gpu), right))
        for name, (npu, gpu, right) in rows.items()
    ]


def _side(reply: Reply, right: str) -> Side:
    letter = choose_letter(reply, "strict")
    return Side(reply, letter, judge(reply, letter, right))


def build_pairs(logits: Logits, stores_logprobs: bool = True) -> list[Pair]:
    return pair_rows(build_rows(logits, stores_logprobs))


def judge_pairs(pairs: list[Pair], margin: Margin) -> tuple[Verdict, Diagnosis]:
    """Judge them as two result files are judged."""
    found, groups = pairing.tabulate(pairs), associations.find_subgroups(pairs)
    diagnosis = diagnose(found, measure(found), groups)
    return judge_evidence(weigh(found, [*groups, *associations.find_levels(pairs)], margin, diagnosis)), diagnosis
