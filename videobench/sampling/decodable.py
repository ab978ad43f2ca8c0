"""Decode each video once, as a run does. The only part of sampling that needs torch and av."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from videobench.console import EachMinute
from videobench.device.devices import open_device
from videobench.video.spec import DEFAULT_NUM_FRAMES

EDGE = 32  # pixels of the frames that come back, which are not used


@contextmanager
def fault_finder(num_workers: int) -> Iterator[Callable[[Sequence[Path]], dict[Path, str]]]:
    """Yields a function: videos -> those of which no frame decodes, each with the reason, which names the file.

    A decoder that hangs or dies is such a reason, too. The worker processes live as long as the context."""
    open_device("cpu")  # must come before torch is imported: see device/devices.py
    from videobench.video.pool import DecodePool
    from videobench.video.spec import PixelSpec

    spec = PixelSpec(EDGE, EDGE, "bilinear", mean=(0, 0, 0), std=(1, 1, 1), shortest_edge=EDGE)
    with DecodePool(spec, DEFAULT_NUM_FRAMES, num_workers) as pool:

        def find_faults(videos: Sequence[Path]) -> dict[Path, str]:
            bar = tqdm(pool.prepare(videos), "decode", len(videos), unit="video", file=sys.stderr, disable=None)
            faults: dict[Path, str] = {}
            minute = EachMinute()
            for number, prepared in enumerate(bar, 1):
                if prepared.error is not None:
                    faults[prepared.video] = prepared.error
                minute.say(f"decode: {number}/{len(videos)} videos")
            return faults

        yield find_faults
