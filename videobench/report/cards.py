"""The report's flips as cards: what the model saw, was asked and answered, on both devices."""

import math
from collections.abc import Iterator, Sequence
from html import escape

from videobench.compare.flips import CLASSES, Flip
from videobench.compare.pairing import Pair
from videobench.compare.same_inputs import pixels_differ
from videobench.report.as_json import count_classes
from videobench.report.thumbnails import FrameStrips
from videobench.video.spec import DEFAULT_NUM_FRAMES

MOST_CARDS = 400  # the JSON has every flip; more would make the page slow and its file large
LONGEST_REPLY = 400  # characters shown


def build_cards(flips: Sequence[Flip], strips: FrameStrips | None) -> Iterator[str]:
    if not flips:
        yield '<p class="soft">None: both devices gave the same letter to every question.</p>'
        return
    counts = count_classes(flips)
    yield '<p class="legend">' + "".join(
        f'<span class="is-{kind}"><b>{kind} {count}: {escape(CLASSES[kind])}</b></span>'
        for kind, count in counts.items()
        if count
    )
    yield "</p>"
    yield _filters(flips[:MOST_CARDS])
    yield '<div class="cards">'
    for flip in flips[:MOST_CARDS]:
        yield _card(flip, strips)
    yield "</div>"
    if len(flips) > MOST_CARDS:
        yield f'<p class="soft">{len(flips) - MOST_CARDS} more flips are in the JSON report only.</p>'


def _filters(flips: Sequence[Flip]) -> str:
    kinds = [kind for kind, count in count_classes(flips).items() if count]
    sets = list(dict.fromkeys(sorted(flip.pair.dataset for flip in flips)))
    return (
        '<div class="filters">'
        f'<label>Class<select id="by-class">{_choices("All classes", kinds)}</select></label>'
        f'<label>Data set<select id="by-set">{_choices("All data sets", sets)}</select></label>'
        f'<span id="shown" class="soft small" role="status">{len(flips)} of {len(flips)} shown</span></div>'
    )


def _choices(every: str, values: Sequence[str]) -> str:
    options = "".join(f'<option value="{escape(value)}">{escape(value)}</option>' for value in values)
    return f'<option value="">{every}</option>{options}'


def _card(flip: Flip, strips: FrameStrips | None) -> str:
    pair = flip.pair
    parts = [
        f'<article class="card panel" data-class="{flip.kind}" data-set="{escape(pair.dataset)}">',
        f'<header><b>{escape(pair.key)}</b><span class="badge is-{flip.kind}">{flip.kind}</span></header>',
        _frames(pair, strips),
        f'<p class="question">{escape(pair.reply.own_question) or "(the files do not give the question)"}</p>',
        "".join(_options(flip)),
        _replies(flip),
        "</article>",
    ]
    return "".join(parts)


def _frames(pair: Pair, strips: FrameStrips | None) -> str:
    reply = pair.reply
    if strips is None or not reply.vid_path:
        return ""
    count = reply.run.get("num_frames")
    uri = strips.data_uri(reply.vid_path, count if isinstance(count, int) else DEFAULT_NUM_FRAMES)
    if uri:
        differ = '<p class="soft small">The two runs saw other frames; these are read anew, as for the GPU.</p>'
        image = f'<img src="{uri}" alt="The frames that the model saw, in their order" loading="lazy">'
        return image + (differ if pixels_differ(pair) else "")
    failure = strips.failures.get(reply.vid_path, "left out: the report has enough pictures")
    return f'<p class="soft small">No frames: {escape(failure)}</p>'


def _options(flip: Flip) -> Iterator[str]:
    """A line for each option: its text, who chose it, and its probability on both devices."""
    pair = flip.pair
    sides = {side: getattr(pair, side) for side in ("npu", "gpu")}
    letters = list(pair.reply.options) or sorted({letter for side in sides.values() for letter in side.reply.logprobs})
    for letter in letters:
        marks = [
            f'<span class="mark is-{name}">{name.upper()}</span>'
            for name, side in sides.items()
            if side.letter == letter
        ]
        is_right = letter == pair.right
        if is_right:
            marks.append('<span class="mark">right answer</span>')
        text = escape(pair.reply.options.get(letter, ""))
        bars = "".join(_bar(name, side.reply.logprobs.get(letter)) for name, side in sides.items())
        yield (
            f'<div class="option{" right" if is_right else ""}"><b>{escape(letter)}</b><p>{text}{"".join(marks)}</p>'
            f'<div class="bars">{bars}</div></div>'
        )


def _bar(side: str, logprob: float | None) -> str:
    if logprob is None:
        return "<u></u><span>-</span>"
    percent = 100 * math.exp(min(0.0, logprob))
    return f'<u><i class="{side}" style="width:{percent:.1f}%"></i></u><span>{percent:.1f} %</span>'


def _replies(flip: Flip) -> str:
    rows = []
    for name, side, margin in (("npu", flip.pair.npu, flip.npu_margin), ("gpu", flip.pair.gpu, flip.gpu_margin)):
        reply = side.reply
        assert reply, "a flip has a reply on both sides"
        told = f"failed: {reply.error}" if reply.error else reply.text
        shown = told if len(told) <= LONGEST_REPLY else f"{told[:LONGEST_REPLY]}…"
        read = f"read as {side.letter}" if side.letter else "no letter"
        clear = "" if margin is None else f", margin {margin:.3f} nats"
        rows.append(
            f'<dt class="is-{name}">{name.upper()}</dt>'
            f'<dd><code>{escape(shown) or "(empty)"}</code> <span class="soft">{read}{clear}</span></dd>'
        )
    return f'<dl class="replies">{"".join(rows)}</dl>'
