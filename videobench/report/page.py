"""A comparison as one self-contained page: no network, light and dark, for phone, screen and paper."""

import base64
import hashlib
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path

from videobench.compare.comparison import Comparison
from videobench.console import one_line
from videobench.files import write_whole
from videobench.report.cards import build_cards
from videobench.report.sections import (
    accuracy_section,
    divergence_section,
    groups_section,
    inputs_section,
    verdict_section,
)
from videobench.report.terminal import tell_points
from videobench.report.thumbnails import FrameStrips

FRAMES_BUDGET_BYTES = 6_000_000  # of pictures in the page, so that the whole stays below 10 MB


def write_html(path: Path, comparison: Comparison, video_root: Path | None) -> None:
    strips = FrameStrips(video_root, FRAMES_BUDGET_BYTES) if video_root else None
    write_whole(path, "\n".join(build_page(comparison, strips)).encode())
    if strips and strips.failures:
        vid_path, reason = next(iter(strips.failures.items()))
        more = f" and {len(strips.failures) - 1} more videos" if len(strips.failures) > 1 else ""
        told = one_line(f"no frames in the report for {vid_path} ({reason}){more}; check --Eval_Video_root")
        print(f"warning: {told}", file=sys.stderr)


def build_page(comparison: Comparison, strips: FrameStrips | None) -> Iterator[str]:
    style, script = (Path(__file__).with_name(name).read_text("utf-8") for name in ("page.css", "page.js"))
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    # No script but this one runs and nothing is fetched, whatever the data holds.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    yield '<link rel="icon" href="data:,">'
    yield f"<title>{comparison.verdict.name}: Video-Bench, NPU against GPU</title><style>{style}</style></head>"
    yield "<body><main>"
    yield "<header><h1>Video-Bench: is the NPU as good as the GPU?</h1>"
    yield f'<p class="soft">{escape(_subtitle(comparison))}</p></header>'
    for section in (verdict_section, inputs_section, accuracy_section, groups_section, divergence_section):
        yield from section(comparison)
    yield f"<h2>Flips: {len(comparison.flips)} questions with different letters</h2>"
    yield from build_cards(comparison.flips, strips)
    yield f"<h2>How to read this</h2>{_EXPLANATION}"
    yield f"</main><script>{script}</script></body></html>"


def _subtitle(comparison: Comparison) -> str:
    rows = {row.name: row for row in comparison.inputs.rows}
    names = (
        [f"{side.upper()}: {getattr(rows['device_name'], side)}" for side in ("npu", "gpu")]
        if "device_name" in rows
        else []
    )
    return ", ".join([*names, f"margin {tell_points(comparison.verdict.margin)}", f"scoring {comparison.scoring}"])


_EXPLANATION = """<div class="panel small soft">
<p><b>Verdict.</b> PASS: the whole 95 % interval of the difference of accuracies lies within the margin. FAIL: the
whole 99 % interval lies outside, or the log-probabilities show that a run is numerically broken. INCONCLUSIVE: neither,
or the reason named above allows no PASS.</p>
<p><b>Interval.</b> Bootstrap over videos, since questions on one video are not independent; where few videos hold a
difference, each end is the outer one of it and of Tango's score interval.</p>
<p><b>Divergence.</b> The log-probability of each option at the first generated position, NPU against GPU. A question's
difference is the largest one among its options. A margin is the best option's log-probability less the second best
one's.</p>
<p><b>Counts.</b> Unreadable, failed and missing answers are wrong and stay in the denominator.</p></div>"""
