"""Which images to hold out: a few that stand for the whole in brightness, colour and detail.

A set drawn by chance differs from the whole by its few brightest or busiest images, and so does
what is measured on it. Here the set is chosen whose mean features come closest to those of all.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from dinac_cli.images.pixels import crop_pixels, pad_pixels

Features = npt.NDArray[np.float32]

_BLOCK = 16
_LOWEST = 8  # cosines of a block that are looked at, each way
_BAND_ENDS = ((0, 1), (1, 2), (2, 4), (4, 8))
_MAX_SIDE = 1024  # as much of an image as whitening is measured on
_CANDIDATES = 4096  # more are not tried: an exchange looks at all of them for each one chosen


def measure_features(pixels: npt.NDArray[np.uint8]) -> Features:
    """Mean of Y, Cb and Cr, and their energy in bands of cosines, of pixels uint8 [H, W, 3]."""
    part = pad_pixels(crop_pixels(pixels, _MAX_SIDE, _MAX_SIDE), _BLOCK)
    planes = np.asarray(Image.fromarray(part).convert("YCbCr"), np.float32) - 128
    rows, columns = planes.shape[0] // _BLOCK, planes.shape[1] // _BLOCK
    blocks = planes.reshape(rows, _BLOCK, columns, _BLOCK, 3)
    cosines = _draw_cosines()
    spectrum = np.einsum("ia,jb,yaxbc->yxijc", cosines, cosines, blocks, optimize=True)
    energy = np.square(spectrum).mean(axis=(0, 1))
    bands = [energy[band].sum(axis=0) for band in _list_bands()]
    return np.concatenate([spectrum[:, :, 0, 0].mean(axis=(0, 1)), *bands])


def choose_representatives(features: Features, count: int) -> list[int]:
    """Indices of `count` rows of features [N, D], of the first 4096, with a mean near that of all.

    Added one by one, then exchanged while that brings the mean nearer; of equals the first wins.
    """
    spread = features.std(axis=0, dtype=np.float64)
    rows = (features - features.mean(axis=0, dtype=np.float64)) / np.where(spread > 0, spread, 1)
    rows = rows[:_CANDIDATES]
    chosen: list[int] = []
    total = np.zeros(rows.shape[1])
    for _ in range(count):
        chosen.append(_find_nearest(rows + total, chosen)[0])
        total = rows[chosen].sum(axis=0)
    for _ in range(4 * count):
        distance = float(np.square(total).sum())
        trials = [_find_nearest(rows + (total - rows[index]), chosen) for index in chosen]
        place = min(range(count), key=lambda at: trials[at][1])
        if trials[place][1] >= distance * (1 - 1e-6):
            break
        chosen[place] = trials[place][0]
        total = rows[chosen].sum(axis=0)
    return sorted(chosen)


def _find_nearest(sums: npt.NDArray[np.float64], taken: list[int]) -> tuple[int, float]:
    """The row not taken of sums [N, D] that is nearest to zero, and its squared distance."""
    distances = np.square(sums).sum(axis=1)
    distances[taken] = np.inf
    index = int(distances.argmin())
    return index, float(distances[index])


def _draw_cosines() -> Features:
    """The lowest functions of an orthonormal cosine transform (DCT-II) of a block's side."""
    frequency, place = np.mgrid[:_LOWEST, :_BLOCK]
    cosines = np.cos(np.pi * (2 * place + 1) * frequency / (2 * _BLOCK)) * np.sqrt(2 / _BLOCK)
    cosines[0] /= np.sqrt(2)
    return np.asarray(cosines, np.float32)


def _list_bands() -> list[npt.NDArray[np.bool_]]:
    """Octaves of the cosines [8, 8], each by direction: across, upright, both."""
    down, across = np.indices((_LOWEST, _LOWEST))
    higher = np.maximum(down, across)
    octaves = [(higher >= low) & (higher < high) for low, high in _BAND_ENDS]
    directions = (down > across, down < across, down == across)
    bands = [octave & direction for octave in octaves for direction in directions]
    return [band for band in bands if band.any()]
