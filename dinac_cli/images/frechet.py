"""The Fréchet distance of two sets of feature vectors, whose moments are summed up one by one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


class Moments:
    """The mean and the covariance of vectors [size], in float64.

    The memory does not grow with the number of vectors.
    """

    def __init__(self, size: int, block: int = 64) -> None:
        self.count = 0
        self._waiting = np.empty((block, size))
        self._filled = 0
        self._sum = np.zeros(size)
        self._products = np.zeros((size, size))

    def add(self, vector: Values) -> None:
        """Adds one vector."""
        self._waiting[self._filled] = vector
        self._filled += 1
        self.count += 1
        if self._filled == len(self._waiting):  # one product of matrices is much faster than many
            self._flush()

    def _flush(self) -> None:
        block = self._waiting[: self._filled]
        self._sum += block.sum(axis=0)
        self._products += block.T @ block
        self._filled = 0

    def summarise(self) -> tuple[Values, Values]:
        """Returns the mean [size] and the unbiased covariance [size, size] of 2 vectors or more."""
        self._flush()
        mean = self._sum / self.count
        covariance = (self._products - self.count * np.outer(mean, mean)) / (self.count - 1)
        return mean, covariance


def measure_frechet(first: Moments, second: Moments) -> float:
    """Returns the squared Fréchet distance of two normal distributions with these moments.

    It is |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)). The trace of the root is that of the root of
    the symmetric S C2 S with S = C1^(1/2), so no complex numbers occur.

    Source: Dowson and Landau, "The Fréchet distance between multivariate normal distributions",
    Journal of Multivariate Analysis 12(3), 1982.
    """
    (first_mean, first_covariance), (second_mean, second_covariance) = (
        moments.summarise() for moments in (first, second)
    )
    values, vectors = np.linalg.eigh(first_covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    eigenvalues = np.linalg.eigvalsh(root @ second_covariance @ root)
    trace_of_root = np.sqrt(np.maximum(eigenvalues, 0)).sum()
    shift = first_mean - second_mean
    trace = np.trace(first_covariance) + np.trace(second_covariance)
    # Of equal distributions, rounding may leave less than 0.
    return max(0.0, float(shift @ shift + trace - 2 * trace_of_root))
