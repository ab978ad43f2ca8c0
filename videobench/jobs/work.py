"""The job's queue of videos, and how far ahead of its device a replica may claim them."""

from collections.abc import Iterator, Sequence
from itertools import accumulate

from videobench.jobs.job import Job

# What a replica has claimed, decoding ahead or in a batch, no other can take. Of either it holds at most a sixth of its
# even part of the remaining work: the nearer the end, the less, so that all replicas end together.
HELD_PART = 6


class WorkQueue:
    """Videos by their numbers, claimed one at a time; `costs` in the order of claiming, in any unit."""

    def __init__(self, job: Job, costs: Sequence[float]) -> None:
        self._job = job
        self._costs = costs
        self._left = [*accumulate(reversed(costs), initial=0)][::-1]  # cost from each number on

    def claim(self) -> Iterator[int]:
        return self._job.claim(len(self._costs))

    def most_held(self) -> int:
        """How many videos like the next one this replica should decode ahead, or answer together, at most."""
        claimed = self._job.num_claimed
        if self._job.num_replicas == 1:
            return len(self._costs)
        if claimed >= len(self._costs):
            return 1
        return max(1, int(self._left[claimed] / (HELD_PART * self._job.num_replicas * self._costs[claimed])))
