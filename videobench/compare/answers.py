"""What two runs answered to the same questions, as arrays: all that the verdict counts and measures."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videobench.compare.pairing import Pair, Side
from videobench.compare.scoring import RIGHT, UNREADABLE
from videobench.compare.statistics import Clusters, FloatArray, number_clusters
from videobench.data.dataset import LETTERS

Mask = NDArray[np.bool_]
LOG_FLOOR = -20.0  # nats; below a probability of 2e-9 an option plays no part, and its logarithm is all rounding


@dataclass(frozen=True)
class Answers:
    """A row for each question; where there is a second axis it is candidate and reference, a third one A to F."""

    pairs: Sequence[Any]  # the Pair that each row is about
    videos: Clusters  # number of the question's video
    right: NDArray[np.intp]  # column of the right letter; -1: not known
    letters: NDArray[np.intp]  # columns of the letters that were read; -1: none
    is_right: Mask
    unreadable: Mask
    nonfinite: Mask  # the logits held NaN or infinity
    scores: FloatArray  # log-probability of each option, or the bound of it; nan: no such option, or not known
    mass: FloatArray  # probability of all options whose log-probability is known
    vague: Mask  # a bound that does not say whether the option plays a part


def tabulate(pairs: Sequence[Pair]) -> Answers:
    """A reply that is missing, or that failed, counts as wrong and has no log-probabilities."""
    shape = len(pairs), 2
    letters, scores = np.full(shape, -1, dtype=np.intp), np.full((len(pairs), 2, len(LETTERS)), np.nan)
    is_right, unreadable, nonfinite, vague = (np.zeros(shape, dtype=bool) for _ in range(4))
    mass = np.zeros(shape)
    for row, pair in enumerate(pairs):
        for cell, side in (((row, 0), pair.candidate), ((row, 1), pair.reference)):
            letters[cell] = LETTERS.find(side.letter) if side.letter else -1
            is_right[cell], unreadable[cell] = side.outcome == RIGHT, side.outcome == UNREADABLE
            nonfinite[cell] = bool(side.reply and side.reply.nonfinite)
            for letter, score in _scores(side).items():
                scores[cell][LETTERS.index(letter)] = score
                if side.reply and letter in side.reply.logprobs:
                    mass[cell] += math.exp(score)
                else:
                    vague[cell] |= score > LOG_FLOOR
    right = np.array([LETTERS.find(pair.right) if pair.right else -1 for pair in pairs], dtype=np.intp)
    return Answers(pairs, number_videos(pairs), right, letters, is_right, unreadable, nonfinite, scores, mass, vague)


def _scores(side: Side) -> dict[str, float]:
    reply = side.reply
    return reply.scores if reply and not reply.nonfinite and not reply.error else {}


def number_videos(pairs: Sequence[Pair]) -> Clusters:
    """Number of each question's video, known by its bytes if a row holds their hash, else by its name. A question
    without a video is a cluster of its own."""
    names = [(pair.dataset, _video(pair) or f"question {pair.id}") for pair in pairs]
    hashes = (_first(pair, "video_sha256") for pair in pairs)
    by_bytes = {name: sha256 for name, sha256 in zip(names, hashes, strict=True) if sha256}
    return number_clusters(by_bytes.get(name, name) for name in names)


def knows_videos(pairs: Sequence[Pair]) -> bool:
    return any(_video(pair) or _first(pair, "video_sha256") for pair in pairs)


def _video(pair: Pair) -> str:
    return _first(pair, "vid_path") or _first(pair, "video_id")  # of one file several ids


def _first(pair: Pair, field: str) -> str:
    """Of the sides' rows, the reference's first; "" if neither holds the field."""
    return next(filter(None, (str(getattr(side.reply, field, "")) for side in (pair.reference, pair.candidate))), "")


def leads_of(scores: FloatArray, column: NDArray[np.intp]) -> FloatArray:
    """Nats by which the option of `column` leads the best other one, below 0 if it trails; nan if either is not known.

    `scores` is (questions, options); a column of -1 is no option."""
    rows, others = np.arange(len(scores)), np.nan_to_num(scores, nan=-np.inf)
    others[rows, column] = -np.inf
    lead = scores[rows, column] - others.max(axis=1, initial=-np.inf)
    return np.asarray(np.where((column >= 0) & np.isfinite(lead), lead, np.nan), dtype=float)
