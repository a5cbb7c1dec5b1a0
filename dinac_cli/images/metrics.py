"""Measures the PSNR between originals and reconstructions, and summarises it over many pairs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from dinac_cli.errors import ImageError
from dinac_cli.images.pixels import Pixels

_BLOCK_BYTES = 1 << 20  # so that the differences of one block fit into the CPU cache


def measure_psnr(first: Pixels, second: Pixels) -> float:
    """Returns the peak signal-to-noise ratio of two uint8 [H, W, 3] images, in dB.

    The peak is 255. The squared error is summed exactly and averaged over all pixels and channels.
    Identical images give infinity. Raises ImageError if the sizes differ.
    """
    check_same_size(first, second)
    squared_error = _sum_squared_error(first.reshape(-1), second.reshape(-1))
    if squared_error == 0:
        return math.inf
    return 10 * math.log10(255 * 255 * first.size / squared_error)


def check_same_size(first: Pixels, second: Pixels) -> None:
    """Raises ImageError if two [H, W, 3] images do not have the same size."""
    if first.shape != second.shape:
        sizes = [f"{width}x{height}" for height, width, _ in (first.shape, second.shape)]
        raise ImageError(f"sizes differ: {' and '.join(sizes)}")


def _sum_squared_error(first: Pixels, second: Pixels) -> int:
    total = 0
    for start in range(0, first.size, _BLOCK_BYTES):
        block = slice(start, start + _BLOCK_BYTES)
        difference = first[block].astype(np.int32) - second[block]
        total += int(np.sum(difference * difference, dtype=np.int64))
    return total


@dataclass(frozen=True)
class MetricSummary:
    """Statistics of the finite values of a metric. They are None if no value is finite.

    `std` is the population standard deviation. Percentiles are interpolated linearly. `count` is
    the number of pairs, with finite and infinite values.
    """

    mean: float | None
    std: float | None
    median: float | None
    p5: float | None
    p95: float | None
    min: float | None
    max: float | None
    count: int


@dataclass(frozen=True)
class PsnrSummary(MetricSummary):
    """Statistics of PSNR values in dB. `identical` is the number of pairs with infinite PSNR."""

    identical: int


def summarise_metric(values: Iterable[float]) -> MetricSummary:
    """Summarises the values of many pairs."""
    every = np.fromiter(values, dtype=np.float64)
    finite = every[np.isfinite(every)]
    if finite.size == 0:
        return MetricSummary(None, None, None, None, None, None, None, every.size)
    p5, median, p95 = np.percentile(finite, [5, 50, 95])
    return MetricSummary(
        mean=float(finite.mean()),
        std=float(finite.std()),
        median=float(median),
        p5=float(p5),
        p95=float(p95),
        min=float(finite.min()),
        max=float(finite.max()),
        count=every.size,
    )


def summarise_psnr(values: Iterable[float]) -> PsnrSummary:
    """Summarises the PSNR values of many pairs, in dB."""
    psnr_db = list(values)
    identical = sum(math.isinf(value) for value in psnr_db)
    return PsnrSummary(**vars(summarise_metric(psnr_db)), identical=identical)


def psnr_as_json(psnr_db: float) -> float | None:
    """Returns a PSNR as a JSON value. Infinity becomes None (null)."""
    return psnr_db if math.isfinite(psnr_db) else None
