"""SVG charts of the distribution of PSNR, and of PSNR against bits per pixel."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

WIDTH, HEIGHT = 460, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 20, 32, 34
_MOST_BINS = 20
_MOST_BARS = 48  # with more bars, each bar is hardly wider than the gap to the next bin
_MOST_TICKS = 6  # labels of six digits still fit beside each other
_SMALLEST_STEP = 0.001  # closer ticks would need labels wider than the margin
_LOG_FROM = 8  # an axis is logarithmic if largest value / smallest value exceeds this
_SHARE_OF_BARS = 0.8  # the rest of a bin separates it from the next bin
COLORS = ("#2a6fdb", "#d9822b", "#2e9e5b", "#b0439c", "#8a7a1c", "#c23b3b")

# The outlines of the points, around (0, 0). Outlines of different shapes stay visible if points of
# several series lie on the same place. The characters show the same shapes in the legend.
_MARKS = (
    ("M-3 0a3 3 0 1 0 6 0a3 3 0 1 0 -6 0z", "&#9675;"),
    ("M-3 -3h6v6h-6z", "&#9633;"),
    ("M0 -4L4 0L0 4L-4 0z", "&#9671;"),
    ("M0 -4L4 3H-4z", "&#9651;"),
    ("M-3 -3L3 3M-3 3L3 -3", "&#215;"),
    ("M-4 0H4M0 -4V4", "&#43;"),
)

_DASHES = ("none", "6 3", "2 3", "8 3 2 3", "12 4", "4 2 1 2 1 2", "1 4")


@dataclass(frozen=True)
class Series:
    """The points (bits per pixel, dB) of one folder of reconstructions, and their centre."""

    name: str
    points: Sequence[tuple[float, float]]
    centre: tuple[float, float] | None


@dataclass(frozen=True)
class Line:
    """The points of a line in a chart, from left to right."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Axis:
    """Maps a value between the first and the last tick to a position in pixels.

    The first tick lies at `start`, the last tick at `stop`. If `is_log`, the scale is logarithmic
    and all ticks must be above 0. `labels` are the ticks that have a label.
    """

    ticks: Sequence[float]
    start: float
    stop: float
    labels: Sequence[str]
    is_log: bool = False

    def place(self, value: float) -> float:
        """Returns the position of a value in pixels."""
        low, high = self.ticks[0], self.ticks[-1]
        if self.is_log:
            share = math.log(value / low) / math.log(high / low)
        else:
            share = (value - low) / (high - low)
        return self.start + share * (self.stop - self.start)


def choose_step(span: float, parts: int, smallest: float = _SMALLEST_STEP) -> float:
    """Returns the smallest 1, 2 or 5 times 10^k that divides `span` into at most `parts` parts.

    Returns at least `smallest`, and at least 1 if `span` is 0.
    """
    if span <= 0:
        return max(1.0, smallest)
    wanted = max(span / parts, smallest)
    power = 10.0 ** math.floor(math.log10(wanted))
    # The factor accepts 0.1 + 0.2 as 0.3. 10 covers a power that was rounded down.
    return next(power * digit for digit in (1, 2, 5, 10) if power * digit * (1 + 1e-9) >= wanted)


def list_round_values(low: float, high: float, step: float) -> list[float]:
    """Returns at least two multiples of `step`. They begin at or below `low`, and reach `high`."""
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    return [round(number * step, 12) for number in range(first, last + 1)]


def lay_axis(
    low: float, high: float, start: float, stop: float, smallest: float = _SMALLEST_STEP
) -> Axis:
    """Returns a linear axis that includes `low` and `high` and has round ticks."""
    step = choose_step(high - low, _MOST_TICKS - 1, smallest)
    ticks = list_round_values(low, high, step)
    return Axis(ticks, start, stop, [_format_tick(tick, step) for tick in ticks])


def lay_log_axis(low: float, high: float, start: float, stop: float) -> Axis:
    """Returns a logarithmic axis that includes `low` and `high`, both above 0.

    The ticks are 1, 2 and 5 times 10^k. If the labels of all ticks do not fit, only powers of 10
    have a label.
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = [float(f"{digit}e{power}") for power in decades for digit in (1, 2, 5)]
    first = max(step for step in steps if step <= low)
    last = min(step for step in steps if step >= high)
    ticks = [step for step in steps if first <= step <= last]
    every = len(ticks) <= _MOST_TICKS + 1
    labels = [_format_tick(tick, tick) if every or _is_power(tick) else "" for tick in ticks]
    return Axis(ticks, start, stop, labels, is_log=True)


def draw_histogram(series: Sequence[tuple[str, Sequence[float]]]) -> str:
    """Returns a chart with the PSNR values of each series, or "" if there are no values.

    Each bin has one bar per series, side by side, so that no bar hides another bar.
    """
    everything = [value for _, values in series for value in values]
    if not everything:
        return ""
    low, high = min(everything), max(everything)
    bins = max(1, min(_MOST_BINS, _MOST_BARS // len(series)))
    edges = list_round_values(low, high, choose_step(high - low, bins))
    # A rounded edge may lie beyond the value by a billionth of a bin.
    clipped = [np.clip(values, edges[0], edges[-1]) for _, values in series]
    counts = [np.histogram(values, edges)[0] for values in clipped]
    across = lay_axis(edges[0], edges[-1], _LEFT, WIDTH - _RIGHT)
    up = lay_axis(0, max(int(count.max()) for count in counts), HEIGHT - _BOTTOM, _TOP, 1)
    bin_width = across.place(edges[1]) - across.place(edges[0])
    width, margin = _SHARE_OF_BARS * bin_width / len(series), (1 - _SHARE_OF_BARS) / 2 * bin_width
    bars = []
    for number, ((name, _), count) in enumerate(zip(series, counts, strict=True)):
        for (low, high), images in zip(pairwise(edges), count, strict=True):
            x = across.place(low) + margin + number * width
            title = f"{name}: {images} from {low:.10g} to {high:.10g} dB"
            bars += [_draw_bar(x, width, up, images, number, title)] if images else []
    body = "".join([*_draw_axes(across, up, "PSNR, dB", "images"), *bars])
    order = " (bars from left to right)" if len(series) > 1 else ""
    return _wrap(body, f"Histogram of PSNR{order}", [(name, "&#9632;") for name, _ in series])


def _draw_bar(x: float, width: float, up: Axis, count: int, number: int, title: str) -> str:
    top, color = up.place(count), COLORS[number % len(COLORS)]
    return (
        f'<rect class="mark" x="{x:.1f}" y="{top:.1f}" width="{width:.1f}" '
        f'height="{up.start - top:.1f}" fill="{color}"><title>{html.escape(title)}</title></rect>'
    )


def draw_scatter(series: Sequence[Series]) -> str:
    """Returns a chart that shows the points and the centre of each series.

    Returns "" if there are no points.
    """
    points = [point for each in series for point in each.points]
    if not points:
        return ""
    centres = [each.centre for each in series if each.centre is not None]
    xs, ys = zip(*points, *centres, strict=True)
    # A tiny image takes hundreds of bits per pixel. On a linear axis, all other images
    # would then lie on one line.
    is_log = 0 < min(xs) < max(xs) / _LOG_FROM
    lay_across = lay_log_axis if is_log else lay_axis
    across = lay_across(min(xs), max(xs), _LEFT, WIDTH - _RIGHT)
    up = lay_axis(min(ys), max(ys), HEIGHT - _BOTTOM, _TOP)
    shapes = [
        shape
        for number, each in enumerate(series)
        for shape in _draw_points(each, number, across, up)
    ]
    below = "bits per pixel (logarithmic)" if is_log else "bits per pixel"
    body = "".join([*_draw_axes(across, up, below, "PSNR, dB"), *shapes])
    legend = [
        (each.name if each.points else "", _MARKS[number % len(_MARKS)][1])
        for number, each in enumerate(series)
    ]
    return _wrap(body, "PSNR against bits per pixel", legend)


def _draw_points(series: Series, number: int, across: Axis, up: Axis) -> Iterator[str]:
    color, (outline, _) = COLORS[number % len(COLORS)], _MARKS[number % len(_MARKS)]
    style = f'd="{outline}" fill="none" stroke="{color}"'
    for x, y in series.points:
        place = f"translate({across.place(x):.1f} {up.place(y):.1f})"
        yield f'<path class="mark" transform="{place}" {style} stroke-opacity="0.7"/>'
    if series.centre is not None:
        x, y = series.centre
        place = f"translate({across.place(x):.1f} {up.place(y):.1f}) scale(2.5)"
        title = f"{html.escape(series.name)}: {x:.2f} bits per pixel, mean of {y:.2f} dB"
        yield (
            f'<path class="mark" transform="{place}" {style} stroke-width="1.2">'
            f"<title>{title}</title></path>"
        )


def draw_lines(
    lines: Sequence[Line], *, title: str, across: str, up: str, is_whole: bool = False
) -> str:
    """Returns a chart of lines with marks. `across` and `up` name the axes.

    If `is_whole`, the ticks of the horizontal axis are whole numbers.

    Lines differ in colour, mark and dashes, so that they can be told apart without colour. Returns
    "" if there are no points.
    """
    points = [point for line in lines for point in line.points]
    if not points:
        return ""
    xs, ys = zip(*points, strict=True)
    is_log = 0 < min(xs) < max(xs) / _LOG_FROM
    ends = min(xs), max(xs), _LEFT, WIDTH - _RIGHT
    smallest = 1.0 if is_whole else _SMALLEST_STEP
    horizontal = lay_log_axis(*ends) if is_log else lay_axis(*ends, smallest)
    vertical = lay_axis(min(ys), max(ys), HEIGHT - _BOTTOM, _TOP)
    shapes = [
        shape
        for number, line in enumerate(lines)
        for shape in _draw_line(line, number, horizontal, vertical, (across, up))
    ]
    below = f"{across} (logarithmic)" if is_log else across
    values = f"<desc>{html.escape(_describe_lines(lines, across, up))}</desc>"
    body = "".join([values, *_draw_axes(horizontal, vertical, below, up), *shapes])
    legend = [(line.name, _MARKS[number % len(_MARKS)][1]) for number, line in enumerate(lines)]
    return _wrap(body, title, legend)


def _describe_lines(lines: Sequence[Line], across: str, up: str) -> str:
    """Returns the values of a chart as text, for readers who do not see it."""
    return "; ".join(
        f"{line.name}: " + ", ".join(f"{y:.2f} {up} at {x:.4g} {across}" for x, y in line.points)
        for line in lines
        if line.points
    )


def _draw_line(
    line: Line, number: int, across: Axis, up: Axis, units: tuple[str, str]
) -> Iterator[str]:
    color, (outline, _) = COLORS[number % len(COLORS)], _MARKS[number % len(_MARKS)]
    places = [(across.place(x), up.place(y)) for x, y in line.points]
    dashes = _DASHES[number % len(_DASHES)]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    yield (
        f'<path class="mark" d="M{path}" fill="none" stroke="{color}" '
        f'stroke-width="1.5" stroke-dasharray="{dashes}"/>'
    )
    for (x, y), (left, top) in zip(line.points, places, strict=True):
        title = f"{html.escape(line.name)}: {x:.4g} {units[0]}, {y:.2f} {units[1]}"
        yield (
            f'<path class="mark" transform="translate({left:.1f} {top:.1f}) scale(1.4)" '
            f'd="{outline}" fill="none" stroke="{color}"><title>{title}</title></path>'
        )


def _draw_axes(across: Axis, up: Axis, below: str, beside: str) -> Iterator[str]:
    yield (
        f'<path class="axis" fill="none" d="M{_LEFT} {_TOP}V{HEIGHT - _BOTTOM}H{WIDTH - _RIGHT}"/>'
    )
    for tick, label in zip(across.ticks, across.labels, strict=True):
        x = across.place(tick)
        yield f'<path class="axis" d="M{x:.1f} {HEIGHT - _BOTTOM}v4"/>'
        yield f'<text x="{x:.1f}" y="{HEIGHT - 19}" text-anchor="middle">{label}</text>'
    for tick, label in zip(up.ticks, up.labels, strict=True):
        y = up.place(tick)
        yield f'<path class="axis" d="M{_LEFT} {y:.1f}h-4"/>'
        yield f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
    yield f'<text x="{(_LEFT + WIDTH) / 2}" y="{HEIGHT - 5}" text-anchor="middle">{below}</text>'
    yield f'<text x="4" y="10">{beside}</text>'


def _is_power(value: float) -> bool:
    return f"{value:e}".startswith("1.000000e")


def _format_tick(value: float, step: float) -> str:
    """Returns a multiple of `step` with as many decimals as `step` has."""
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:,.{decimals}f}"


def _wrap(body: str, title: str, legend: Sequence[tuple[str, str]]) -> str:
    """Returns the figure. `legend` has the name and the symbol of each series.

    The legend omits a series without a name.
    """
    names = " ".join(
        f'<span class="together"><span class="mark" style="color:{COLORS[number % len(COLORS)]}" '
        f'aria-hidden="true">{symbol}</span> {html.escape(name)}</span>'
        for number, (name, symbol) in enumerate(legend)
        if name
    )
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" aria-label="{title}">{body}</svg>'
        f"<figcaption>{title}: {names}</figcaption></figure>"
    )
