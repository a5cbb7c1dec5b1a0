"""Measures the structural similarity (SSIM, MS-SSIM) of originals and reconstructions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from dinac_cli.images.metric_kinds import MS_SSIM, SSIM
from dinac_cli.images.metrics import check_same_size
from dinac_cli.images.pixels import Pixels

WINDOW = 11
"""Side of the Gaussian window in pixels."""

SIGMA = 1.5
"""Standard deviation of the Gaussian window in pixels."""

C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
"""The constants (K1 L)² and (K2 L)² for values of 0 to L = 255."""

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales of MS-SSIM, from full size to 1/16."""

_Values = NDArray[np.float32]

_OFFSETS = np.arange(WINDOW) - WINDOW // 2
_KERNEL = np.exp(-(_OFFSETS**2) / (2 * SIGMA**2))
_TAPS = tuple(float(tap) for tap in _KERNEL / _KERNEL.sum())

_CHANNELS = 3
_BAND_ROWS = 64  # a multiple of the reduction to the smallest scale
_TILE_COLUMNS = 256  # so that all arrays of one tile fit into the CPU cache
_WIDEST = 4  # a wider image is transposed, because the memory grows with the width


def measure_ssim(first: Pixels, second: Pixels) -> float | None:
    """Returns the structural similarity of two uint8 [H, W, 3] images, at most 1.

    A Gaussian window of 11x11 pixels with sigma 1.5, K1 = 0.01, K2 = 0.03 and a range of 255. Only
    positions where the whole window lies inside the image count. The value is the mean over all
    positions and the three RGB channels. Returns None if a side is smaller than 11 pixels. Raises
    ImageError if the sizes differ.

    Source: Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to
    structural similarity", IEEE Transactions on Image Processing 13(4), 2004.
    """
    check_same_size(first, second)
    if min(first.shape[:2]) < SSIM.smallest:
        return None
    similarity, _ = _measure_scales(first, second, 1)
    return float(similarity[0].mean())


def measure_ms_ssim(first: Pixels, second: Pixels) -> float | None:
    """Returns the multi-scale structural similarity of two uint8 [H, W, 3] images, from 0 to 1.

    Windows and constants are those of `measure_ssim`. The means of contrast and structure of the
    first four scales and the mean SSIM of the fifth are cut at 0, raised to `SCALE_WEIGHTS` and
    multiplied per channel. The value is the mean over the three channels. A scale is the average of
    2x2 values of the scale before, which gets a row or column of zeros at the top or left if its
    height or width is odd, as in pytorch-msssim. Returns None if a side is smaller than 161 pixels.
    Raises ImageError if the sizes differ.

    Source: Wang, Simoncelli and Bovik, "Multi-scale structural similarity for image quality
    assessment", Asilomar Conference on Signals, Systems and Computers, 2003.
    """
    check_same_size(first, second)
    if min(first.shape[:2]) < MS_SSIM.smallest:
        return None
    similarity, contrast = _measure_scales(first, second, len(SCALE_WEIGHTS))
    factors = np.concatenate([contrast[:-1], similarity[-1:]])  # [scales, 3]
    powers = np.maximum(factors, 0) ** np.array(SCALE_WEIGHTS)[:, None]
    return float(powers.prod(axis=0).mean())


def _measure_scales(
    first: Pixels, second: Pixels, count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the mean SSIM, and the mean of contrast and structure: [count, 3] each.

    Bands of rows pass through all scales, so the memory does not grow with the height.
    """
    if first.shape[1] > _WIDEST * first.shape[0]:
        first, second = first.swapaxes(0, 1), second.swapaxes(0, 1)
    sums = np.zeros((count, 2, _CHANNELS))
    positions = np.zeros(count)
    above: list[_Values | None] = [None] * count
    for band in _split(first, second, 2 ** (count - 1)):
        for scale in range(count):
            if scale:
                band = _halve(band)
            kept = above[scale]
            rows = band if kept is None else np.concatenate([kept, band], axis=1)
            above[scale] = rows[:, -(WINDOW - 1) :].copy()
            if rows.shape[1] >= WINDOW:
                sums[scale] += _sum_similarity(rows)
                positions[scale] += (rows.shape[1] - WINDOW + 1) * (rows.shape[2] - WINDOW + 1)
    means = sums / positions[:, None, None]
    return means[:, 0], means[:, 1]


def _split(first: Pixels, second: Pixels, reduction: int) -> Iterator[_Values]:
    """Yields bands of the sum and the difference of two images, float32 [2, rows, W, 3].

    All bands end at the border of a row of the smallest scale, which is 1 / `reduction` of the
    image. Halving adds its zeros at the top, so the first band is the one with fewer rows.
    """
    height = first.shape[0]
    end = _BAND_ROWS - -height % reduction
    start = 0
    while start < height:
        a, b = first[start:end], second[start:end]
        band = np.empty((2, *a.shape), np.float32)
        np.add(a, b, out=band[0], dtype=np.float32)
        np.subtract(a, b, out=band[1], dtype=np.float32)
        yield band
        start, end = end, end + _BAND_ROWS


def _halve(band: _Values) -> _Values:
    """Returns the means of 2x2 values of a band [2, rows, W, 3].

    If the number of rows or columns is odd, a row or column of zeros precedes them. Only the first
    band of an image can have an odd number of rows.
    """
    rows, columns = band.shape[1:3]
    band = np.pad(band, ((0, 0), (rows % 2, 0), (columns % 2, 0), (0, 0)))
    pairs = band[:, 0::2] + band[:, 1::2]
    means: _Values = pairs[:, :, 0::2] + pairs[:, :, 1::2]
    means *= np.float32(0.25)  # exact, because a value of the last scale has 9 + 8 bits
    return means


def _sum_similarity(band: _Values) -> NDArray[np.float64]:
    """Returns the sums of SSIM, and of contrast and structure, per channel: [2, 3].

    `band` is [2, rows, W, 3]: the sums and differences of two images.
    """
    total = np.zeros((2, _CHANNELS))
    for left in range(0, band.shape[2] - WINDOW + 1, _TILE_COLUMNS):
        tile = band[:, :, left : left + _TILE_COLUMNS + WINDOW - 1]
        for index, values in enumerate(_compare(*tile.reshape(*tile.shape[:2], -1))):
            total[index] += values.sum(axis=0, dtype=np.float64).reshape(-1, _CHANNELS).sum(axis=0)
    return total


def _compare(added: _Values, difference: _Values) -> tuple[_Values, _Values]:
    """Returns SSIM, and contrast and structure, of each position: [rows - 10, (W - 10) * 3] each.

    With s = a + b and d = a - b, (2 cov(a, b) + C2) / (var a + var b + C2) is
    1 - var d / ((var s + var d) / 2 + C2), and the same holds for the means with C1. This form
    loses no digits in float32 if the images are alike, and takes four filters instead of five.
    """
    centred = added - np.float32(255)  # keeps the squares small
    mean_s, mean_d = _smooth(centred), _smooth(difference)
    var_s = _smooth(centred * centred) - mean_s * mean_s
    mean_d *= mean_d
    var_d = _smooth(difference * difference) - mean_d
    mean_s += np.float32(255)
    luminance = _compare_moments(mean_s * mean_s, mean_d, C1)
    contrast = _compare_moments(var_s, var_d, C2)
    luminance *= contrast
    return luminance, contrast


def _compare_moments(of_sum: _Values, of_difference: _Values, constant: float) -> _Values:
    scale = of_sum + of_difference
    scale *= np.float32(0.5)
    scale += np.float32(constant)
    np.divide(of_difference, scale, out=scale)
    np.subtract(np.float32(1), scale, out=scale)
    return scale


def _smooth(values: _Values) -> _Values:
    """Filters [rows, W * 3] with the Gaussian window, without padding."""
    return _filter_columns(_filter_rows(values))


def _filter_rows(values: _Values) -> _Values:
    count = values.shape[0] - WINDOW + 1
    return _add_taps([values[start : start + count] for start in range(WINDOW)])


def _filter_columns(values: _Values) -> _Values:
    count = values.shape[1] - (WINDOW - 1) * _CHANNELS
    starts = range(0, WINDOW * _CHANNELS, _CHANNELS)
    return _add_taps([values[:, start : start + count] for start in starts])


def _add_taps(shifted: list[_Values]) -> _Values:
    """Returns the sum of the shifted values times their taps, which are symmetric."""
    total = shifted[WINDOW // 2] * np.float32(_TAPS[WINDOW // 2])
    part = np.empty_like(total)
    for index in range(WINDOW // 2):
        np.add(shifted[index], shifted[-1 - index], out=part)
        part *= np.float32(_TAPS[index])
        total += part
    return total
