"""Where a run's time went, what was computed and saved, and how much memory it took at most."""

import resource
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from videobench.console import in_bytes
from videobench.device.memory import peak_memory_bytes

if TYPE_CHECKING:
    from videobench.device.devices import Device
    from videobench.model.prompts import Prompt

# What the device waits for and what it computes: prompts up to the end of the video, their rest, further tokens.
PARTS = {
    "frames": "waiting for frames",
    "prefix": "prefixes with the video",
    "suffix": "suffixes with the question",
    "decode": "decoding replies",
    "write": "waiting for the disk",
}


@dataclass
class Usage:
    """What one process did and how long it took, from its first batch on."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))  # by the names in PARTS
    questions: int = 0  # asked, those that are asked again after an error of the device once
    again: int = 0  # of these: answered before, computed again with their videos
    prefix_tokens: int = 0  # computed
    prefix_tokens_alone: int = 0  # what they would be if each question were answered by itself
    started: float = field(default_factory=time.monotonic)  # in seconds of the monotonic clock
    total_s: float = 0.0  # known after stop()

    def start(self) -> None:
        """Begins to count time; what came before, reading the weights, is left out."""
        self.started = time.monotonic()
        self.seconds.clear()

    def stop(self) -> None:
        self.total_s = time.monotonic() - self.started

    def count(self, prompts_of_videos: "Iterable[Sequence[Prompt]]") -> None:
        """Counts what is about to be asked, video by video."""
        for prompts in prompts_of_videos:
            self.questions += len(prompts)
            self.prefix_tokens_alone += sum(len(prompt.prefix_ids) for prompt in prompts)

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Adds the time of its body to a part of PARTS, also where it raises.

        A call of `generate` ends with a copy to the host: the device is idle then."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.seconds[part] += time.monotonic() - begun

    def lines(self, device: "Device") -> Iterator[str]:
        """For people, after stop(): time, sharing, memory."""
        rate = self.questions / self.total_s if self.total_s else 0.0
        parts = [f"{self.seconds[part]:.1f} s {words}" for part, words in PARTS.items()]
        other = self.total_s - sum(self.seconds.values())
        again = f", {self.again} of them again with their videos," if self.again else ""
        yield f"{self.questions} questions{again} in {self.total_s:.1f} s ({rate:.2f}/s)"
        yield f"{', '.join(parts)}, {other:.1f} s other"
        saved = self.prefix_tokens_alone - self.prefix_tokens
        yield f"{self.prefix_tokens:,} prefix tokens computed, {saved:,} saved by sharing them among questions"
        peak = peak_memory_bytes(device)
        on_device = f"{in_bytes(peak)} of the device's memory, " if peak else ""
        yield f"at most {on_device}{in_bytes(_peak_host_bytes())} of the host's"


def _peak_host_bytes() -> int:
    """Of this process; the decoding processes are small, and each is bounded by its own limits."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
