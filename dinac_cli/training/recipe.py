"""How a model is trained: every number of it, in one place."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from dinac_cli.errors import ModelError, UsageError

UNPACED_STEPS = 10**9
"""The length of a run whose minutes are given, until its pace is known."""

_CROPS_AN_IMAGE = 4


@dataclass(frozen=True)
class TrainRecipe:
    """The settings of one training run; the defaults suit a network of `nano`'s size.

    `steps` optimiser steps of `batch_size` crops of `crop` pixels a side. `matrix_rate` is the
    peak learning rate of the blocks' matrices (Muon), `rate` of all else (AdamW), `linear_rate` of
    the maps in and out of the trunk (AdamW). `full_noise` is the share of batches at t = 1, where
    one-step decoding happens; the rest draws t uniformly. `drop` is the share with the middle
    blocks left out, `kl_weight` how dear a nat of latent is, `align_weight` how dear the class
    head's distance from a teacher is, where there is one. UsageError for what makes no sense.
    """

    steps: int = 20_000
    batch_size: int = 64
    crop: int = 128
    scales: tuple[float, ...] = (1.0, 0.8, 0.6, 0.5)
    rate: float = 6e-4
    linear_rate: float = 3e-5
    matrix_rate: float = 1e-2
    warm_up: int = 100
    clip: float = 1.0
    ema: float = 0.998
    full_noise: float = 0.95
    drop: float = 0.05
    kl_weight: float = 0.006
    align_weight: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        positive = ("steps", "batch_size", "crop", "rate", "linear_rate", "matrix_rate", "clip")
        for name in positive:
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be above 0")
        for name in ("full_noise", "drop", "ema"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be from 0 to 1")

    @property
    def group(self) -> int:
        """Crops that each image of a batch gives: 4, or as many as divide the batch."""
        return math.gcd(self.batch_size, _CROPS_AN_IMAGE)

    def rate_factor(self, step: int) -> float:
        """What the peak learning rates are multiplied by: warm-up, then a cosine to zero."""
        warm = min(1.0, (step + 1) / max(1, self.warm_up))
        return warm * 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / self.steps)))

    @classmethod
    def from_json(cls, text: str) -> TrainRecipe:
        """The recipe that a saved state holds. Raises ModelError where it is of another version."""
        try:
            values = json.loads(text)
            return cls(**{**values, "scales": tuple(values["scales"])})
        except (ValueError, TypeError, KeyError) as exc:
            raise ModelError("the saved state is of another version: choose another OUT") from exc
