"""In which order the ranks draw the videos: the costliest first, so that no long one is left for the end."""

from collections.abc import Iterator, Sequence
from itertools import accumulate

from videobench.jobs.job import Ranks

# What a rank holds, decoding ahead and in a batch, no other can take. Of either it holds at most a sixth of its even
# share of the work that is left: the nearer the end, the less, so that all ranks end together.
HELD_SHARE = 6


class Share:
    """One rank's part of the videos, drawn as it goes; `costs` in the order of drawing, in any unit."""

    def __init__(self, ranks: Ranks, costs: Sequence[float]) -> None:
        self._ranks = ranks
        self._costs = costs
        self._left = [*accumulate(reversed(costs), initial=0)][::-1]  # from each number on

    def draw(self) -> Iterator[int]:
        return self._ranks.draw(len(self._costs))

    def most_held(self) -> int:
        """How many videos like the next one this rank should decode ahead, or answer together, at the most."""
        drawn = self._ranks.drawn
        if self._ranks.world_size == 1:
            return len(self._costs)
        if drawn >= len(self._costs):
            return 1
        return max(1, int(self._left[drawn] / (HELD_SHARE * self._ranks.world_size * self._costs[drawn])))
