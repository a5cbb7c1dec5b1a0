"""Arranges thumbnails of latents in a terminal."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from rich.cells import cell_len, set_cell_size

from dinac_cli.commands.screen.console import escape_unprintable
from dinac_cli.commands.screen.terminal_pictures import (
    Protocol,
    draw_blocks,
    draw_iterm2,
    draw_kitty,
    draw_sixel,
    find_protocol,
)
from dinac_cli.jobs.contact_sheet import (
    Thumbnail,
    arrange_sheet,
    choose_side,
    fit_pixels,
    measure_cell,
    pack_sheet,
)

_BLOCK_SIDE = 16  # columns of a thumbnail; it takes half as many lines
_SPARE_LINES = 3  # the summary above the pictures, and the prompt below them
_CHARACTER_WIDTH = 8  # pixels, roughly, in terminals that show images


def count_on_screen() -> int:
    """Returns how many thumbnails fill the screen, with at least one row of them."""
    columns, lines = shutil.get_terminal_size()
    rows = max(1, (lines - _SPARE_LINES) // (_BLOCK_SIDE // 2 + 1))
    return rows * _count_columns(columns)


def _count_columns(columns: int) -> int:
    return max(1, (columns + 1) // (_BLOCK_SIDE + 1))


def draw_thumbnails(thumbnails: Sequence[Thumbnail], environ: Mapping[str, str]) -> Iterator[str]:
    """Yields the lines that show thumbnails in the terminal that `environ` describes."""
    columns, protocol = shutil.get_terminal_size().columns, find_protocol(environ)
    if protocol is Protocol.BLOCKS:
        per_row = _count_columns(columns)
        for first in range(0, len(thumbnails), per_row):
            yield from _draw_row(thumbnails[first : first + per_row])
        return
    width, _ = measure_cell(choose_side(len(thumbnails)))
    sheet = arrange_sheet(thumbnails, max(1, columns * _CHARACTER_WIDTH // width))
    if protocol is Protocol.KITTY:
        yield draw_kitty(pack_sheet(sheet))
    elif protocol is Protocol.ITERM2:
        yield draw_iterm2(pack_sheet(sheet))
    else:
        yield draw_sixel(sheet)


def _draw_row(row: Sequence[Thumbnail]) -> Iterator[str]:
    """Yields the lines of one row of half blocks, and a line of names."""
    for lines in zip(*map(_draw_cell, row), strict=True):
        yield " ".join(lines)
    yield " ".join(_fit_name(thumbnail.name) for thumbnail in row).rstrip()


def _draw_cell(thumbnail: Thumbnail) -> list[str]:
    pixels = fit_pixels(thumbnail.pixels, _BLOCK_SIDE, _BLOCK_SIDE)
    height, width, _ = pixels.shape
    top, left = (_BLOCK_SIDE - height) // 2, (_BLOCK_SIDE - width) // 2
    cell = np.zeros((_BLOCK_SIDE, _BLOCK_SIDE, 3), np.uint8)
    cell[top : top + height, left : left + width] = pixels
    return draw_blocks(cell)


def _fit_name(name: str) -> str:
    """Returns the name in `_BLOCK_SIDE` columns; of a long name, the end."""
    name = escape_unprintable(name)
    if cell_len(name) > _BLOCK_SIDE:
        while cell_len(name) >= _BLOCK_SIDE:
            name = name[1:]
        name = f"…{name}"
    return set_cell_size(name, _BLOCK_SIDE)
