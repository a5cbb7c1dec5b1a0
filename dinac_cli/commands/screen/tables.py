"""Formats tables, sizes and durations as plain text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

Table = list[list[str]]

_FIGURE = re.compile(r"-|[-+]?\d.*")


def align(rows: Table) -> Iterator[str]:
    """Yields the lines of a table; the first row is the headings. Numbers are aligned right."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    are_figures = [all(map(_FIGURE.fullmatch, column[1:])) for column in columns]
    for row in rows:
        cells = (
            f"{cell:>{width}}" if is_figure else f"{cell:<{width}}"
            for cell, width, is_figure in zip(row, widths, are_figures, strict=True)
        )
        yield " ".join(cells).rstrip()


def fit_table(rows: Table, width: int | None) -> Iterator[str]:
    """Yields the lines of a table. If the table is wider than `width`, yields one line per cell."""
    lines = list(align(rows))
    if width is None or max(map(len, lines)) <= width:
        yield from lines
        return
    names, *others = rows
    for number, row in enumerate(others):
        if number:
            yield ""
        yield from list_facts(zip(names, row, strict=True))


def list_facts(facts: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yields one line per name and value. The values are aligned."""
    facts = list(facts)
    width = max((len(name) for name, _ in facts), default=0) + 2
    for name, value in facts:
        yield f"{name:<{width}}{value}".rstrip()


def count_images(count: int) -> str:
    """Returns e.g. `1 image` or `2 images`."""
    return "1 image" if count == 1 else f"{count} images"


def format_sizes(size_in: int, size_out: int) -> str:
    """Returns e.g. `3.1 MB → 1.2 MB (0.39x)`."""
    ratio = f" ({size_out / size_in:.2f}x)" if size_in else ""
    return f"{format_size(size_in)} → {format_size(size_out)}{ratio}"


def format_size(size_bytes: float) -> str:
    """Returns a number of bytes in decimal units, e.g. `1.2 MB`."""
    if size_bytes < 999.5:
        return f"{size_bytes:.0f} B"
    for unit in ("kB", "MB", "GB"):
        size_bytes /= 1000
        if size_bytes < 999.95:  # rounds to less than 1000.0
            return f"{size_bytes:.1f} {unit}"
    return f"{size_bytes / 1000:.1f} TB"


def format_duration(seconds: float) -> str:
    """Returns e.g. `4.2 s`, `3:07` or `2:03:07`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
