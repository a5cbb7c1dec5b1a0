"""PSNR between originals and reconstructions, and its summary over many pairs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dinac_cli.errors import ImageError

PEAK = 255
_BLOCK_BYTES = 1 << 20  # the differences of a block fit into the CPU cache


def measure_psnr(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """Returns the peak signal-to-noise ratio of two uint8 [H, W, 3] images, in dB.

    The peak is 255; the squared error is averaged over all pixels and channels and summed in exact
    integers. Identical images give infinity. Raises ImageError if the sizes differ.
    """
    if first.shape != second.shape:
        raise ImageError(f"sizes differ: {_size(first)} and {_size(second)}")
    squared_error = _sum_squared_error(first.reshape(-1), second.reshape(-1))
    if squared_error == 0:
        return math.inf
    return 10 * math.log10(PEAK * PEAK * first.size / squared_error)


def _sum_squared_error(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> int:
    total = 0
    for start in range(0, first.size, _BLOCK_BYTES):
        block = slice(start, start + _BLOCK_BYTES)
        difference = first[block].astype(np.int32) - second[block]
        total += int(np.sum(difference * difference, dtype=np.int64))
    return total


def _size(pixels: NDArray[np.uint8]) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"


@dataclass(frozen=True)
class PsnrSummary:
    """Statistics of PSNR values in dB; identical pairs (infinite PSNR) are counted but left out.

    `std` is the population standard deviation; percentiles are interpolated linearly; all are None
    if no value is finite. `count` is the number of pairs, `identical` included.
    """

    mean: float | None
    std: float | None
    median: float | None
    p5: float | None
    p95: float | None
    min: float | None
    max: float | None
    count: int
    identical: int


def summarise_psnr(values: Iterable[float]) -> PsnrSummary:
    """Summarises the PSNR values of many pairs, in dB."""
    everything = list(values)
    finite = np.array([v for v in everything if math.isfinite(v)], dtype=np.float64)
    identical = len(everything) - finite.size
    if finite.size == 0:
        return PsnrSummary(None, None, None, None, None, None, None, len(everything), identical)
    p5, median, p95 = np.percentile(finite, [5, 50, 95])
    return PsnrSummary(
        mean=float(finite.mean()),
        std=float(finite.std()),
        median=float(median),
        p5=float(p5),
        p95=float(p95),
        min=float(finite.min()),
        max=float(finite.max()),
        count=len(everything),
        identical=identical,
    )


def psnr_as_json(psnr_db: float) -> float | None:
    """Returns a PSNR as a JSON value: None (null) for infinity."""
    return psnr_db if math.isfinite(psnr_db) else None
