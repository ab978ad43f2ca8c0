"""The order in which questions are drawn: a sample of n is its first n, so a larger sample contains a smaller one.

A question's place is the SHA-256 of the seed and its name. It does not depend on the machine, the version of Python, or
which other videos are there. The strategies differ only in which set's turn it is."""

import hashlib
import itertools
from collections import Counter, deque
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

from videobench.data.dataset import DATASET_NAMES, Question

STRATEGIES = ("uniform", "stratified", "proportional")


def draw_order(
    questions: Sequence[Question],
    strategy: str,
    seed: int,
    one_per_video: bool = False,
    unusable: Set[Path] = frozenset(),
) -> list[Question]:
    """All of `questions` that can be drawn, first to last.

    Left out are those on an `unusable` video and, with `one_per_video`, all but the first drawn on each. The sets keep
    the proportions that they have in `questions`: what is left out is replaced by the next of its own set, while there
    is one; if the strategy is "uniform", by the next of all."""
    sizes = Counter(each.dataset for each in questions)
    left = [each for each in questions if each.video not in unusable]
    left.sort(key=lambda each: _place_in_draw(each, seed))
    if one_per_video:
        first: dict[Path, Question] = {}
        for each in left:
            first.setdefault(each.video, each)
        left = list(first.values())
    if strategy == "uniform":
        return left
    by_set: dict[str, deque[Question]] = {name: deque() for name in sorted(sizes, key=DATASET_NAMES.index)}
    for each in left:
        by_set[each.dataset].append(each)
    return _stratified(by_set, sizes) if strategy == "stratified" else _proportional(by_set, sizes)


def _place_in_draw(question: Question, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}/{question.dataset}/{question.id}".encode()).digest()


def _proportional(by_set: Mapping[str, Sequence[Question]], sizes: Mapping[str, int]) -> list[Question]:
    """Proportional to size by the method of Webster and Sainte-Lague: the k-th question of a set, from 0, comes at
    (2 k + 1) / size. Unlike with rounding by largest remainders, no set gets fewer in a larger sample."""
    places = [
        (_divided_by_size(k, sizes[name]), number, k, question)
        for number, (name, queue) in enumerate(by_set.items())
        for k, question in enumerate(queue)
    ]
    return [question for *_, question in sorted(places, key=lambda place: place[:3])]


def _stratified(by_set: Mapping[str, deque[Question]], sizes: Mapping[str, int]) -> list[Question]:
    """In each round one question of each set, the largest set first. The turns of a set that has no more go to the
    others by their sizes, as in _proportional. So each of S sets gives at least n // S, or all it has."""
    order: list[Question] = []
    names = sorted(by_set, key=lambda name: -sizes[name])  # equal sizes in the order of the benchmark
    inherited = dict.fromkeys(names, 0)  # turns taken over from other sets
    for turn in itertools.cycle(names):
        live = [name for name in names if by_set[name]]
        if not live:
            break
        heir = turn if by_set[turn] else min(live, key=lambda name: _divided_by_size(inherited[name], sizes[name]))
        inherited[heir] += heir != turn
        order.append(by_set[heir].popleft())
    return order


def _divided_by_size(k: int, size: int) -> float:
    """The quotient that Webster's method sorts by. Division rounds correctly on every machine, and two different
    quotients of sets below a million questions differ by more than the rounding: the order is exact."""
    return (2 * k + 1) / size
