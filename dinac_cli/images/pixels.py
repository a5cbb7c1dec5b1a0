"""Pads pixels to whole patches and removes the padding. Scales, crops and mirrors images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def pad_pixels(pixels: Pixels, multiple: int) -> Pixels:
    """Repeats the right and bottom edges of [H, W, 3] until H and W are multiples of `multiple`.

    Returns `pixels` itself if H and W are already multiples.
    """
    height, width, _ = pixels.shape
    down, right = -height % multiple, -width % multiple
    if down == right == 0:
        return pixels
    return np.pad(pixels, ((0, down), (0, right), (0, 0)), mode="edge")


def crop_pixels(pixels: Pixels, height: int, width: int) -> Pixels:
    """Returns the upper left part of [H, W, 3] as a C-contiguous array [height, width, 3]."""
    return np.ascontiguousarray(pixels[:height, :width])


def scale_pixels(pixels: Pixels, width: int, height: int) -> Pixels:
    """Scales uint8 [H, W, 3] to [height, width, 3]. Returns `pixels` itself if it has that size.

    Uses antialiased Lanczos on sRGB values. Lanczos keeps more detail in a reduced image than the
    other filters of Pillow. Pillow uses integer arithmetic, so the result is the same on every
    machine.
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def crop_centre(pixels: Pixels, width: int, height: int) -> Pixels:
    """Returns the centre of uint8 [H, W, 3] or [H, W]; `pixels` itself if it has the wanted size.

    If an odd number of rows is cut, the bottom loses one row more than the top. For columns, the
    right side loses one more.
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    # The centre is copied, because a view would keep the whole image in memory.
    return pixels[top : top + height, left : left + width].copy()


def mirror_pixels(pixels: Pixels) -> Pixels:
    """Mirrors uint8 [H, W, 3] left to right. The result is C-contiguous."""
    return np.ascontiguousarray(pixels[:, ::-1])
