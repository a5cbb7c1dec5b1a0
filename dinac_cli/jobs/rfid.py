"""rFID: the Fréchet inception distance between originals and reconstructions."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from dinac_cli.images.frechet import Moments, measure_frechet
from dinac_cli.images.metric_kinds import RFID
from dinac_cli.images.pixels import Pixels

if TYPE_CHECKING:
    from dinac_cli.models.perceptual.inception import Inception

FEATURES = 2048
"""The number of features of an image."""


class ReconstructionFid:
    """The rFID of the pairs that were added.

    With fewer than `smallest_count` pairs, the covariance of the features has a low rank: the value
    would say more about the number of images than about their quality, so there is none.
    Definition of torch-fidelity.

    Source: Heusel, Ramsauer, Unterthiner, Nessler and Hochreiter, "GANs trained by a two time-scale
    update rule converge to a local Nash equilibrium", NeurIPS 2017.
    """

    metric = RFID

    def __init__(self, network: Inception, features: int = FEATURES) -> None:
        """Takes a network that describes an image by this number of features."""
        self.smallest_count = features
        self._network = network
        self._first, self._second = Moments(features), Moments(features)
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """The number of pairs that were added."""
        return self._first.count

    def add(self, first: Pixels, second: Pixels) -> None:
        """Adds two uint8 [H, W, 3] images, in any thread."""
        with self._lock:  # torch uses all cores for one image
            features = self._network.describe(first), self._network.describe(second)
            self._first.add(features[0])
            self._second.add(features[1])

    def measure(self) -> float | None:
        """Returns the distance, or None if there are fewer than `smallest_count` pairs."""
        if self.count < self.smallest_count:
            return None
        return measure_frechet(self._first, self._second)


def load_rfid(path: Path) -> ReconstructionFid:
    """Loads the network from a safetensors file. Raises ModelError."""
    from dinac_cli.models.perceptual.inception import load_inception

    return ReconstructionFid(load_inception(path))
