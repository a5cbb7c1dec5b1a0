"""Pad pixels to whole patches and crop them back; scale, crop and mirror them before that."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def pad_pixels(pixels: NDArray[np.uint8], multiple: int) -> NDArray[np.uint8]:
    """Repeat the right and bottom edges until both sides are multiples of `multiple`.

    `pixels` is [H, W, 3]; the result [H', W', 3] is `pixels` itself where nothing is missing.
    """
    height, width, _ = pixels.shape
    missing = ((0, -height % multiple), (0, -width % multiple), (0, 0))
    if missing == ((0, 0), (0, 0), (0, 0)):
        return pixels
    return np.pad(pixels, missing, mode="edge")


def crop_pixels(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Cut [H', W', 3] down to its upper left [height, width, 3], C-contiguous."""
    return np.ascontiguousarray(pixels[:height, :width])


def scale_pixels(pixels: Pixels, width: int, height: int) -> Pixels:
    """Scale uint8 [H, W, 3] to [height, width, 3]; `pixels` itself where that is its size.

    Lanczos, antialiased, on sRGB values: of Pillow's filters the one that keeps most detail in an
    image that is made smaller. It computes in integers: the same on every machine.
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def crop_centre(pixels: Pixels, width: int, height: int) -> Pixels:
    """Cut uint8 [H, W, 3] to its centre [height, width, 3], an odd remainder's smaller half above
    and left; `pixels` itself where that is its size."""
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    if pixels.shape[:2] == (height, width):
        return pixels
    # A view would keep the whole image in memory.
    return pixels[top : top + height, left : left + width].copy()


def mirror_pixels(pixels: Pixels) -> Pixels:
    """uint8 [H, W, 3] with left and right exchanged, C-contiguous."""
    return np.ascontiguousarray(pixels[:, ::-1])
