"""Draws pictures in a terminal: as images if it is known to show them, else as half blocks.

The terminal is recognised by the environment alone. A query would have to be read from standard
input, which may hold records.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from itertools import groupby

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

HALF_BLOCK = "▀"
"""Its upper half has the foreground colour, and its lower half has the background colour."""

_RESET = "\x1b[0m"
_KITTY_CHUNK = 4096  # the longest payload that kitty's protocol allows in one escape sequence


class Protocol(Enum):
    """How a terminal shows pictures."""

    KITTY = "kitty"
    ITERM2 = "iterm2"
    SIXEL = "sixel"
    BLOCKS = "blocks"


_TERMS = {
    "xterm-kitty": Protocol.KITTY,
    "xterm-ghostty": Protocol.KITTY,
    "foot": Protocol.SIXEL,
    "foot-extra": Protocol.SIXEL,
    "mlterm": Protocol.SIXEL,
    "mlterm-256color": Protocol.SIXEL,
    "contour": Protocol.SIXEL,
}
_PROGRAMS = {
    "ghostty": Protocol.KITTY,
    "iTerm.app": Protocol.ITERM2,
    "WezTerm": Protocol.ITERM2,
}


def find_protocol(environ: Mapping[str, str]) -> Protocol:
    """Returns how the terminal shows pictures. In doubt, and inside tmux or screen: half blocks."""
    term = environ.get("TERM", "")
    if environ.get("TMUX") or environ.get("STY") or term.startswith(("tmux", "screen")):
        return Protocol.BLOCKS
    program = environ.get("TERM_PROGRAM", "")
    return _TERMS.get(term) or _PROGRAMS.get(program) or Protocol.BLOCKS


def draw_blocks(pixels: Pixels) -> list[str]:
    """Draws pixels [H, W, 3] as H / 2 lines of W half blocks in true colour. H is even."""
    return [
        "".join(_color_blocks(upper, lower)) + _RESET
        for upper, lower in zip(pixels[::2].tolist(), pixels[1::2].tolist(), strict=True)
    ]


def _color_blocks(upper: list[list[int]], lower: list[list[int]]) -> Iterator[str]:
    for (front, back), run in groupby(zip(upper, lower, strict=True)):
        colors = f"\x1b[38;2;{_join(front)};48;2;{_join(back)}m"
        yield colors + HALF_BLOCK * len(list(run))


def _join(values: Sequence[int]) -> str:
    return ";".join(map(str, values))


def draw_kitty(png: bytes) -> str:
    """Returns the escape sequences that show a PNG in kitty."""
    text = base64.standard_b64encode(png).decode()
    chunks = [text[i : i + _KITTY_CHUNK] for i in range(0, len(text), _KITTY_CHUNK)]
    last = len(chunks) - 1
    return "".join(
        f"\x1b_G{'' if number else 'a=T,f=100,q=2,'}m={int(number < last)};{chunk}\x1b\\"
        for number, chunk in enumerate(chunks)
    )


def draw_iterm2(png: bytes) -> str:
    """Returns the escape sequence that shows a PNG in iTerm2."""
    text = base64.standard_b64encode(png).decode()
    return f"\x1b]1337;File=inline=1;size={len(png)};preserveAspectRatio=1:{text}\x07"


def draw_sixel(pixels: Pixels) -> str:
    """Returns the escape sequence that shows pixels [H, W, 3] as sixels, in at most 256 colours."""
    from PIL import Image

    picture = Image.fromarray(pixels).quantize(256, dither=Image.Dither.NONE)
    indices = np.asarray(picture)  # uint8 [H, W]
    palette = np.array(picture.getpalette() or [], np.int64).reshape(-1, 3) * 100 // 255
    height, width = indices.shape
    colors = "".join(
        f"#{number};2;{_join(palette[number].tolist())}" for number in np.unique(indices).tolist()
    )
    bands = "-".join(_draw_band(indices[top : top + 6]) for top in range(0, height, 6))
    return f'\x1bPq"1;1;{width};{height}{colors}{bands}\x1b\\'


def _draw_band(indices: Pixels) -> str:
    """Draws up to six rows: one line per colour, and `$` returns to the start of the band."""
    weights = (1 << np.arange(len(indices)))[:, None]
    return "$".join(
        f"#{number}" + _pack_runs(((indices == number) * weights).sum(axis=0).tolist())
        for number in np.unique(indices).tolist()
    )


def _pack_runs(values: list[int]) -> str:
    parts = []
    for value, run in groupby(values):
        count, char = len(list(run)), chr(63 + value)
        parts.append(f"!{count}{char}" if count > 3 else char * count)
    return "".join(parts)
