"""A comparison as one self-contained page: no network, light and dark, for phone, screen and paper.

page.html.jinja says what the page shows, page.css how it looks; page.js filters the flips. The template escapes every
text that is not Markup; Markup are only the style, the script and the plots.
"""

import base64
import hashlib
import math
import sys
from collections.abc import Collection
from dataclasses import dataclass
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
from videobench.errors import VideoError
from videobench.files import write_whole
from videobench.report.build import Json
from videobench.report.plots import plot_accuracies, plot_histogram, plot_interval, plot_leads
from videobench.report.terminal import margin_text
from videobench.video.identity import sha256_of_video
from videobench.video.pixels import DEFAULT_NUM_FRAMES

FRAMES_BUDGET_BYTES = 6_000_000  # of pictures in the page, so that the whole stays below 10 MB
MOST_PANELS = 400  # the JSON has every flip; more would make the page slow and its file large
LONGEST_REPLY = 400  # characters shown
LISTED_KEYS = 300  # of a list of questions
# Of the frames that the model saw: one JPEG for a video, as a data URI.
COLUMNS = 4
CELL_WIDTH = 128  # pixels; 4 frames fill a phone's width
GAP, GAP_GREY = 4, 128  # pixels between frames, and their grey: visible on light and on dark
MOST_FRAMES = 64  # of one video: a result file may state any number, and each frame is decoded
JPEG_SCALE = 6  # quantiser of the encoder: 2 is best, 31 smallest
VERSIONS = ("suite", "torch", "torch_npu", "cann", "npu_driver", "cuda", "transformers", "av")  # in the last line


@dataclass(frozen=True)
class Picture:
    uri: str
    width: int  # pixels
    height: int


class FrameStrips:
    """Pictures of the videos in `video_root`, each made once; at most `budget_bytes` of data URIs in all."""

    def __init__(self, video_root: Path, budget_bytes: int):
        self._root = VideoRoot(video_root)
        self._left = budget_bytes
        self._made: dict[str, Picture] = {}
        self._hashes: dict[str, str] = {}  # vid_path -> SHA-256 of the video that was read
        self.failures: dict[str, str] = {}  # vid_path -> why there is no picture

    def picture(self, vid_path: str, num_frames: int, seen: Collection[str] = ()) -> Picture | None:
        """`num_frames` frames of the video as one JPEG; `seen` are the SHA-256 of the video that was answered about.

        None if there is no picture, for which `failures` has the reason, or if the budget does not reach."""
        if vid_path not in self._made and vid_path not in self.failures:
            try:
                self._made[vid_path] = self._build(vid_path, num_frames)
            except VideoError as error:
                self.failures[vid_path] = str(error)
        if vid_path in self._made and seen and self._hashes[vid_path] not in seen:
            self.failures[vid_path] = "another video lies there than the one that was answered about"
            return None
        picture = self._made.get(vid_path)
        if picture and len(picture.uri) <= self._left:
            self._left -= len(picture.uri)
            return picture
        return None

    def _build(self, vid_path: str, num_frames: int) -> Picture:
        from av.error import FFmpegError

        from videobench.video.frames import sample_frames
        from videobench.video.images import encode_jpeg

        if not 1 <= num_frames <= MOST_FRAMES:
            raise VideoError(f"{vid_path}: {num_frames} frames, the report shows 1 to {MOST_FRAMES}")
        try:
            video = self._root.locate(vid_path)
            if not video.exists():
                raise VideoError(f"{video}: missing")
            pixels = tile(sample_frames(video, num_frames).pixels)
            self._hashes[vid_path] = sha256_of_video(video)
            picture = encode_jpeg(pixels, JPEG_SCALE)
        except FFmpegError:  # many frames, very narrow: higher than a JPEG may be
            raise VideoError(f"{video}: its {num_frames} frames make no picture") from None
        except OSError as error:
            raise VideoError(f"{video}: cannot be read ({error.strerror})") from None
        except ValueError as error:
            raise VideoError(str(error).split(";")[0]) from None
        uri = "data:image/jpeg;base64," + base64.b64encode(picture).decode()
        return Picture(uri, pixels.shape[1], pixels.shape[0])


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
    """Write the page of `comparison` and its `report`, with the flips' frames where there is a video root.

    One warning on stderr covers every video without frames. Raises InputError where `path` cannot be written."""
    strips = FrameStrips(video_root, FRAMES_BUDGET_BYTES) if video_root else None
    write_whole(path, build_page(comparison, report, strips).encode("utf-8", "replace"))
    if strips and strips.failures:
        vid_path, reason = next(iter(strips.failures.items()))
        more = f" and {len(strips.failures) - 1} more videos" if len(strips.failures) > 1 else ""
        warning = one_line(f"no frames in the report for {vid_path} ({reason}){more}; check --Eval_Video_root")
        print(f"warning: {warning}", file=sys.stderr)


def build_page(comparison: Comparison, report: Json, strips: FrameStrips | None) -> str:
    """The page as HTML; `report` is build.build_report's of this `comparison`.

    A name, a key or an attribute without a value raises jinja2.UndefinedError."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["sentence"] = lambda text: f"{text[:1].upper()}{text[1:]}."
    environment.globals.update(
        {each.__name__: each for each in (plot_interval, plot_accuracies, plot_leads, plot_histogram, margin_text)},
        CLASSES=CLASSES, DIFFERS=DIFFERS, LISTED_KEYS=LISTED_KEYS, SIDES=SIDES, VERSIONS=VERSIONS,
    )  # fmt: skip
    style, script = (Path(__file__).with_name(name).read_text("utf-8") for name in ("page.css", "page.js"))
    shown_flips = zip(comparison.flips, report["flips"][:MOST_PANELS], strict=False)
    return environment.get_template("page.html.jinja").render(
        report=report,
        comparison=comparison,  # for the plots' arrays
        names=report["names"],
        ranking=_ranking(report["weighted_average"], report["names"]),
        flip_panels=[_flip_panel(flip, shown, strips) for flip, shown in shown_flips],
        style=Markup(style),
        script=Markup(script),
        script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        written=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _ranking(averages: Json, names: Json) -> list[tuple[float, str, str]]:
    """(percent, name, "npu", "gpu" or ""), best first: both runs among the leaderboard's published averages."""
    rows = [(value, name, "") for name, value in averages["reference"].items()]
    rows += [
        (averages[side]["all"], f"this {names[side]['title']} run", side) for side in SIDES if "all" in averages[side]
    ]
    return sorted(rows, reverse=True)


def _flip_panel(flip: Flip, shown: Json, strips: FrameStrips | None) -> Json:
    """`shown`, the report's entry of the flip, with what the model saw, was asked and answered on both devices."""
    pair = flip.pair
    replies = {side: getattr(pair, name).reply for side, name in SIDES.items()}  # find_flips: both sides have one
    errors = {side: f"failed: {reply.error}" if reply.error else "" for side, reply in replies.items()}
    chances = {
        side: {letter: math.exp(min(0.0, each)) for letter, each in reply.logprobs.items()}
        for side, reply in replies.items()
    }
    letters = list(pair.reply.options) or sorted({letter for reply in replies.values() for letter in reply.logprobs})
    return shown | {
        "dataset": pair.dataset,
        "question": pair.reply.own_question,
        "frames": _frames(pair, strips),
        "options": [
            {
                "letter": letter,
                "text": pair.reply.options.get(letter, ""),
                "percent": {side: 100 * chances[side][letter] if letter in chances[side] else None for side in SIDES},
            }
            for letter in letters
        ],
        "replies": {side: _cut(errors[side] or shown[f"{side}_reply"]) for side in SIDES},
    }


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_REPLY else f"{text[:LONGEST_REPLY]}…"


def _frames(pair: Pair, strips: FrameStrips | None) -> Json | None:
    """The picture of the frames, or why there is none; None where no pictures are asked for, or no video is named."""
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
