"""How the work of the whole Video-Bench spreads over many cards, simulated: python benchmarks/simulated_sharing.py

Every video with its real number of questions. Costs of one card, computed as in videobench/model/cost.py for 7B in 16
bits with 8 frames at 100 TFLOP/s (assumed), and spread at random by 20 % for what lengths and decoding do; one card in
eight is 1.5 times as slow. Efficiency is the work over what all cards could have done in the time, each at its own
speed.
"""

import heapq
import random
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.simulated_runs import VIDEO_BENCH
from videobench.device.devices import DEFAULT_BATCH_SIZES
from videobench.jobs.job import Job
from videobench.jobs.work import WorkQueue
from videobench.run.batches import make_batches
from videobench.video.pool import MAX_AHEAD_PER_WORKER

VIDEO_S = 0.19  # the frames through the vision tower, 1180 tokens through the text model
QUESTION_S = 0.020  # 130 tokens, and two that are generated
SPREAD = 0.2  # of the logarithm of a video's cost
SLOW, SLOW_PART = 1.5, 1 / 8
WORKERS = 8  # that decode, for each card
CARDS = (8, 16, 32, 64, 128, 256, 512, 1024)
REPEATS = 5  # with other costs and slow cards; the mean is printed


class Counter:
    """In place of torch.distributed's store."""

    def __init__(self) -> None:
        self.value = 0

    def add(self, _: str, number: int) -> int:
        self.value += number
        return self.value


class SimulatedJob(Job):
    """Claims as a real process, with nobody who could fail: no heartbeats, for which each real one has a thread."""

    def __init__(self, card: int, cards: int, counter: Counter) -> None:
        super().__init__(card, cards)
        self.store = counter

    def check_others(self) -> None:
        pass


def main() -> None:
    videos = all_videos()
    print(f"{sum(videos)} questions on {len(videos)} videos, at most {max(videos)} on one")
    print(
        "| cards | split beforehand | claimed in file order | claimed, costliest first | bound by the largest video |"
    )
    print("|---|---|---|---|---|")
    for cards in CARDS:
        figures = [simulate(videos, cards, random.Random(seed)) for seed in range(REPEATS)]
        means = [sum(each) / REPEATS for each in zip(*figures, strict=True)]
        print(f"| {cards} | " + " | ".join(f"{100 * mean:.1f} %" for mean in means) + " |")


def all_videos() -> list[int]:
    """For each video of the 13 sets its number of questions."""
    return [
        questions
        for by_number, _ in VIDEO_BENCH.values()
        for questions, count in by_number.items()
        for _ in range(count)
    ]


def simulate(videos: list[int], cards: int, generator: random.Random) -> tuple[float, float, float, float]:
    """Efficiencies of the three ways, and the most that any way could reach: the largest video is on one card."""
    costs = [(VIDEO_S + QUESTION_S * each) * generator.lognormvariate(0, SPREAD) for each in videos]
    slowness = [SLOW if generator.random() < SLOW_PART else 1.0 for _ in range(cards)]
    speed = sum(1 / each for each in slowness)
    ideal = sum(costs) / speed

    # Split beforehand, as evenly as can be by what is known: the next costliest video to the card that has the least.
    order = sorted(range(len(videos)), key=lambda each: -videos[each])
    given, ends = [(0.0, card) for card in range(cards)], [0.0] * cards
    for each in order:
        known, card = heapq.heappop(given)
        heapq.heappush(given, (known + VIDEO_S + QUESTION_S * videos[each], card))
        ends[card] += costs[each] * slowness[card]
    in_order = time_of([videos[each] for each in order], [costs[each] for each in order], slowness)
    return ideal / max(ends), ideal / time_of(videos, costs, slowness), ideal / in_order, min(1.0, ideal / max(costs))


def time_of(videos: list[int], costs: list[float], slowness: list[float]) -> float:
    """The time at which the last card is done, claiming as the runner does: some videos ahead, whole batches."""
    counter = Counter()
    known = [VIDEO_S + QUESTION_S * each for each in videos]
    jobs = [SimulatedJob(card, len(slowness), counter) for card in range(len(slowness))]
    batches = [batches_of(WorkQueue(job, known), videos) for job in jobs]
    free = [(0.0, card) for card in range(len(slowness))]
    last = 0.0
    while free:
        now, card = heapq.heappop(free)
        batch = next(batches[card], None)
        if batch is None:
            last = max(last, now)
        else:
            heapq.heappush(free, (now + slowness[card] * sum(costs[each] for each in batch), card))
    return last


def batches_of(queue: WorkQueue, videos: list[int]) -> Iterator[list[int]]:
    """Batches of numbers of videos, made as the suite makes them."""
    same = SimpleNamespace(prefix_ids=())
    works = ((SimpleNamespace(questions=range(videos[at]), prompts=[same], at=at), None) for at in held(queue))
    for batch in make_batches(works, DEFAULT_BATCH_SIZES["npu"], queue.most_held):
        yield [work.at for work, _ in batch]


def held(queue: WorkQueue) -> Iterator[int]:
    """As DecodePool.prepare."""
    ahead: deque[int] = deque()
    for number in queue.claim():
        ahead.append(number)
        while len(ahead) >= min(MAX_AHEAD_PER_WORKER * WORKERS, queue.most_held()):
            yield ahead.popleft()
    yield from ahead


if __name__ == "__main__":
    main()
