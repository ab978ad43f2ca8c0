"""Three ways to make a clip hard to see. Its facts stay, even where nobody could tell them any more."""

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from tests.assets.clips import SIDE, Clip, render

HARD_KINDS = ("noise", "contrast", "brief")
NOISE = (30.0, 90.0)  # from and to: standard deviation, in the 0..255 of a channel
NOISE_CELL = 4  # pixels: squares of noise that outlast the resizing (and cost few bytes)
CONTRAST = (0.02, 0.2)  # from and to: share of the difference to middle grey that is left


def render_hard(clip: Clip, times_of: Callable[[Clip], list[float]], kind: str, rng: random.Random) -> np.ndarray:
    """As `render`, of the times that `times_of` gives, made hard in one of HARD_KINDS, more or less so by chance."""
    if kind == "brief":
        return render(make_brief(clip, rng), times_of(clip))
    frames = render(clip, times_of(clip)).astype(np.float32)
    frames = lower_contrast(frames, rng) if kind == "contrast" else add_noise(frames, rng)
    return frames.clip(0, 255).round().astype(np.uint8)


def make_brief(clip: Clip, rng: random.Random) -> Clip:
    """The shapes are seen in none to two of the sampled frames; of a sequence, the second shape in one or in none."""
    if "first_shape" in clip.facts:
        swapped_at = rng.uniform(0.8, 0.95)  # of the sampled frames only the last one, at 0.875, may be later
        first, last = clip.shapes
        return replace(clip, shapes=(replace(first, vanishes_at=swapped_at), replace(last, appears_at=swapped_at)))
    middle = clip.shapes[0].recolored_at if "first_color" in clip.facts else rng.uniform(0.3, 0.7)
    half = rng.uniform(0.03, 0.13)
    shapes = (replace(shape, appears_at=middle - half, vanishes_at=middle + half) for shape in clip.shapes)
    return replace(clip, shapes=tuple(shapes))


def lower_contrast(frames: np.ndarray, rng: random.Random) -> np.ndarray:
    return 128 + rng.uniform(*CONTRAST) * (frames - 128)


def add_noise(frames: np.ndarray, rng: random.Random) -> np.ndarray:
    cells = SIDE // NOISE_CELL
    noise = np.random.default_rng(rng.getrandbits(32)).standard_normal((len(frames), cells, cells, 3), dtype=np.float32)
    noise = noise.repeat(NOISE_CELL, axis=1).repeat(NOISE_CELL, axis=2)
    return frames + np.float32(rng.uniform(*NOISE)) * noise
