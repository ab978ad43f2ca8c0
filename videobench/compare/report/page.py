"""A comparison as one self-contained page: no network, light and dark, for phone, screen and paper.

page.html.jinja says what the page shows, page.css how it looks; page.js filters the flips. The template escapes every
text that is not Markup; Markup are only the style, the script and the plots.
"""

import base64
import hashlib
import math
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from videobench.compare.comparison import Comparison
from videobench.compare.flips import CLASSES, Flip
from videobench.compare.pairing import Pair
from videobench.compare.report.as_json import Json
from videobench.compare.report.plots import plot_accuracies, plot_histogram, plot_interval, plot_margins
from videobench.compare.report.terminal import margin_text
from videobench.compare.report.thumbnails import FrameStrips
from videobench.compare.same_inputs import DIFFERS, hashes_differ
from videobench.console import one_line
from videobench.files import write_whole
from videobench.video.spec import DEFAULT_NUM_FRAMES

FRAMES_BUDGET_BYTES = 6_000_000  # of pictures in the page, so that the whole stays below 10 MB
MOST_PANELS = 400  # the JSON has every flip; more would make the page slow and its file large
LONGEST_REPLY = 400  # characters shown
LISTED_KEYS = 300  # of a list of questions
SIDES = ("npu", "gpu")
VERSIONS = ("suite", "torch", "torch_npu", "cann", "npu_driver", "cuda", "transformers", "av")  # in the last line


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
    """The page as HTML; `report` is as_json.build_report's of this `comparison`."""
    return load_template().render(page_values(comparison, report, strips))


def load_template() -> Template:
    """page.html.jinja; rendering raises jinja2.UndefinedError where a name, a key or an attribute has no value."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["sentence"] = _sentence
    environment.globals.update(
        {each.__name__: each for each in (plot_interval, plot_accuracies, plot_margins, plot_histogram, margin_text)}
    )
    environment.globals.update(
        CLASSES=CLASSES, DIFFERS=DIFFERS, LISTED_KEYS=LISTED_KEYS, SIDES=SIDES, VERSIONS=VERSIONS
    )
    return environment.get_template("page.html.jinja")


def page_values(comparison: Comparison, report: Json, strips: FrameStrips | None) -> dict[str, Any]:
    """Name in the template -> value."""
    style, script = (Path(__file__).with_name(name).read_text("utf-8") for name in ("page.css", "page.js"))
    shown_flips = zip(comparison.flips, report["flips"][:MOST_PANELS], strict=False)
    return {
        "report": report,
        "comparison": comparison,  # for the plots' arrays
        "names": report["names"],
        "ranking": _ranking(report["weighted_average"], report["names"]),
        "flip_panels": [_flip_panel(flip, shown, strips) for flip, shown in shown_flips],
        "style": Markup(style),
        "script": Markup(script),
        "written": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "script_sha256": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


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
    replies = {side: getattr(pair, side).reply for side in SIDES}  # find_flips: both sides have one
    errors = {side: f"failed: {reply.error}" if reply.error else "" for side, reply in replies.items()}
    letters = list(pair.reply.options) or sorted({letter for reply in replies.values() for letter in reply.logprobs})
    return shown | {
        "dataset": pair.dataset,
        "question": pair.reply.own_question,
        "frames": _frames(pair, strips),
        "options": [
            {
                "letter": letter,
                "text": pair.reply.options.get(letter, ""),
                "percent": {side: _percent(reply.logprobs.get(letter)) for side, reply in replies.items()},
            }
            for letter in letters
        ],
        "replies": {side: _cut(errors[side] or shown[f"{side}_reply"]) for side in SIDES},
    }


def _percent(logprob: float | None) -> float | None:
    return None if logprob is None else 100 * math.exp(min(0.0, logprob))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_REPLY else f"{text[:LONGEST_REPLY]}…"


def _frames(pair: Pair, strips: FrameStrips | None) -> Json | None:
    """The picture of the frames, or why there is none; None where no pictures are asked for, or no video is named."""
    reply = pair.reply
    if strips is None or not reply.vid_path:
        return None
    count = reply.run.get("num_frames")
    seen = {each.video_sha256 for each in (pair.npu.reply, pair.gpu.reply) if each and each.video_sha256}
    return {
        "picture": strips.picture(reply.vid_path, count if isinstance(count, int) else DEFAULT_NUM_FRAMES, seen),
        "failure": strips.failures.get(reply.vid_path, "left out: the report's limit for pictures is reached"),
        "differ": hashes_differ(pair, "pixels_sha256"),
    }
