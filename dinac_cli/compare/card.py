"""The tables of a comparison in Markdown, ready for a model card."""

from __future__ import annotations

import hashlib
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


_MARK = b"\n<!-- dinac compare %s -->\n"
_MARK_BYTES = len(_MARK % bytes(16))


def write_card(comparison: Comparison) -> bytes:
    """Returns the Markdown in UTF-8. Its tables are valid on GitHub and on the Hub.

    It ends with a comment that holds a digest of the text, so that a card that somebody edited is
    not replaced.
    """
    text = ("\n\n".join(_list_blocks(comparison)) + "\n").encode("utf-8", "replace")
    return text + _mark(text)


def is_card(path: str) -> bool:
    """True for a card that nobody has changed since it was written."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError:
        return False
    text, mark = data[:-_MARK_BYTES], data[-_MARK_BYTES:]
    return mark == _mark(text)


def _mark(text: bytes) -> bytes:
    return _MARK % hashlib.sha256(text).hexdigest()[:16].encode()


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
