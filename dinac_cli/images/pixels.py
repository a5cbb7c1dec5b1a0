"""Pad pixels to whole patches, and crop them back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


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
