"""The names of a model's parts, and the settings for decoding. Does not import torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeGuard

from dinac_cli.errors import UsageError

ENCODER, DECODER, CLASS_HEAD = "encoder", "decoder", "class_head"
"""The parts of a model that can be loaded separately."""

SAMPLERS = ("ddim", "dpmpp_2m")
SCHEDULES = ("linear", "cosine")


@dataclass(frozen=True)
class DinacAEInferenceConfig:
    """The settings for decoding latents.

    `num_steps` is the number of decoder evaluations (NFE). With path-drop guidance (`pdg`), the
    decoder is evaluated twice as often. `sampler` is "ddim" or "dpmpp_2m"; the spelling "dpmpp-2m"
    is accepted. `schedule` is "linear" or "cosine". `strength`, in (0, 1], multiplies the diffusion
    times. If `seed` is None, every image gets fresh noise. Raises UsageError if a field is out of
    range.
    """

    num_steps: int = 1
    sampler: str = "ddim"
    schedule: str = "linear"
    pdg: bool = False
    pdg_strength: float = 2.0
    strength: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.sampler == "dpmpp-2m":
            object.__setattr__(self, "sampler", "dpmpp_2m")
        self._demand("num_steps", is_int(self.num_steps) and self.num_steps >= 1, "an integer ≥ 1")
        self._demand("sampler", self.sampler in SAMPLERS, " or ".join(SAMPLERS))
        self._demand("schedule", self.schedule in SCHEDULES, " or ".join(SCHEDULES))
        self._demand("pdg", isinstance(self.pdg, bool), "True or False")
        self._demand("pdg_strength", is_finite(self.pdg_strength), "a finite number")
        self._demand(
            "strength", is_finite(self.strength) and 0 < self.strength <= 1, "a number in (0, 1]"
        )
        self._demand(
            "seed",
            self.seed is None or (is_int(self.seed) and -(2**63) <= self.seed < 2**64),
            "None or a 64-bit integer",
        )

    def _demand(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            raise UsageError(f"{name} is {getattr(self, name)!r}; it must be {wanted}")


def is_int(value: object) -> TypeGuard[int]:
    """True for an integer that is not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_finite(value: object) -> bool:
    """True for a finite float, or an integer that a float holds exactly."""
    if isinstance(value, float):
        return math.isfinite(value)
    return is_int(value) and abs(value) < 2**53
