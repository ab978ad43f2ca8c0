"""The report's plots as inline SVG; colours are the style sheet's, so that they follow light, dark and print.

Markup.format escapes each text that it fills in and is not Markup itself."""

import math
from collections.abc import Iterable

import numpy as np
from markupsafe import Markup

from videobench.compare.comparison import Comparison
from videobench.compare.statistics import FloatArray, wilson_interval
from videobench.report.build import Json

NUMBER_WIDTH = 42  # of an interval's end, "+11.23"
WIDTH = 480  # of every plot: text of 13 stays readable on a phone, where it is drawn at three quarters
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
    """The 95 % intervals of the difference, in points, against the margin: the one that decides below the other."""
    margin = float(report["margin_points"])
    measured = [("accuracy", report)] + ([("smoothed accuracy", report["smoothed"])] if report["smoothed"] else [])
    ends = [float(end) for _, group in measured for end in group["difference_ci95"]]
    reach = max(2 * margin, *(1.1 * abs(end) for end in ends))
    bottom = 30 + 40 * len(measured)

    def x_of(points: float) -> float:
        return WIDTH / 2 + points / reach * (WIDTH / 2 - 66)  # an interval's ends have their numbers beside them

    parts = [_rect(x_of(-margin), 18, x_of(margin) - x_of(-margin), bottom - 18, "zone")]
    parts += [_line(x_of(edge), 18, x_of(edge), bottom, "zone-edge") for edge in (-margin, margin)]
    parts += [_line(x_of(0), 18, x_of(0), bottom, "zero"), _line(20, bottom, WIDTH - 20, bottom, "axis")]
    parts += [_text(x_of(0), 12, "equal, within the margin", "middle small")]
    room = x_of(margin) - x_of(0)
    for edge, style in ((-margin, "end"), (0.0, "middle"), (margin, "")):
        shift = 0 if room > 44 else 4 * ((edge > 0) - (edge < 0))  # near each other: outwards from the line
        if edge or room > 8:
            text = f"{edge:+.3g}" if edge else "0"
            parts.append(_text(x_of(edge) + shift, bottom + 16, text, style if shift else "middle"))
    title = report["names"]["npu"]["title"]
    parts += [_text(20, bottom + 34, f"{title} worse", "small")]
    parts += [_text(WIDTH - 20, bottom + 34, f"{title} better", "end small")]
    titles = []
    for index, (name, group) in enumerate(measured):
        (low, high), middle, y = group["difference_ci95"], group["difference_points"], 54 + 40 * index
        parts += [_line(x_of(low), y, x_of(high), y, "interval")]
        parts += [_line(x_of(end), y - 7, x_of(end), y + 7, "interval") for end in (low, high)]
        parts += [_dot(x_of(middle), y, 6, "estimate")]
        parts += [_text(min(max(x_of(middle), 80), WIDTH - 80), y - 12, name, "middle small")]
        for end, outwards in ((low, -1), (high, 1)):
            x = x_of(end) + 8 * outwards
            for edge in (x_of(-margin), x_of(margin)):  # a line through the number would spoil it
                x = edge + 6 * outwards if 0 < (edge - x) * outwards < NUMBER_WIDTH else x
            parts.append(_text(x, y + 4, f"{end:+.2f}", "end" if outwards < 0 else ""))
        titles.append(f"{name} {middle:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}")
    return _svg(bottom + 38, f"Difference of {'; of '.join(titles)}; margin {margin:.3g}", parts)


def plot_accuracies(report: Json) -> Markup:
    """Both sides' accuracies in each data set, with Wilson's 95 % interval."""
    per_dataset = report["per_dataset"]
    left, row, bottom = 200.0, 26.0, 26.0 * len(per_dataset) + 6

    def x_of(accuracy: float) -> float:
        return left + accuracy * (WIDTH - left - 16)

    parts = []
    for percent in (0, 25, 50, 75, 100):
        parts.append(_line(x_of(percent / 100), 0, x_of(percent / 100), bottom, "grid"))
        parts.append(_text(x_of(percent / 100), bottom + 16, f"{percent}", "middle small"))
    for index, (name, group) in enumerate(per_dataset.items()):
        middle = row * index + row / 2 + 2
        parts.append(_text(left - 10, middle + 4, name if len(name) < 25 else f"{name[:23]}…", "end"))
        for side, y in (("npu", middle - 4), ("gpu", middle + 5)):
            accuracy, correct, total = (group[side][name] for name in ("accuracy", "correct", "total"))
            low, high = wilson_interval(correct, total)
            parts.append(_line(x_of(low), y, x_of(high), y, f"bar {side}"))
            title = f"{report['names'][side]['title']} {100 * accuracy:.1f} % ({correct}/{total})"
            parts.append(_dot(x_of(accuracy), y, 3.6, side, title))
    return _svg(bottom + 22, "Accuracy per data set, percent, with 95 % intervals", parts)


def plot_leads(comparison: Comparison) -> Markup:
    """NPU against GPU: the right option's log-probability less that of the best wrong one; flips are marked."""
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
            parts.append(_dot(x, y, 4.5, f"flip {kind}", f"{pair.key}: {kind}, {letters}"))
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
    """The questions' largest differences, logarithmic, beside the repeated run's and the limit of the dtype."""
    device = comparison.differences.largest
    repeat = comparison.noise.repeat.largest if comparison.noise.repeat else np.zeros(0)
    limit = comparison.diagnosis.limit
    low, high = _decades(np.concatenate([device, repeat, [limit]]))
    edges = np.arange(low * BINS_PER_DECADE, high * BINS_PER_DECADE + 1) / BINS_PER_DECADE
    left, right, floor = 46.0, WIDTH - 14.0, 214.0
    heights = [_proportions(values, edges) for values in (device, repeat)]
    top = max(float(each.max()) for each in heights) or 1.0

    def x_of(exponent: float) -> float:
        return left + (exponent - low) / (high - low) * (right - left)

    def y_of(proportion: float) -> float:
        return floor - proportion / top * (floor - 38)

    parts = []
    for values, style in zip(heights, ("device", "repeat"), strict=True):
        for edge, height in zip(edges, values, strict=False):
            if height:
                width = x_of(edge + 1 / BINS_PER_DECADE) - x_of(edge) - 1
                parts.append(_rect(x_of(edge) + 0.5, y_of(height), width, floor - y_of(height), style))
    marks = sorted([(comparison.noise.lead, "floor", "noise floor"), (limit, "limit", "tolerance")])
    first, second = (x_of(min(high, max(low, math.log10(value)))) for value, _, _ in marks)
    places = [first, max(second, first + 4)]  # neither line nor its name hides the other's
    parts += [_line(x, 4, x, floor, style) for x, (_, style, _) in zip(places, marks, strict=True)]
    for x, y, (_, _, text) in zip(places, (12, 28), marks, strict=True):
        parts.append(_text(x - 5, y, text, "end small") if x > WIDTH / 2 else _text(x + 5, y, text, "small"))
    parts.append(_line(left, floor, right, floor, "axis"))
    step = math.ceil((high - low + 1) * WIDEST_NUMBER / (right - left))
    for each in range(int(high), int(low) - 1, -step):
        parts.append(_text(x_of(each), floor + 16, f"{10.0**each:g}", "middle small"))
    parts.append(_text(left - 6, y_of(top) + 4, f"{100 * top:.0f} %", "end small"))
    parts.append(_text(left - 6, floor, "0", "end small"))
    parts.append(_text((left + right) / 2, floor + 34, "largest difference of a question, nats", "middle"))
    return _svg(floor + 42, "Distribution of the differences, beside the noise floor", parts)


def _decades(values: FloatArray) -> tuple[float, float]:
    positive = values[values > 0]
    low = math.floor(math.log10(float(np.quantile(positive, 0.005))))
    return float(max(low, -8)), float(math.ceil(math.log10(float(positive.max())) + 1e-9))


def _proportions(values: FloatArray, edges: FloatArray) -> FloatArray:
    """Of the values in each bin, 0 to 1; what is equal to the bit, or smaller than the axis, counts in the first."""
    if not len(values):
        return np.zeros(len(edges) - 1)
    exponents = np.log10(np.maximum(values, 10.0 ** edges[0] * 1.0001))
    return np.histogram(np.minimum(exponents, edges[-1]), edges)[0] / len(values)
