"""Write a comparison as one self-contained page: no network, light and dark, for phone, screen and paper.

page.html.jinja has the content, page.css the style; page.js filters the flips. The plots are inline SVG in the style
sheet's colours, so that they follow light, dark and print. The template and Markup.format escape every text that is not
Markup; only the style, the script and the plots are Markup.
"""

import base64
import hashlib
import math
import sys
from collections.abc import Collection, Iterable
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from videobench.compare.comparison import CLASSES, Comparison, Flip
from videobench.compare.pairing import Pair
from videobench.compare.same_inputs import DIFFERS, same_hash
from videobench.compare.settings import SIDES
from videobench.console import one_line
from videobench.data.dataset import VideoRoot
from videobench.data.rows import Reply
from videobench.errors import VideoError
from videobench.files import write_whole
from videobench.report.build import Json
from videobench.report.terminal import clusters_text, margin_text
from videobench.video.identity import sha256_of_video
from videobench.video.pixels import DEFAULT_NUM_FRAMES

FRAMES_BUDGET_BYTES = 6_000_000  # for the pictures, so that the page stays below 10 MB
MOST_PANELS = 400  # the JSON has every flip; more would make the page slow and its file large
LONGEST_REPLY = 400  # characters shown
LISTED_KEYS = 300  # of a list of questions
# The frames of a video: one JPEG, as a data URI.
COLUMNS = 4
CELL_WIDTH = 128  # pixels; 4 frames fill a phone's width
GAP, GAP_GREY = 4, 128  # pixels between frames, and their grey: visible on light and on dark
MOST_FRAMES = 64  # of one video: a result file may state any number, and all of them are decoded
JPEG_SCALE = 6  # quantiser of the encoder: 2 is best, 31 smallest
VERSIONS = ("suite", "torch", "torch_npu", "cann", "npu_driver", "cuda", "transformers", "av")  # in the last line


class FrameStrips:
    """Makes one picture per video in `video_root`, as data URIs of at most `budget_bytes` in all."""

    def __init__(self, video_root: Path, budget_bytes: int):
        self._root = VideoRoot(video_root)
        self._left = budget_bytes
        self._made: dict[str, str] = {}  # vid_path -> data URI
        self._hashes: dict[str, str] = {}  # vid_path -> SHA-256 of the video that was read
        self.failures: dict[str, str] = {}  # vid_path -> why there is no picture

    def picture(self, vid_path: str, num_frames: int, seen: Collection[str] = ()) -> str | None:
        """Make one JPEG of `num_frames` frames; `seen` are the SHA-256 of the video that the runs saw.

        None if there is no picture (`failures` has the reason), or if the budget is used up."""
        if vid_path not in self._made and vid_path not in self.failures:
            try:
                self._made[vid_path] = self._build(vid_path, num_frames)
            except VideoError as error:
                self.failures[vid_path] = str(error)
        if vid_path in self._made and seen and self._hashes[vid_path] not in seen:
            self.failures[vid_path] = "another video is there now than the one that was answered about"
            return None
        picture = self._made.get(vid_path)
        if picture is None or len(picture) > self._left:
            return None
        self._left -= len(picture)
        return picture

    def _build(self, vid_path: str, num_frames: int) -> str:
        from av.error import FFmpegError

        from videobench.video.frames import sample_frames
        from videobench.video.images import encode_jpeg

        if not 1 <= num_frames <= MOST_FRAMES:
            raise VideoError(f"{vid_path}: {num_frames} frames, the report shows 1 to {MOST_FRAMES}")
        try:
            video = self._root.locate(vid_path)
            if not video.exists():
                raise VideoError(f"{video}: missing")
            picture = encode_jpeg(tile(sample_frames(video, num_frames).pixels), JPEG_SCALE)
            self._hashes[vid_path] = sha256_of_video(video)
        except FFmpegError:  # many narrow frames: too high for a JPEG
            raise VideoError(f"{video}: its {num_frames} frames make no picture") from None
        except OSError as error:
            raise VideoError(f"{video}: cannot be read ({error.strerror})") from None
        except ValueError as error:
            raise VideoError(str(error).split(";")[0]) from None
        return "data:image/jpeg;base64," + base64.b64encode(picture).decode()


def tile(frames: np.ndarray) -> np.ndarray:
    """uint8 RGB (frames, height, width, 3) -> one picture, COLUMNS frames a row, each CELL_WIDTH wide, sides even."""
    from av.video.frame import VideoFrame

    height = max(2, round(frames.shape[1] * CELL_WIDTH / frames.shape[2] / 2) * 2)
    rows = -(-len(frames) // COLUMNS)
    size = (rows * (height + GAP) - GAP, COLUMNS * (CELL_WIDTH + GAP) - GAP, 3)
    picture = np.full(size, GAP_GREY, np.uint8)
    for index, frame in enumerate(frames):
        cell = VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        cell = cell.reformat(width=CELL_WIDTH, height=height, interpolation="AREA")
        row, column = divmod(index, COLUMNS)
        top, left = row * (height + GAP), column * (CELL_WIDTH + GAP)
        picture[top : top + height, left : left + CELL_WIDTH] = cell.to_ndarray(format="rgb24")
    return picture


def write_html(path: Path, comparison: Comparison, report: Json, video_root: Path | None) -> None:
    """Write the page of `comparison` and its `report`, with the flips' frames if there is a video root.

    One warning on stderr covers every video without frames. Raises InputError if `path` cannot be written."""
    strips = FrameStrips(video_root, FRAMES_BUDGET_BYTES) if video_root else None
    write_whole(path, build_page(comparison, report, strips).encode("utf-8", "replace"))
    if strips and strips.failures:
        vid_path, reason = next(iter(strips.failures.items()))
        more = f" and {len(strips.failures) - 1} more videos" if len(strips.failures) > 1 else ""
        warning = one_line(f"no frames in the report for {vid_path} ({reason}){more}; check --Eval_Video_root")
        print(f"warning: {warning}", file=sys.stderr)


def build_page(comparison: Comparison, report: Json, strips: FrameStrips | None) -> str:
    """Render the page; `report` is build_report(comparison).

    An undefined name, key or attribute raises jinja2.UndefinedError."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["sentence"] = lambda text: f"{text[:1].upper()}{text[1:]}."
    environment.globals.update(
        {each.__name__: each for each in (plot_interval, plot_leads, plot_histogram, margin_text, clusters_text)},
        CLASSES=CLASSES, DIFFERS=DIFFERS, LISTED_KEYS=LISTED_KEYS, SIDES=SIDES, VERSIONS=VERSIONS,
    )  # fmt: skip
    style, script = (Path(__file__).with_name(name).read_text("utf-8") for name in ("page.css", "page.js"))
    shown_flips = zip(comparison.flips, report["flips"][:MOST_PANELS], strict=False)
    return environment.get_template("page.html.jinja").render(
        report=report,
        comparison=comparison,  # for the plots' arrays
        names=report["names"],
        flip_panels=[_flip_panel(flip, shown, strips) for flip, shown in shown_flips],
        style=Markup(style),
        script=Markup(script),
        script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        written=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _flip_panel(flip: Flip, shown: Json, strips: FrameStrips | None) -> Json:
    """Extend `shown`, the report's entry of the flip, by frames, question, options and both sides' replies."""
    pair = flip.pair
    replies = dict(zip(SIDES, pair.replies, strict=True))
    letters = list(pair.reply.options) or sorted({letter for reply in replies.values() for letter in reply.logprobs})

    def percent(reply: Reply, letter: str) -> float | None:
        logprob = reply.logprobs.get(letter)
        return None if logprob is None else 100 * math.exp(min(0.0, logprob))

    return shown | {
        "dataset": pair.dataset,
        "question": pair.reply.own_question,
        "frames": _frames(pair, strips),
        "options": [
            {
                "letter": letter,
                "text": pair.reply.options.get(letter, ""),
                "percent": {side: percent(reply, letter) for side, reply in replies.items()},
            }
            for letter in letters
        ],
        "replies": {
            side: _cut(f"failed: {reply.error}" if reply.error else reply.text) for side, reply in replies.items()
        },
    }


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_REPLY else f"{text[:LONGEST_REPLY]}…"


def _frames(pair: Pair, strips: FrameStrips | None) -> Json | None:
    """The picture of the frames, or why there is none; None if no pictures are wanted, or no video is named."""
    reply = pair.reply
    if strips is None or not reply.vid_path:
        return None
    count = reply.run.get("num_frames")
    seen = {each.video_sha256 for each in pair.replies if each.video_sha256}
    return {
        "picture": strips.picture(reply.vid_path, count if isinstance(count, int) else DEFAULT_NUM_FRAMES, seen),
        "failure": strips.failures.get(reply.vid_path, "left out: the report's limit for pictures is reached"),
        "differ": same_hash(pair, "pixels_sha256") is False,
    }


# --- Plots ---

WIDTH = 480  # of every plot: text of size 13 stays readable on a phone, which draws it at three quarters
MOST_POINTS = 2500  # of the scatter: more hide each other and make the file heavy; flips are all drawn
BINS_PER_DECADE = 4
WIDEST_NUMBER = 56  # of an axis, "0.0001" in a phone's type


_line = Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>').format
_rect = Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" class="{}"/>').format


def _svg(height: float, title: str, parts: Iterable[Markup]) -> Markup:
    start = Markup('<svg viewBox="0 0 {} {:g}" role="img" aria-label="{title}"><title>{title}</title>')
    return start.format(WIDTH, height, title=title) + Markup("").join(parts) + Markup("</svg>")


def _text(x: float, y: float, text: str, style: str = "") -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" class="{}">{}</text>').format(x, y, style, text)


def _dot(x: float, y: float, radius: float, style: str, title: str = "") -> Markup:
    shown = Markup("<title>{}</title>").format(title) if title else ""
    return Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{:g}" class="{}">{}</circle>').format(x, y, radius, style, shown)


def plot_interval(report: Json) -> Markup:
    """Plot the 95 % intervals of the difference in points against the margin, the deciding one below the other."""
    margin = float(report["margin_points"])
    measured = [("accuracy", report)] + ([("smoothed accuracy", report["smoothed"])] if report["smoothed"] else [])
    ends = [float(end) for _, group in measured for end in group["difference_ci95"]]
    reach = max(2 * margin, *map(abs, ends))
    bottom = 30 + 40 * len(measured)

    def x_of(points: float) -> float:
        return WIDTH / 2 + points / reach * (WIDTH / 2 - 20)

    low_edge, high_edge = x_of(-margin), x_of(margin)
    parts = [_rect(low_edge, 18, high_edge - low_edge, bottom - 18, "zone")]
    parts += [_line(edge, 18, edge, bottom, "zone-edge") for edge in (low_edge, high_edge)]
    parts += [_line(x_of(0), 18, x_of(0), bottom, "zero"), _line(20, bottom, WIDTH - 20, bottom, "axis")]
    parts += [_text(x_of(0), 12, "equal, within the margin", "middle small")]
    parts += [
        _text(low_edge - 2, bottom + 16, f"-{margin:.3g}", "end"),
        _text(high_edge + 2, bottom + 16, f"+{margin:.3g}"),
    ]
    title = report["names"]["npu"]["title"]
    parts += [_text(20, bottom + 34, f"{title} worse", "small")]
    parts += [_text(WIDTH - 20, bottom + 34, f"{title} better", "end small")]
    labels = []
    for index, (name, group) in enumerate(measured):
        (low, high), middle, y = group["difference_ci95"], group["difference_points"], 54 + 40 * index
        labels.append(f"{name} {middle:+.2f} ({low:+.2f} to {high:+.2f})")
        parts += [_line(x_of(low), y, x_of(high), y, "interval")]
        parts += [_line(x_of(end), y - 7, x_of(end), y + 7, "interval") for end in (low, high)]
        parts += [_dot(x_of(middle), y, 6, "estimate"), _text(WIDTH / 2, y - 12, labels[-1], "middle small")]
    return _svg(bottom + 38, f"Difference in points, 95 % interval: {', '.join(labels)}; margin {margin:.3g}", parts)


def plot_leads(comparison: Comparison) -> Markup:
    """Plot the right option's lead over the best wrong one, NPU against GPU; flips are marked."""
    differences, names = comparison.differences, comparison.settings.names
    own, other = names.candidate.title, names.reference.title
    leads = differences.right_leads
    known = np.flatnonzero(~np.isnan(leads).any(axis=1))
    reach = max(1.0, float(np.quantile(np.abs(leads[known]), 0.99))) if len(known) else 1.0
    low, high = 62.0, WIDTH - 22.0  # beside the axis its numbers, and further out its name

    def x_of(value: float) -> float:
        return low + (max(-reach, min(reach, value)) + reach) / (2 * reach) * (high - low)

    def y_of(value: float) -> float:
        return high - (x_of(value) - low) - 26

    top, floor, zero_x, zero_y = y_of(reach), y_of(-reach), x_of(0), y_of(0)
    parts = [_rect(low, top, high - low, floor - top, "frame"), _line(low, floor, high, top, "grid")]
    parts += [_line(zero_x, top, zero_x, floor, "zero"), _line(low, zero_y, high, zero_y, "zero")]
    flips = {flip.pair.key: flip.kind for flip in comparison.flips}
    dots = [(differences.pairs[index], x_of(leads[index, 1]), y_of(leads[index, 0])) for index in known]
    plain = [(x, y) for pair, x, y in dots if pair.key not in flips]
    parts += [_dot(x, y, 2, "point") for x, y in plain[:: max(1, math.ceil(len(plain) / MOST_POINTS))]]
    for pair, x, y in dots:
        if kind := flips.get(pair.key):
            letters = f"{own} {pair.candidate.letter}, {other} {pair.reference.letter}, right {pair.right}"
            parts.append(_dot(x, y, 4.5, f"flip is-{kind}", f"{pair.key}: {kind}, {letters}"))
    for x, y, text, style in (  # above the dots
        (zero_x + 8, top + 18, "both right", "small"),
        (zero_x - 8, floor - 8, "both wrong", "end small"),
        (low + 8, top + 18, f"only {own} right", "small"),
        (high - 8, floor - 8, f"only {other} right", "end small"),
    ):
        parts.append(_text(x, y, text, style))
    for value in (-reach, 0.0, reach):
        parts.append(_text(x_of(value), floor + 17, f"{value:.1f}", "middle small"))
        parts.append(_text(low - 6, y_of(value) + 4, f"{value:.1f}", "end small"))
    parts.append(_text((low + high) / 2, floor + 34, f"{other} lead of the right option, nats", "middle"))
    turned = Markup('<g transform="translate(13 {:.1f}) rotate(-90)">{}</g>')
    parts.append(turned.format(zero_y, _text(0, 0, f"{own} lead, nats", "middle")))
    against = f"on {names.candidate.phrase} against {names.reference.phrase}"
    return _svg(floor + 42, f"Lead of the right option {against}; flips are marked", parts)


def plot_histogram(comparison: Comparison) -> Markup:
    """Plot the questions' largest differences on a log scale, with the tolerance."""
    largest, tolerance = comparison.differences.largest, comparison.diagnosis.limit
    positive = np.append(largest[largest > 0], tolerance)
    low = max(-8, math.floor(math.log10(float(np.quantile(positive, 0.005)))))
    high = max(low + 1, math.ceil(math.log10(float(positive.max())) + 1e-9))
    edges = np.arange(low * BINS_PER_DECADE, high * BINS_PER_DECADE + 1) / BINS_PER_DECADE
    exponents = np.log10(np.maximum(largest, 10.0**low * 1.0001))  # smaller ones, and 0, count in the first bin
    proportions = np.histogram(exponents, edges)[0] / len(largest)
    top = float(proportions.max())
    left, right, floor = 46.0, WIDTH - 14.0, 214.0

    def x_of(exponent: float) -> float:
        return left + (exponent - low) / (high - low) * (right - left)

    parts = []
    width = x_of(1 / BINS_PER_DECADE) - x_of(0)
    for edge, proportion in zip(edges, proportions, strict=False):
        height = proportion / top * (floor - 38)
        parts.append(_rect(x_of(edge) + 0.5, floor - height, width - 1, height, "bin"))
    limit = x_of(math.log10(tolerance))
    parts.append(_line(limit, 4, limit, floor, "limit"))
    shift, style = (-5, "end small") if limit > WIDTH / 2 else (5, "small")
    parts.append(_text(limit + shift, 12, "tolerance", style))
    parts.append(_line(left, floor, right, floor, "axis"))
    step = math.ceil((high - low + 1) * WIDEST_NUMBER / (right - left))
    for each in range(high, low - 1, -step):
        parts.append(_text(x_of(each), floor + 16, f"{10.0**each:g}", "middle small"))
    parts.append(_text(left - 6, 42, f"{100 * top:.0f} %", "end small"))
    parts.append(_text(left - 6, floor, "0", "end small"))
    parts.append(_text((left + right) / 2, floor + 34, "largest difference of a question, nats", "middle"))
    return _svg(floor + 42, "Distribution of the questions' largest differences, with the tolerance", parts)
