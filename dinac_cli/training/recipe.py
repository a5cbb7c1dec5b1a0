"""The settings of a training, with their defaults."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from dinac_cli.errors import ModelError, UsageError

_BATCH_SIZE, _CROP = 64, 128


def choose_batch_size(crop: int) -> int:
    """Returns how many crops of this side, in pixels, take as much memory as 64 crops of 128.

    At most 64, and at least 1. A multiple of 4 if possible, so that each image gives 4 crops.
    """
    size = min(_BATCH_SIZE, _BATCH_SIZE * _CROP**2 // crop**2)
    return max(1, size - size % 4 if size > 4 else size)


@dataclass(frozen=True, kw_only=True)
class TrainRecipe:
    """The settings of one training. The defaults suit a model of the size of `nano`.

    The training takes `steps` steps. If `steps` is None, a time limit ends the training instead.
    Each step takes `batch_size` crops of `crop` by `crop` pixels, from images at one of `scales`.
    Muon trains the matrices of the blocks, with the peak learning rate `matrix_rate`. AdamW trains
    all other weights. The peak learning rate of AdamW is `linear_rate` for the layers into and out
    of the trunk, and `rate` for the rest. `clip` limits the norm of AdamW's gradients. `ema` is the
    decay of the averaged weights. `full_noise` is the share of batches with t = 1, as in one-step
    decoding. For all other batches, t is drawn uniformly from 0 to 1. `drop` is the share of
    batches that skip the middle blocks.

    `kl_weight` is the weight of the KL loss. `align_weight` is the weight of the loss that compares
    the class head with a teacher. Raises UsageError if a value is out of range.
    """

    steps: int | None = 20_000
    batch_size: int = _BATCH_SIZE
    crop: int = _CROP
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
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be above 0")
        for name in ("full_noise", "drop", "ema"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be from 0 to 1")

    @property
    def group(self) -> int:
        """The crops per image in a batch: the greatest common divisor of 4 and the batch size."""
        return math.gcd(self.batch_size, 4)

    def rate_factor(self, step: int, done: float) -> float:
        """Returns the share of the peak learning rates: a linear warm-up, times a cosine to 0.

        `step` counts from 0. `done` is the share of the training before this step, 0 to 1.
        """
        warm = min(1.0, (step + 1) / max(1, self.warm_up))
        return warm * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))

    @classmethod
    def from_json(cls, text: str) -> TrainRecipe:
        """Reads the recipe of a saved state. Raises ModelError if another version wrote it."""
        try:
            values = json.loads(text)
            return cls(**{**values, "scales": tuple(values["scales"])})
        except (ValueError, TypeError, KeyError) as exc:
            raise ModelError(
                "OUT holds a saved state of another version; choose another OUT"
            ) from exc
