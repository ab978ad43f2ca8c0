"""Simulated pairs of runs with known truth: sound ones, and ones with a planted fault. For benchmarks and tests.

Questions, options and videos are shared out as in the real Video-Bench; log-probabilities come from a plain model of a
model: a logit for each option, higher for the right one, plus each device's rounding noise.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from videobench.compare.pairing import Pair, Side
from videobench.compare.scoring import choose_letter, judge
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

# Standard deviation of a logit's rounding noise, nats; measurements are cited in videobench/tolerances.py.
NOISE = {"float32": 0.001, "float16": 0.01, "bfloat16": 0.05}
LONG_PROMPT = 1330  # tokens; nearly half of the simulated prompts are longer
FAULTS = ("layer noise", "letter", "truncated", "frame order", "card", "mass", "overflow")


@dataclass(frozen=True)
class Fault:
    name: str = ""  # of FAULTS, or empty
    size: float = 0.0  # nats
    hashed: bool = False  # whether the stored hashes of prompts and pixels betray it


@dataclass(frozen=True)
class Questions:
    """Arrays over the questions of a sample."""

    dataset: np.ndarray  # names
    number: np.ndarray  # id within the whole benchmark
    video: np.ndarray  # number of the video
    options: np.ndarray  # 1 to 6


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


def sample_questions(questions: Questions, count: int, rng: np.random.Generator) -> Questions:
    chosen = np.sort(rng.choice(len(questions.number), count, replace=False))
    return Questions(*(values[chosen] for values in vars(questions).values()))


def simulate_rows(
    questions: Questions,
    rng: np.random.Generator,
    dtypes: tuple[str, str] = ("float16", "float16"),
    fault: Fault | None = None,
) -> dict[tuple[str, str], tuple[Row, Row, str]]:
    """(dataset, id) -> NPU row, GPU row, right letter; the fault, if any, is the NPU's."""
    fault = fault or Fault()
    by_video = {video: float(rng.lognormal(0, 0.3)) for video in np.unique(questions.video)}
    letter_noise = {dtype: rng.normal(0, NOISE[dtype] / 5, len(LETTERS)) for dtype in NOISE}
    rows = {}
    for dataset, number, video, count in zip(*(values.tolist() for values in vars(questions).values()), strict=True):
        logits = rng.normal(0, 2, count)
        right = int(rng.integers(count))
        logits[right] += 1.5
        facts = _facts(dataset, number, video, count, rng)
        pair = []
        for side, dtype in zip(("npu", "gpu"), dtypes, strict=True):
            noise = NOISE[dtype] * by_video[video] * rng.standard_t(5, count) + letter_noise[dtype][:count]
            cards = {"rank": video % 4 if side == "npu" else 0}  # four NPUs against one GPU
            row = facts | cards | {"run": {"device": side, "dtype": dtype, "num_frames": 8}}
            pair.append(_answered(row, logits + noise))
        rows[dataset, str(number)] = (_spoil(pair[0], fault, rng), pair[1], LETTERS[right])
    return rows


def _facts(dataset: str, number: int, video: int, count: int, rng: np.random.Generator) -> Row:
    about_time = rng.random() < 0.25
    return {
        "video_id": f"v{video}",
        "vid_path": f"Eval_video/{dataset}/v{video}.mp4",
        "dataset": dataset,
        "question": "What happens after that?" if about_time else "What is it?",
        "choices": {letter: f"option {letter} of {number}" for letter in LETTERS[:count]},
        "prompt_tokens": int(1152 + 60 + 25 * count + rng.exponential(25)),
        "prompt_sha256": f"prompt {number}",
        "pixels_sha256": f"pixels {video}",
        "frames_decoded": 100 + video % 400,
    }


def _answered(row: Row, logits: np.ndarray) -> Row:
    total = math.log(float(np.exp(logits).sum())) + 0.01  # a little mass lies outside the options
    logprobs = {letter: float(logit) - total for letter, logit in zip(row["choices"], logits, strict=True)}
    return row | {"output_sequence": [max(logprobs, key=logprobs.__getitem__)], "letter_logprobs": logprobs}


def _spoil(row: Row, fault: Fault, rng: np.random.Generator) -> Row:
    logits = np.array(list(row["letter_logprobs"].values()))
    noise = rng.normal(0, 1, len(logits))
    is_long, about_time = row["prompt_tokens"] > LONG_PROMPT, "after" in row["question"]
    if fault.name == "layer noise":
        return _answered(row, logits + fault.size * noise)
    if fault.name == "letter" and len(logits) > 1:
        logits[1] += fault.size
        return _answered(row, logits)
    if fault.name == "truncated" and is_long:
        spoilt = {"prompt_sha256": "cut", "prompt_tokens": LONG_PROMPT} if fault.hashed else {}
        return _answered(row, logits + fault.size * noise) | spoilt
    if fault.name == "frame order":
        spoilt = {"pixels_sha256": f"reversed {row['pixels_sha256']}"} if fault.hashed else {}
        return _answered(row, logits + fault.size * noise * (1.0 if about_time else 0.02)) | spoilt
    if fault.name == "card" and row["rank"] == 2:
        return _answered(row, logits + fault.size * noise)
    if fault.name == "mass" and row["rank"] == 2:  # all options less likely alike: some other token has become likely
        return row | {"letter_logprobs": {name: each - fault.size for name, each in row["letter_logprobs"].items()}}
    if fault.name == "overflow" and row["prompt_tokens"] > LONG_PROMPT + fault.size:
        return row | {"letter_logprobs": None, "output_sequence": [""], "nonfinite": True, "error": "NaN"}
    return row


def build_pairs(rows: Mapping[tuple[str, str], tuple[Row, Row, str]]) -> list[Pair]:
    return [
        Pair(*name, right, _side(build_reply(name, name[1], npu), right), _side(build_reply(name, name[1], gpu), right))
        for name, (npu, gpu, right) in rows.items()
    ]


def _side(reply: Reply, right: str) -> Side:
    letter = choose_letter(reply, "strict")
    return Side(reply, letter, judge(reply, letter, right))
