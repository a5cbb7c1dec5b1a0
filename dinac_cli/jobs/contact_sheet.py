"""Arranges small pictures in a grid, with their names below them, as one PNG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dinac_cli.codec.machine import count_processors
from dinac_cli.images.fast_png import write_png
from dinac_cli.images.pixels import Pixels

MAX_THUMBNAILS = 10_000
"""The most pictures of a sheet, so that its memory is bounded."""

LARGE_SIDE, SMALL_SIDE = 96, 64
"""The sides of thumbnails in pixels: large ones on a sheet of up to `_MOST_LARGE` pictures."""

_MOST_LARGE = 256
_GAP = 4
_TEXT_HEIGHT = 14
_PAPER, _INK = (24, 24, 24), (208, 208, 208)

_KEY, _KIND = "dinac", "preview"


@dataclass(frozen=True, eq=False)
class Thumbnail:
    """A small picture, uint8 [h, w, 3], and the name of its record."""

    name: str
    pixels: Pixels


def make_thumbnail(name: str, pixels: Pixels) -> Thumbnail:
    """Scales a picture, uint8 [h, w, 3], down to at most `LARGE_SIDE` per side.

    Smaller pictures stay as they are, so that a thousand of them need little memory.
    """
    if max(pixels.shape[:2]) > LARGE_SIDE:
        pixels = fit_pixels(pixels, LARGE_SIDE, LARGE_SIDE)
    return Thumbnail(name, pixels)


def fit_pixels(pixels: Pixels, width: int, height: int) -> Pixels:
    """Scales a picture, uint8 [h, w, 3], up or down to the largest size within these sides."""
    return np.asarray(_fit_image(pixels, width, height))


def _fit_image(pixels: Pixels, width: int, height: int) -> Image.Image:
    scale = min(width / pixels.shape[1], height / pixels.shape[0])
    size = [
        max(1, min(round(side * scale), most))
        for side, most in ((pixels.shape[1], width), (pixels.shape[0], height))
    ]
    method = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    return Image.fromarray(pixels).resize((size[0], size[1]), method)


def arrange_sheet(thumbnails: Sequence[Thumbnail], columns: int | None = None) -> Pixels:
    """Returns the sheet, uint8 [H, W, 3]. There is at least one thumbnail.

    If `columns` is None, the sheet is about square.
    """
    side = choose_side(len(thumbnails))
    columns = min(columns or math.ceil(math.sqrt(len(thumbnails))), len(thumbnails))
    rows = math.ceil(len(thumbnails) / columns)
    width, height = measure_cell(side)
    sheet = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), _PAPER)
    draw, writer = ImageDraw.Draw(sheet), _NameWriter(side)
    for number, thumbnail in enumerate(thumbnails):
        left, top = _GAP + number % columns * width, _GAP + number // columns * height
        image = _fit_image(thumbnail.pixels, side, side)
        margins = (side - image.width) // 2, (side - image.height) // 2
        sheet.paste(image, (left + margins[0], top + margins[1]))
        draw.text((left, top + side + 1), writer.shorten(thumbnail.name), _INK, writer.font)
    return np.asarray(sheet)


def choose_side(count: int) -> int:
    """Returns the side of the thumbnails on a sheet of `count` pictures, in pixels."""
    return LARGE_SIDE if count <= _MOST_LARGE else SMALL_SIDE


def measure_cell(side: int) -> tuple[int, int]:
    """Returns the width and the height of a thumbnail with its name and its gap, in pixels."""
    return side + _GAP, side + _TEXT_HEIGHT + _GAP


def pack_sheet(sheet: Pixels) -> bytes:
    """Returns the sheet, uint8 [H, W, 3], as a PNG that `is_sheet` knows."""
    return write_png(sheet, {_KEY: _KIND}, threads=count_processors())


def is_sheet(path: str) -> bool:
    """True for a PNG that `pack_sheet` made. Reads only the start of the file."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return bool(image.info.get(_KEY) == _KIND)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


class _NameWriter:
    """Shortens names to the width of a thumbnail, in pixels."""

    def __init__(self, width: int) -> None:
        self.font = ImageFont.load_default()
        self._width = width
        self._measure = cache(self.font.getlength)

    def shorten(self, name: str) -> str:
        """Returns the name or, if it is too long, its end: the starts of paths are often equal."""
        # Pillow's font has Latin letters only.
        text = name.encode("latin-1", "replace").decode("latin-1")
        if len(text) <= self._width and self.font.getlength(text) <= self._width:
            return text
        kept = self._count_fitting(text)
        while kept > 1 and self.font.getlength(f"..{text[-kept:]}") > self._width:
            kept -= 1
        return f"..{text[-kept:]}"

    def _count_fitting(self, text: str) -> int:
        """Returns how many characters at the end fit, apart from kerning."""
        rest = self._width - self._measure("..")
        for kept, character in enumerate(reversed(text)):
            rest -= self._measure(character)
            if rest < 0:
                return max(1, kept)
        return len(text)
