"""Pads pixels to whole patches and crops them back; scales, crops and mirrors images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def pad_pixels(pixels: NDArray[np.uint8], multiple: int) -> NDArray[np.uint8]:
    """Repeats the right and bottom edges until both sides are multiples of `multiple`.

    `pixels` is [H, W, 3]. Returns [H', W', 3], or `pixels` itself if both sides are multiples.
    """
    height, width, _ = pixels.shape
    missing = ((0, -height % multiple), (0, -width % multiple), (0, 0))
    if missing == ((0, 0), (0, 0), (0, 0)):
        return pixels
    return np.pad(pixels, missing, mode="edge")


def crop_pixels(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Crops [H', W', 3] to its upper left [height, width, 3], C-contiguous."""
    return np.ascontiguousarray(pixels[:height, :width])


def scale_pixels(pixels: Pixels, width: int, height: int) -> Pixels:
    """Scales uint8 [H, W, 3] to [height, width, 3]; returns `pixels` itself if it has that size.

    Uses Lanczos, antialiased, on sRGB values: of Pillow's filters it keeps the most detail when an
    image is reduced. It computes in integers, so the result is the same on every machine.
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def crop_centre(pixels: Pixels, width: int, height: int) -> Pixels:
    """Crops uint8 [H, W, 3] to its centre [height, width, 3].

    If a margin is odd, the extra pixel is cut at the right or bottom. Returns `pixels` itself if
    it has that size.
    """
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    if pixels.shape[:2] == (height, width):
        return pixels
    # A view would keep the whole image in memory.
    return pixels[top : top + height, left : left + width].copy()


def mirror_pixels(pixels: Pixels) -> Pixels:
    """Mirrors uint8 [H, W, 3] left to right, C-contiguous."""
    return np.ascontiguousarray(pixels[:, ::-1])
