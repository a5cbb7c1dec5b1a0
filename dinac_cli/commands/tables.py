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


def list_facts(facts: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Lines of a name and a value each, the values below one another."""
    width = max((len(name) for name, _ in facts), default=0) + 2
    for name, value in facts:
        yield f"{name:<{width}}{value}".rstrip()
