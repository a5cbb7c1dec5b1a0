"""The small pictures of a page: an original, and where a reconstruction differs from it."""

from __future__ import annotations

import io

from PIL import Image, ImageChops

from dinac_cli.images.pixels import Pixels
from dinac_cli.report.page import make_data_url

THUMBNAIL_SIDE = 240
_DIFFERENCE_SIDE = 160  # of noise mostly, which costs bytes
DIFFERENCE_GAIN = 10
"""How much brighter a small difference is shown than it is; the viewer begins with the same."""


def make_thumbnail(pixels: Pixels) -> str:
    """URL of uint8 [H, W, 3] made no larger than `THUMBNAIL_SIDE` a side."""
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    return _pack(image, 80)


def draw_difference(original: Pixels, other: Pixels) -> str:
    """URL of where two images uint8 [H, W, 3] differ: |Δ|, averaged, times `DIFFERENCE_GAIN`."""
    image = ImageChops.difference(Image.fromarray(original), Image.fromarray(other))
    image.thumbnail((_DIFFERENCE_SIDE, _DIFFERENCE_SIDE), Image.Resampling.BOX)
    amplified = [min(255, DIFFERENCE_GAIN * value) for value in range(256)]
    return _pack(image.point(amplified * 3), 60)


def _pack(image: Image.Image, quality: int) -> str:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, optimize=True)
    return make_data_url(file.getvalue(), "jpeg")
