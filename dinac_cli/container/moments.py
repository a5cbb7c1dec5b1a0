"""Mean and standard deviation of each latent channel, over any number of records."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class ChannelMoments:
    """Sums over latents: `count` positions, `totals` and `squares` float64 [C] over them."""

    count: int
    totals: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]

    def __add__(self, other: ChannelMoments) -> ChannelMoments:
        """The sums over both; the channels must be as many."""
        return ChannelMoments(
            self.count + other.count, self.totals + other.totals, self.squares + other.squares
        )

    @property
    def mean(self) -> npt.NDArray[np.float64]:
        """Mean of each channel [C]."""
        return self.totals / self.count

    @property
    def std(self) -> npt.NDArray[np.float64]:
        """Standard deviation of each channel [C], of the population."""
        variance = self.squares / self.count - self.mean**2
        return np.sqrt(np.maximum(variance, 0.0))


def measure_moments(latents: npt.NDArray[np.float32]) -> ChannelMoments:
    """The sums over one image's latents [C, h, w]."""
    values = latents.reshape(len(latents), -1).astype(np.float64)  # [C, h·w]
    return ChannelMoments(values.shape[1], values.sum(axis=1), np.square(values).sum(axis=1))
