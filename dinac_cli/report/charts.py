"""SVG charts of the distribution of PSNR, and of PSNR against bits per pixel."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

WIDTH, HEIGHT = 460, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 20, 32, 34
_BINS = 20
_LOG_FROM = 8  # an axis is logarithmic if largest value / smallest value exceeds this
COLORS = ("#2a6fdb", "#d9822b", "#2e9e5b", "#b0439c", "#8a7a1c", "#c23b3b")


@dataclass(frozen=True)
class Axis:
    """Maps a value between `low` and `high` to a position in pixels between `start` and `stop`.

    Ticks divide the axis into `parts` parts. If `is_log`, the scale is logarithmic and `low` must
    be above 0.
    """

    low: float
    high: float
    start: float
    stop: float
    parts: int = 4
    is_log: bool = False

    def place(self, value: float) -> float:
        """Returns the position of a value in pixels."""
        share = 0.5
        if self.high > self.low and self.is_log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        elif self.high > self.low:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.stop - self.start)

    def list_ticks(self) -> list[float]:
        """Returns the values of the ticks, or a single value if the range is empty."""
        if self.high <= self.low:
            return [self.low]
        if self.is_log:
            factor = (self.high / self.low) ** (1 / self.parts)
            return [self.low * factor**i for i in range(self.parts + 1)]
        step = (self.high - self.low) / self.parts
        return [self.low + step * i for i in range(self.parts + 1)]


def lay_counts(highest: int, start: float, stop: float) -> Axis:
    """Returns an axis with integer ticks that starts at 0 and includes `highest` (at least 1)."""
    step = math.ceil(highest / 4)
    parts = math.ceil(highest / step)
    return Axis(0.0, float(step * parts), start, stop, parts)


def draw_histogram(series: Sequence[tuple[str, Sequence[float]]]) -> str:
    """Returns a chart with one PSNR histogram for each series, or "" if there are no values."""
    everything = [value for _, values in series for value in values]
    if not everything:
        return ""
    edges = np.linspace(min(everything), max(everything) or 1.0, _BINS + 1)
    if edges[0] == edges[-1]:
        edges = np.linspace(edges[0] - 0.5, edges[0] + 0.5, _BINS + 1)
    counts = [np.histogram(values, edges)[0] for _, values in series]
    across = Axis(float(edges[0]), float(edges[-1]), _LEFT, WIDTH - _RIGHT)
    up = lay_counts(max(int(count.max()) for count in counts), HEIGHT - _BOTTOM, _TOP)
    shapes = []
    for number, count in enumerate(counts):
        corners = zip(np.repeat(edges, 2), [0, *np.repeat(count, 2), 0], strict=True)
        path = " ".join(f"{across.place(x):.1f},{up.place(y):.1f}" for x, y in corners)
        color = COLORS[number % len(COLORS)]
        shapes.append(
            f'<polygon points="{path}" fill="{color}" fill-opacity="0.25" stroke="{color}"/>'
        )
    body = "".join([*_draw_axes(across, up, "PSNR, dB", "images"), *shapes])
    return _wrap(body, "Histogram of PSNR", [name for name, _ in series])


def draw_scatter(series: Sequence[tuple[str, Sequence[tuple[float, float]]]]) -> str:
    """Returns a chart that shows the points (bits per pixel, dB) and the mean of each series.

    Returns "" if there are no points.
    """
    everything = [point for _, points in series for point in points]
    if not everything:
        return ""
    xs, ys = zip(*everything, strict=True)
    # A tiny image takes hundreds of bits per pixel. On a linear axis, all other images
    # would then lie on one line.
    is_log = 0 < min(xs) < max(xs) / _LOG_FROM
    across = Axis(min(xs), max(xs), _LEFT, WIDTH - _RIGHT, is_log=is_log)
    up = Axis(min(ys), max(ys), HEIGHT - _BOTTOM, _TOP)
    shapes = []
    for number, (name, points) in enumerate(series):
        color = COLORS[number % len(COLORS)]
        shapes += [
            f'<circle cx="{across.place(x):.1f}" cy="{up.place(y):.1f}" r="2.5" '
            f'fill="{color}" fill-opacity="0.5"/>'
            for x, y in points
        ]
        if points:
            x, y = (float(np.mean(values)) for values in zip(*points, strict=True))
            title = f"mean of {html.escape(name)}: {x:.2f} bits per pixel, {y:.2f} dB"
            shapes.append(
                f'<circle cx="{across.place(x):.1f}" cy="{up.place(y):.1f}" r="6" fill="none" '
                f'stroke="{color}" stroke-width="2"><title>{title}</title></circle>'
            )
    below = "bits per pixel (logarithmic)" if is_log else "bits per pixel"
    body = "".join([*_draw_axes(across, up, below, "PSNR, dB"), *shapes])
    names = [name if points else "" for name, points in series]
    return _wrap(body, "PSNR against bits per pixel", names)


def _draw_axes(across: Axis, up: Axis, below: str, beside: str) -> Iterator[str]:
    yield (
        f'<path class="axis" fill="none" d="M{_LEFT} {_TOP}V{HEIGHT - _BOTTOM}H{WIDTH - _RIGHT}"/>'
    )
    for value in across.list_ticks():
        x = across.place(value)
        yield f'<text x="{x:.1f}" y="{HEIGHT - 20}" text-anchor="middle">{_label(value)}</text>'
    for value in up.list_ticks():
        y = up.place(value) + 4
        yield f'<text x="{_LEFT - 5}" y="{y:.1f}" text-anchor="end">{_label(value)}</text>'
    yield f'<text x="{(_LEFT + WIDTH) / 2}" y="{HEIGHT - 5}" text-anchor="middle">{below}</text>'
    yield f'<text x="4" y="10">{beside}</text>'


def _label(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _wrap(body: str, title: str, names: Sequence[str]) -> str:
    legend = " ".join(
        f'<span style="color:{COLORS[number % len(COLORS)]}">&#9632;</span> {html.escape(name)}'
        for number, name in enumerate(names)
        if name
    )
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" aria-label="{title}">{body}</svg>'
        f"<figcaption>{title}: {legend}</figcaption></figure>"
    )
