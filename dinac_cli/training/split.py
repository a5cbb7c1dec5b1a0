"""Chooses the held-out images: a subset with the brightness, colour and detail of the whole set.

In a small random subset, a few very bright or busy images would distort every measurement. So the
mean features of the chosen subset are as near as possible to those of the whole set.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from dinac_cli.images.pixels import Pixels, crop_pixels, pad_pixels

Features = npt.NDArray[np.float32]

_BLOCK = 16
_LOWEST = 8  # how many of the lowest frequencies to measure per axis of a block
_BAND_ENDS = ((0, 1), (1, 2), (2, 4), (4, 8))
_MAX_SIDE = 1024  # larger images are cropped to this side in pixels, as for the whitening
_CANDIDATES = 4096  # limits the time: an exchange tries all candidates for every chosen row


def measure_features(pixels: Pixels) -> Features:
    """Returns the features of an image uint8 [H, W, 3].

    The features of each plane (Y, Cb, Cr) are the mean and the energy in each frequency band.
    """
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
    """Chooses `count` rows of `features` [N, D] so that their mean is near the mean of all rows.

    Returns the sorted indices. Adds rows one by one, then exchanges rows as long as the mean
    gets nearer. Only the first 4096 rows are candidates. If two rows are equally good, takes the
    first.
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
    """Returns the index and squared norm of the smallest row of `sums` [N, D]; skips `taken`."""
    distances = np.square(sums).sum(axis=1)
    distances[taken] = np.inf
    index = int(distances.argmin())
    return index, float(distances[index])


def _draw_cosines() -> Features:
    """Returns the 8 lowest basis functions, [8, 16], of an orthonormal DCT-II of 16 samples."""
    frequency, place = np.mgrid[:_LOWEST, :_BLOCK]
    cosines = np.cos(np.pi * (2 * place + 1) * frequency / (2 * _BLOCK)) * np.sqrt(2 / _BLOCK)
    cosines[0] /= np.sqrt(2)
    return np.asarray(cosines, np.float32)


def _list_bands() -> list[npt.NDArray[np.bool_]]:
    """Returns masks [8, 8]: the vertical, horizontal and diagonal frequencies of each octave."""
    down, across = np.indices((_LOWEST, _LOWEST))
    higher = np.maximum(down, across)
    octaves = [(higher >= low) & (higher < high) for low, high in _BAND_ENDS]
    directions = (down > across, down < across, down == across)
    bands = [octave & direction for octave in octaves for direction in directions]
    return [band for band in bands if band.any()]
