"""The tables of a comparison in Markdown, ready for a model card."""

from __future__ import annotations

from collections.abc import Iterator

from dinac_cli.compare.figure_tables import (
    Table,
    describe_images,
    describe_machine,
    list_notes,
    tabulate_quality,
    tabulate_speed,
)
from dinac_cli.compare.figures import Comparison

_TEXT_COLUMNS = ("Model", "Precision", "Resolution")


def write_card(comparison: Comparison) -> str:
    """Returns the Markdown. Its tables are valid on GitHub and on the Hub."""
    return "\n\n".join(_list_blocks(comparison)) + "\n"


def _list_blocks(comparison: Comparison) -> Iterator[str]:
    yield "## Reconstruction"
    yield _write_table(tabulate_quality(comparison))
    yield " ".join([f"{describe_images(comparison)}.", *list_notes(comparison)])
    for task, title in (("encode", "Encode throughput"), ("decode", "Decode throughput")):
        table = tabulate_speed(comparison, task)
        if len(table) > 1:
            yield f"## {title}"
            yield _write_table(table)
    yield f"Measured on {describe_machine(comparison)}, with this command:"
    yield _fence(comparison.command)


def _write_table(table: Table) -> str:
    heads, *rows = table
    ruler = ["---" if head in _TEXT_COLUMNS else "---:" for head in heads]
    return "\n".join(f"| {' | '.join(map(_escape, row))} |" for row in (heads, ruler, *rows))


def _escape(cell: str) -> str:
    """Returns a cell that Markdown shows as it is."""
    cell = " ".join(cell.split())
    for char in "\\|`*_<[":
        cell = cell.replace(char, "\\" + char)
    return cell


def _fence(text: str) -> str:
    """Returns a code block. Its fence is longer than any in the text."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}sh\n{text}\n{fence}"
