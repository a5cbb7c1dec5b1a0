"""Masks: how much each pixel of an image counts, from 0 (not at all) to 255 (wholly)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinac_cli.errors import DinacError, ImageError
from dinac_cli.images.description import parse_description
from dinac_cli.images.geometry import MASK_KEY

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

    Each new value is the mean of the area that it covers, rounded half up. Unlike the Lanczos
    filter of `scale_pixels`, this never rings at the edge of a mask. Pillow's box filter is no such
    mean: it counts each pixel in one area alone, also if the pixel lies in two.
    """
    if mask.shape == (height, width):
        return mask
    rows = _average_rows(mask, height)  # [height, W]
    means = _average_rows(np.ascontiguousarray(rows.T), width).T
    return np.ascontiguousarray(means + np.float32(0.5), np.uint8)


def _average_rows(values: NDArray[Any], count: int) -> NDArray[np.float32]:
    """Returns the means [count, W] of `count` equal parts of the rows of [H, W]."""
    height, width = values.shape
    starts, rest = np.divmod(np.arange(count + 1) * height, count)
    sums = np.empty((count, width), np.float32)
    for total, first, last in zip(sums, starts[:-1], starts[1:], strict=True):
        np.sum(values[first:last], axis=0, dtype=np.float32, out=total)
    # A part begins `rest / count` of a row later, and ends that much of another row later.
    shares = (rest / count).astype(np.float32)[:, None]
    cut = values[np.minimum(starts, height - 1)] * shares
    sums += cut[1:] - cut[:-1]
    sums *= np.float32(count / height)
    return sums


def average_patches(mask: Mask, patch: int) -> Mask:
    """Returns the mean of each patch of uint8 [H, W], rounded half up, as uint8 [h, w].

    A patch at the right or bottom edge that is not full has the mean of its real pixels.
    """
    starts = [np.arange(0, side, patch) for side in mask.shape]
    # [h, W]; np.add.reduceat would take ten times as long along this axis
    sums = np.stack([mask[top : top + patch].sum(axis=0, dtype=np.uint32) for top in starts[0]])
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


def require_masks(description: str) -> None:
    """Raises DinacError if an image was encoded without masks, so it is unknown what counts.

    `description` is the field `image` of a record that holds no mask. The message does not name the
    file.
    """
    if MASK_KEY not in parse_description(description):
        raise DinacError(
            "was encoded without masks; encode it again with --mask or --masks, or remove it with "
            "--prune=all if its image is gone"
        )
