"""How many operations the answers need, and how many a second the device does."""

import math
import time
from collections.abc import Sequence

import torch

from tests.support.random_checkpoint import Shape


def floor_operations(shape: Shape, num_frames: int, num_videos: int, prefix: int, suffixes: Sequence[int]) -> float:
    """Floating-point operations that cannot be done without when each video is encoded once.

    Two for each weight and token, four for each pair of positions and channel of attention (causal: half of the pairs);
    of the vision tower all layers but the last, which nothing reads; of the vocabulary's matrix, one position a
    question and one for the token after it. `suffixes` are the tokens of each question behind the video."""
    text_hidden, text_inner, text_layers, _ = shape.text
    hidden, inner, layers, _ = shape.vision
    tokens = shape.patches + 1
    vision = (layers - 1) * (2 * tokens * (4 * hidden**2 + 2 * hidden * inner) + 4 * tokens**2 * hidden)
    vision += 2 * shape.patches * 3 * 14 * 14 * hidden
    projector = 2 * (shape.patches // 4) * (hidden * text_hidden + text_hidden**2)
    weights = text_layers * (4 * text_hidden**2 + 3 * text_hidden * text_inner)
    per_pair = 4 * text_layers * text_hidden
    videos = num_videos * (2 * weights * prefix + per_pair * prefix**2 / 2 + num_frames * (vision + projector))
    questions = sum(
        2 * weights * (own + 1) + per_pair * ((own + 1) * prefix + own**2 / 2) + 4 * text_hidden * shape.vocabulary
        for own in suffixes
    )
    return videos + questions


def matrix_rate(device: torch.device, dtype: torch.dtype, size: int, seconds: float = 2.0) -> float:
    """Operations a second of a product of square matrices, the best of those that fit in so much time."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best, end = math.inf, time.monotonic() + seconds
    while time.monotonic() < end or best is math.inf:
        begun = time.monotonic()
        float((left @ right)[0, 0])  # waits for the device
        best = min(best, time.monotonic() - begun)
    return 2 * size**3 / best
