"""Synthetic clips of moving shapes: what a random clip shows, and its frames.

There are two sorts of clip. In a moving clip one shape crosses the picture, up to three copies of it stand still, and
their color may change once. In a sequence clip one shape stands still until it gives way to another one. The facts of
a clip (kind of question -> answer) are known from its making, so questions about it (clip_questions.py) need no label.

Times are shares of a clip's length, from 0 (first frame) to below 1; places are shares of a frame's side.
"""

import random
from dataclasses import dataclass

import numpy as np

SIDE = 96  # pixels: width and height of a frame
FEWEST_FRAMES, MOST_FRAMES = 24, 64  # length of a clip

RGB = tuple[int, int, int]
Point = tuple[float, float]  # (x, y), y downwards

COLORS: dict[str, RGB] = {
    "black": (20, 20, 20),
    "blue": (50, 80, 220),
    "green": (40, 170, 60),
    "orange": (245, 140, 30),
    "purple": (150, 50, 180),
    "red": (220, 40, 40),
    "white": (240, 240, 240),
    "yellow": (235, 220, 50),
}
COLOR_NAMES = sorted(COLORS)
SHAPE_KINDS = ["circle", "cross", "square", "triangle"]
COUNTS = ["one", "two", "three", "four"]
DIRECTIONS: dict[str, Point] = {"down": (0, 1), "left": (-1, 0), "right": (1, 0), "up": (0, -1)}


@dataclass(frozen=True)
class Shape:
    kind: str  # one of SHAPE_KINDS
    radius_px: float
    start: Point  # its centre at time 0 ...
    end: Point  # ... and at time 1; in between it moves evenly
    color: str  # one of COLOR_NAMES
    late_color: str  # its color from `recolored_at` on
    recolored_at: float = 1.0
    appears_at: float = 0.0
    vanishes_at: float = 1.0

    def is_visible(self, time: float) -> bool:
        return self.appears_at <= time < self.vanishes_at

    def color_at(self, time: float) -> str:
        return self.late_color if time >= self.recolored_at else self.color

    def centre(self, time: float) -> Point:
        (x0, y0), (x1, y1) = self.start, self.end
        return x0 + (x1 - x0) * time, y0 + (y1 - y0) * time


@dataclass(frozen=True)
class Clip:
    num_frames: int
    background: str  # one of COLOR_NAMES
    colors: tuple[str, ...]  # every color that can be seen, the background first
    palette: dict[str, RGB]  # this clip's shade of each of them
    shapes: tuple[Shape, ...]  # drawn in this order
    facts: dict[str, str]  # kind of question -> answer, as {"background": "red", "direction": "left"}


def make_clip(rng: random.Random) -> Clip:
    """A random clip: three in five are moving clips, the others sequence clips."""
    colors = tuple(rng.sample(COLOR_NAMES, 3))
    make_shapes = make_moving_shapes if rng.random() < 0.6 else make_sequence_shapes
    shapes, facts = make_shapes(rng, *colors[1:])
    return Clip(
        num_frames=rng.randint(FEWEST_FRAMES, MOST_FRAMES),
        background=colors[0],
        colors=colors,
        palette={color: random_shade(rng, color) for color in colors},
        shapes=shapes,
        facts=facts | {"background": colors[0]},
    )


def random_shade(rng: random.Random, color: str) -> RGB:
    red, green, blue = (min(255, max(0, value + rng.randint(-14, 14))) for value in COLORS[color])
    return red, green, blue


def make_moving_shapes(rng: random.Random, color: str, other: str) -> tuple[tuple[Shape, ...], dict[str, str]]:
    """One shape that crosses the picture, and 0 to 3 copies of it on the other side of its way."""
    kind, direction, count = rng.choice(SHAPE_KINDS), rng.choice(sorted(DIRECTIONS)), rng.randint(1, len(COUNTS))
    recolored_at = rng.uniform(0.3, 0.7) if rng.random() < 0.5 else 1.0
    side = rng.choice([-1, 1])  # of the middle, on which the moving shape keeps to its lane
    lane = 0.5 - side * rng.uniform(0.14, 0.3)
    start, end = 0.5 - rng.uniform(0.24, 0.36), 0.5 + rng.uniform(0.24, 0.36)
    if sum(DIRECTIONS[direction]) < 0:
        start, end = end, start
    sideways = DIRECTIONS[direction][0] != 0

    def place(along: float, across: float) -> Point:
        return (along, across) if sideways else (across, along)

    shapes = [Shape(kind, rng.uniform(11, 15), place(start, lane), place(end, lane), color, other, recolored_at)]
    for slot in rng.sample([0.18, 0.5, 0.82], count - 1):
        spot = place(slot + rng.uniform(-0.04, 0.04), 0.5 + side * 0.27 + rng.uniform(-0.05, 0.05))
        shapes.append(Shape(kind, rng.uniform(9, 12), spot, spot, color, other, recolored_at))
    facts = {"shape": kind, "direction": direction, "count": COUNTS[count - 1]}
    if recolored_at < 1:
        facts |= {"change": "yes", "first_color": color, "last_color": other}
    else:
        facts |= {"change": "no", "color": color}
    return tuple(shapes), facts


def make_sequence_shapes(rng: random.Random, color: str, other: str) -> tuple[tuple[Shape, ...], dict[str, str]]:
    """One shape, and from some moment on another one of another kind, color and place."""
    first_kind, last_kind = rng.sample(SHAPE_KINDS, 2)
    swapped_at = rng.uniform(0.3, 0.7)
    first_spot, last_spot = ((rng.uniform(0.28, 0.72), rng.uniform(0.28, 0.72)) for _ in range(2))
    shapes = (
        Shape(first_kind, rng.uniform(13, 19), first_spot, first_spot, color, color, vanishes_at=swapped_at),
        Shape(last_kind, rng.uniform(13, 19), last_spot, last_spot, other, other, appears_at=swapped_at),
    )
    facts = {"first_shape": first_kind, "last_shape": last_kind, "first_color": color, "last_color": other}
    return shapes, facts


def all_times(clip: Clip) -> list[float]:
    return [frame / clip.num_frames for frame in range(clip.num_frames)]


def render(clip: Clip, times: list[float]) -> np.ndarray:
    """The frames at `times`: uint8 RGB (len(times), SIDE, SIDE, 3), edges one pixel soft."""
    frames = np.empty((len(times), SIDE, SIDE, 3), np.float32)
    frames[:] = clip.palette[clip.background]
    for frame, time in zip(frames, times, strict=True):
        for shape in clip.shapes:
            if shape.is_visible(time):
                draw_shape(frame, shape, time, clip.palette)
    return frames.round().astype(np.uint8)


def draw_shape(frame: np.ndarray, shape: Shape, time: float, palette: dict[str, RGB]) -> None:
    """Paints into `frame`, float32 (SIDE, SIDE, 3), only within the box around the shape."""
    x, y = (SIDE * value for value in shape.centre(time))
    reach = shape.radius_px + 2
    left, right = (int(np.clip(edge, 0, SIDE)) for edge in (x - reach, x + reach + 1))
    top, bottom = (int(np.clip(edge, 0, SIDE)) for edge in (y - reach, y + reach + 1))
    dx = np.arange(left, right, dtype=np.float32) + 0.5 - x  # pixel centres
    dy = np.arange(top, bottom, dtype=np.float32)[:, None] + 0.5 - y
    cover = np.clip(0.5 - signed_distance(shape.kind, dx, dy, shape.radius_px), 0, 1)[..., None]
    box = frame[top:bottom, left:right]
    box += cover * (np.asarray(palette[shape.color_at(time)], np.float32) - box)


def signed_distance(kind: str, dx: np.ndarray, dy: np.ndarray, radius: float) -> np.ndarray:
    """Pixels to the outline of a shape at the origin, below 0 inside it; about so at the corners."""
    across, along = abs(dx), abs(dy)
    if kind == "circle":
        return np.hypot(dx, dy) - radius
    if kind == "square":
        return np.maximum(across, along) - 0.85 * radius
    if kind == "triangle":
        return np.maximum(dy - 0.7 * radius, 0.87 * across - 0.5 * dy - 0.5 * radius)
    lying = np.maximum(across - radius, along - radius / 3)
    standing = np.maximum(along - radius, across - radius / 3)
    return np.minimum(lying, standing)
