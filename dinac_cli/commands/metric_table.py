"""Formats the values of several metrics: a line per pair, a table of statistics, counts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from dinac_cli.commands.screen.console import escape_unprintable
from dinac_cli.commands.screen.tables import count_images, fit_table
from dinac_cli.images.metric_kinds import RFID, Metric

STATISTICS = ("mean", "std", "median", "p5", "p95", "min", "max")
"""Columns of the table."""


class MetricValues:
    """The values of one metric over all pairs, and the pairs that have no value."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self.values: list[float] = []
        self.too_small = 0
        self.too_large = 0

    def add(self, value: float | None, width: int, height: int) -> None:
        """Adds the value of a pair of images of this size. None if they have no value."""
        if value is not None:
            self.values.append(value)
        elif min(width, height) < self.metric.smallest:
            self.too_small += 1
        else:
            self.too_large += 1

    def format_row(self) -> list[str]:
        """Returns the row of the table."""
        from dinac_cli.images.metrics import summarise_metric

        summary = summarise_metric(self.values)
        found = (getattr(summary, name) for name in STATISTICS)
        cells = ["-" if value is None else self.metric.format(value) for value in found]
        return [self.metric.heading, *cells, str(summary.count)]

    def describe_lack(self) -> Iterator[str]:
        """Yields e.g. `12 images too small for MS-SSIM (below 161 pixels)`."""
        metric = self.metric
        if self.too_small:
            limit = f"below {metric.smallest} pixels"
            yield f"{count_images(self.too_small)} too small for {metric.label} ({limit})"
        if self.too_large and metric.largest is not None:
            limit = f"above {metric.largest / 1e6:g} megapixels"
            yield f"{count_images(self.too_large)} too large for {metric.label} ({limit})"


def format_values(values: Mapping[str, float | None], metrics: Sequence[Metric], file: str) -> str:
    """Returns the line of one pair: each metric with its value, then the name."""
    cells = [_format_value(metric, values[metric.name]) for metric in metrics]
    return "  ".join([*cells, escape_unprintable(file)])


def _format_value(metric: Metric, value: float | None) -> str:
    if value is None:
        return f"{metric.label} {'-':>{metric.digits + 2}}"
    if not metric.unit:
        return f"{metric.label} {metric.format(value)}"
    shown = "identical" if math.isinf(value) else f"{metric.format(value)} {metric.unit}"
    return f"{metric.label} {shown:>9}"


def format_metrics(
    columns: Sequence[MetricValues], counts: Mapping[str, int], width: int | None
) -> list[str]:
    """Returns the table with one row per metric, and a line of the `counts` that are not 0.

    If the terminal's `width` is too small for the table, it has one line per value.
    """
    rows = [["metric", *STATISTICS, "images"], *(column.format_row() for column in columns)]
    lines = list(fit_table(rows, width)) if columns else []
    for column in columns:
        lines += column.describe_lack()
    counted = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return [*lines, counted] if counted else lines


def format_rfid(count: int, value: float | None) -> str:
    """Returns the line of the rFID over `count` pairs. `value` is None if there are too few."""
    if value is None:
        return f"{RFID.label} not computed: {count_images(count)} measured, too few"
    return f"{RFID.label} {RFID.format(value)} ({count_images(count)})"
