"""Pair two runs' replies question by question, judge them, and turn them into arrays."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from videobench.compare.scoring import (
    MISSING,
    RIGHT,
    UNREADABLE,
    WRONG,
    check_scorable,
    choose_letter,
    first_letter,
    judge,
    load_raw_answers,
)
from videobench.compare.statistics import Clusters, FloatArray, number_clusters
from videobench.data.dataset import ALPHABET, LETTERS, QuestionName, load_answers
from videobench.data.eval_logs import load_logs
from videobench.data.results import Asked, load_facts, load_sides
from videobench.data.rows import Reply
from videobench.errors import InputError

Mask = NDArray[np.bool_]
LOG_FLOOR = -20.0  # nats; an option with a probability below 2e-9 does not matter, and its logarithm is mostly rounding


@dataclass(frozen=True, slots=True)
class Side:
    reply: Reply | None  # None: this side's file lacks the question
    letter: str | None  # as read under the chosen scoring
    outcome: str  # of scoring.RIGHT, WRONG, UNREADABLE, FAILED, MISSING


@dataclass(frozen=True, slots=True)
class Pair:
    """One question and both sides' answers; at least one side has a reply."""

    dataset: str
    id: str
    right: str  # the right letter; empty if the original's rule finds none
    candidate: Side
    reference: Side

    @property
    def key(self) -> str:
        return f"{self.dataset}/{self.id}" if self.dataset else self.id

    @property
    def reply(self) -> Reply:
        """The reference's reply, else the candidate's: for fields that both sides' rows share."""
        reply = self.reference.reply or self.candidate.reply
        assert reply, "a pair has at least one reply"
        return reply

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.candidate, self.reference

    @property
    def replies(self) -> tuple[Reply, Reply]:
        """The candidate's and the reference's reply, if both files have the question."""
        assert self.candidate.reply, "one of Pairing.compared"
        assert self.reference.reply, "likewise"
        return self.candidate.reply, self.reference.reply


@dataclass(frozen=True)
class Pairing:
    """All questions of a comparison, and counts of what was left out."""

    pairs: list[Pair]  # from the data sets that both sides have; at least one side answered each
    sets_only_candidate: dict[str, int] = field(default_factory=dict)  # left out: data set -> number of its questions
    sets_only_reference: dict[str, int] = field(default_factory=dict)
    without_answer: list[str] = field(default_factory=list)  # left out too: keys of replies with no known right answer
    answers_unused: int = 0  # entries of the answer file that neither side replied to
    dropped: int = 0  # `mindie` only: questions that a side left unanswered, which the original leaves out

    @property
    def is_of_logs(self) -> bool:
        """Whether lm-eval or lmms-eval asked the questions."""
        return self.pairs[0].reply.logged is not None

    @property
    def compared(self) -> list[Pair]:
        """The pairs that both files have: the paired statistics are about these."""
        return [pair for pair in self.pairs if pair.candidate.reply and pair.reference.reply]


def pair_runs(
    candidate_path: Path, reference_path: Path, answer_path: Path, scoring: str, facts_path: Path | None = None
) -> Pairing:
    """Read both sides and the answers, and judge every reply under `scoring`, one of settings.SCORINGS.

    `facts_path` holds the facts of the requests that a service answered. A reply without options is read with the other
    side's. Raises InputError if the files have no question in common, or if one of them cannot be scored."""
    facts = load_facts(facts_path) if facts_path else None
    if scoring == "mindie":
        return _pair_as_the_original(candidate_path, reference_path, answer_path, facts)
    answers = load_answers(answer_path)
    candidate, reference = load_sides((candidate_path, reference_path), answers, facts=facts)
    candidate, reference = _lend_options(candidate, reference), _lend_options(reference, candidate)
    for path, replies in ((candidate_path, candidate), (reference_path, reference)):
        check_scorable(path, replies.values(), scoring)
    shared_sets = {dataset for dataset, _ in candidate} & {dataset for dataset, _ in reference}
    names = {**reference, **candidate}
    pairs = [
        Pair(*name, answers[name], *(_side(own.get(name), answers[name], scoring) for own in (candidate, reference)))
        for name in names
        if name in answers and name[0] in shared_sets
    ]
    pairing = Pairing(
        pairs=pairs,
        sets_only_candidate=_count_sets((name for name in candidate if name in answers), shared_sets),
        sets_only_reference=_count_sets((name for name in reference if name in answers), shared_sets),
        without_answer=["/".join(filter(None, name)) for name in names if name not in answers],
        answers_unused=len(answers.keys() - candidate.keys() - reference.keys()),
    )
    if not pairing.compared:
        first, second = ("/".join(filter(None, next(iter(replies)))) for replies in (candidate, reference))
        raise InputError(
            f"{candidate_path} and {reference_path} have no question in common that {answer_path} answers; the first "
            f"replies are to {first} and {second}; name the files of one sample or data set"
        )
    return pairing


def pair_logs(candidate_path: Path, reference_path: Path, log_filter: str, cluster_by: str) -> Pairing:
    """Read two logs of lm-eval or lmms-eval, which say for each document whether its reply is right.

    Raises InputError if the files have no document in common."""
    candidate, reference = (load_logs(path, log_filter, cluster_by) for path in (candidate_path, reference_path))
    tasks = [list(dict.fromkeys(task for task, _ in replies)) for replies in (candidate, reference)]
    shared = {*tasks[0]} & {*tasks[1]}
    pairs = []
    for name in {**reference, **candidate}:
        if name[0] in shared:
            sides = candidate.get(name), reference.get(name)
            right = next(each.logged.right for each in sides[::-1] if each and each.logged)
            pairs.append(Pair(*name, right, *map(_logged_side, sides)))
    pairing = Pairing(pairs, _count_sets(candidate, shared), _count_sets(reference, shared))
    if not pairing.compared:
        found = " and ".join(f"{', '.join(each[:3])}{', ...' if len(each) > 3 else ''}" for each in tasks)
        raise InputError(f"{candidate_path} and {reference_path} have no document in common (tasks {found})")
    return pairing


def _logged_side(reply: Reply | None) -> Side:
    """Judge a log's reply; without log-likelihoods its text is used as the letter."""
    if not reply or not reply.logged:
        return Side(None, None, MISSING)
    letter = choose_letter(reply, "logprob") if reply.options else None if reply.nonfinite else reply.text
    return Side(reply, letter, RIGHT if reply.logged.is_right else WRONG)


def _lend_options(
    replies: Mapping[QuestionName, Reply], others: Mapping[QuestionName, Reply]
) -> dict[QuestionName, Reply]:
    """Give a reply without options the other side's, so that both are read by the same rules."""
    lent = {name: others[name].options for name, reply in replies.items() if not reply.options and name in others}
    lenders = {name: replace(replies[name], options=each, options_are_lent=True) for name, each in lent.items()}
    return {**replies, **lenders}


def _side(reply: Reply | None, right: str, scoring: str) -> Side:
    letter = choose_letter(reply, scoring) if reply else None
    return Side(reply, letter, judge(reply, letter, right))


def _count_sets(names: Iterable[QuestionName], shared: set[str]) -> dict[str, int]:
    return dict(Counter(dataset for dataset, _ in names if dataset not in shared))


def _pair_as_the_original(
    candidate_path: Path, reference_path: Path, answer_path: Path, facts: Asked | None
) -> Pairing:
    """Pair by key alone; a question counts if both sides gave a letter."""
    answers = load_raw_answers(answer_path)
    names = [(dataset, key) for key, (dataset, _) in answers.items()]
    candidate, reference = load_sides((candidate_path, reference_path), names, by_key=True, facts=facts)
    sets = [Counter(answers[key][0] for _, key in replies if key in answers) for replies in (candidate, reference)]
    pairs, dropped = [], 0
    for key, (dataset, answer) in answers.items():
        if not all(dataset in each for each in sets):
            continue
        sides = candidate.get(("", key)), reference.get(("", key))
        letters = [choose_letter(reply, "mindie") if reply else None for reply in sides]
        if not all(letters):
            dropped += any(reply is not None for reply in sides)
            continue
        right = first_letter(answer, "{}") or ""
        outcomes = [RIGHT if letter == right else WRONG for letter in letters]
        pairs.append(Pair(dataset, key.removeprefix(f"{dataset}/"), right, *map(Side, sides, letters, outcomes)))
    if not pairs:
        lacking = f"have no question that both answer and {answer_path} knows"
        raise InputError(f"{candidate_path} and {reference_path} {lacking}")
    first, second = ({name: own[name] for name in own if name not in other} for own, other in (sets, sets[::-1]))
    return Pairing(pairs, first, second, dropped=dropped)


@dataclass(frozen=True)
class Answers:
    """Arrays with one row per question; a second axis is candidate and reference, a third one A to F."""

    pairs: Sequence[Pair]
    videos: Clusters  # number of the question's video
    right: NDArray[np.intp]  # column of the right letter; -1: not known
    letters: NDArray[np.intp]  # columns of the letters that were read; -1: none; beyond Z: a reply in words
    is_right: Mask
    unreadable: Mask
    nonfinite: Mask  # the logits held NaN or infinity
    scores: FloatArray  # log-probability of each option, or its bound; nan: no such option, or not known
    mass: FloatArray  # probability of all options whose log-probability is known
    vague: Mask  # whether only a bound of some option is known that does not settle if it matters


def tabulate(pairs: Sequence[Pair]) -> Answers:
    """Turn pairs into arrays. A missing or failed reply counts as wrong and has no log-probabilities."""
    shape = len(pairs), 2
    options = [len(side.reply.options) for pair in pairs for side in pair.sides if side.reply]
    columns = max([len(LETTERS), *options])
    letters, scores = np.full(shape, -1, dtype=np.intp), np.full((*shape, columns), np.nan)
    is_right, unreadable, nonfinite, vague = (np.zeros(shape, dtype=bool) for _ in range(4))
    mass = np.zeros(shape)
    for row, pair in enumerate(pairs):
        for cell, side in zip(((row, 0), (row, 1)), pair.sides, strict=True):
            letters[cell] = _column(side)
            is_right[cell], unreadable[cell] = side.outcome == RIGHT, side.outcome == UNREADABLE
            nonfinite[cell] = bool(side.reply and side.reply.nonfinite)
            if side.reply is None or side.reply.nonfinite or side.reply.error:
                continue
            for letter, score in side.reply.scores.items():
                scores[cell][ALPHABET.index(letter)] = score
                if letter in side.reply.logprobs:
                    mass[cell] += math.exp(score)
                else:
                    vague[cell] |= score > LOG_FLOOR
    right = np.array([ALPHABET.find(pair.right) if len(pair.right) == 1 else -1 for pair in pairs], dtype=np.intp)
    return Answers(pairs, number_videos(pairs), right, letters, is_right, unreadable, nonfinite, scores, mass, vague)


def _column(side: Side) -> int:
    """The letter's column. Two replies in words count as the same if both are right or both are wrong."""
    if side.reply and side.reply.logged and not side.reply.options:
        return len(ALPHABET) + side.reply.logged.is_right
    return ALPHABET.find(side.letter) if side.letter else -1


def number_videos(pairs: Sequence[Pair]) -> Clusters:
    """Number the questions' videos, identified by their hash if a row holds it, else by name. A question without a
    video is its own cluster."""
    names = [(pair.dataset, _video(pair) or f"question {pair.id}") for pair in pairs]
    hashes = (_first(pair, "video_sha256") for pair in pairs)
    by_bytes = {name: sha256 for name, sha256 in zip(names, hashes, strict=True) if sha256}
    return number_clusters(by_bytes.get(name, name) for name in names)


def knows_videos(pairs: Sequence[Pair]) -> bool:
    return any(_video(pair) or _first(pair, "video_sha256") for pair in pairs)


def _video(pair: Pair) -> str:
    return _first(pair, "vid_path") or _first(pair, "video_id")  # one file may have several ids


def _first(pair: Pair, field: str) -> str:
    """The field in the reference's row, else in the candidate's; "" if neither holds the field."""
    return next(filter(None, (str(getattr(side.reply, field, "")) for side in pair.sides[::-1])), "")


def leads_of(scores: FloatArray, column: NDArray[np.intp]) -> FloatArray:
    """Nats by which the option of `column` leads the best other one, below 0 if it trails; nan if either is not known.

    `scores` is (questions, options); a column of -1 is no option."""
    rows, others = np.arange(len(scores)), np.nan_to_num(scores, nan=-np.inf)
    others[rows, column] = -np.inf
    lead = scores[rows, column] - others.max(axis=1, initial=-np.inf)
    return np.where((column >= 0) & np.isfinite(lead), lead, np.nan)
