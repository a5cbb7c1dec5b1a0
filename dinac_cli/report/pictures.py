"""Draws the small pictures of a page: thumbnails of originals, and pictures of differences."""

from __future__ import annotations

import io

from PIL import Image, ImageChops

from dinac_cli.images.pixels import Pixels
from dinac_cli.report.page import make_data_url

THUMBNAIL_SIDE = 240
_DIFFERENCE_SIDE = 160  # smaller: differences are mostly noise, and noise compresses badly
DIFFERENCE_GAIN = 10
"""Small pictures amplify differences by this factor. The viewer starts with this factor."""


def make_thumbnail(pixels: Pixels) -> str:
    """Scales an image uint8 [H, W, 3] to at most `THUMBNAIL_SIDE` per side. Returns its URL."""
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    return _pack(image, 80)


def draw_difference(original: Pixels, other: Pixels) -> str:
    """Returns a small picture of the amplified difference of two images, as a URL.

    Both images are uint8 [H, W, 3].
    """
    image = ImageChops.difference(Image.fromarray(original), Image.fromarray(other))
    image.thumbnail((_DIFFERENCE_SIDE, _DIFFERENCE_SIDE), Image.Resampling.BOX)
    amplified = [min(255, DIFFERENCE_GAIN * value) for value in range(256)]
    return _pack(image.point(amplified * 3), 60)


def _pack(image: Image.Image, quality: int) -> str:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, optimize=True)
    return make_data_url(file.getvalue(), "jpeg")
