"""Masks: how much each pixel of an image counts, from 0 (not at all) to 255 (wholly)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dinac_cli.errors import ImageError

Mask = NDArray[np.uint8]
"""The values of pixels [H, W] or of patches [h, w], 0..255."""

FULL = 255
"""The value of what counts wholly. A mask that is FULL everywhere is not stored."""


def fit_mask(mask: Mask, width: int, height: int) -> Mask:
    """Scales a mask [H, W] to the size of its image; returns `mask` itself if it has that size.

    Raises ImageError if the aspect ratios differ by more than a pixel of the mask or of the image.
    """
    rows, columns = mask.shape
    excess = abs(rows * width - height * columns)
    if excess > max(width, height, columns, rows):
        raise ImageError(
            f"has {columns}x{rows} pixels, another aspect ratio than the image of "
            f"{width}x{height}; make its mask again"
        )
    return scale_mask(mask, width, height)


def scale_mask(mask: Mask, width: int, height: int) -> Mask:
    """Scales uint8 [H, W] to [height, width]. Returns `mask` itself if it has that size.

    Each new value is the mean of the area that it covers: unlike the Lanczos filter of
    `scale_pixels`, this never rings at the edge of a mask.
    """
    if mask.shape == (height, width):
        return mask
    from PIL import Image  # late, because commands that read only records need no Pillow

    return np.array(Image.fromarray(mask).resize((width, height), Image.Resampling.BOX))


def average_patches(mask: Mask, patch: int) -> Mask:
    """Returns the mean of each patch of uint8 [H, W], rounded half up, as uint8 [h, w].

    A patch at the right or bottom edge that is not full has the mean of its real pixels.
    """
    starts = [np.arange(0, side, patch) for side in mask.shape]
    sums = np.add.reduceat(mask, starts[0], axis=0, dtype=np.uint32)  # [h, W]
    sums = np.add.reduceat(sums, starts[1], axis=1)  # [h, w]
    down, across = (
        np.minimum(patch, side - start) for side, start in zip(mask.shape, starts, strict=True)
    )
    counts = np.outer(down, across)  # [h, w]
    means: Mask = ((2 * sums + counts) // (2 * counts)).astype(np.uint8)
    return means


def drop_full(mask: Mask) -> Mask | None:
    """Returns the mask, or None if everything counts wholly."""
    return None if mask.min() == FULL else mask
