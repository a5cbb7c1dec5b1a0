"""Tables of plain text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

Table = list[list[str]]

_FIGURE = re.compile(r"-|[-+]?\d.*")


def align(rows: Table) -> Iterator[str]:
    """The lines of a table, the first row its heads: names to the left, figures to the right."""
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
    """The table or, on a terminal whose `width` does not hold it, each row as lines of its own."""
    lines = list(align(rows))
    if width is None or max(map(len, lines)) <= width:
        yield from lines
        return
    names, *others = rows
    for number, row in enumerate(others):
        if number:
            yield ""
        yield from list_facts(list(zip(names, row, strict=True)))


def list_facts(facts: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Lines of a name and a value each, the values below one another."""
    width = max((len(name) for name, _ in facts), default=0) + 2
    for name, value in facts:
        yield f"{name:<{width}}{value}".rstrip()
