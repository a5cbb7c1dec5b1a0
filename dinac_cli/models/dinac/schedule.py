"""The variance-preserving noise schedule, and the diffusion times of a decode, in float32."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def signal_scale(logsnr: Tensor) -> Tensor:
    """Returns alpha = √sigmoid(logsnr). For accuracy, computes exp(logsigmoid(logsnr) / 2)."""
    return torch.exp(0.5 * F.logsigmoid(logsnr.float()))


def noise_scale(logsnr: Tensor) -> Tensor:
    """Returns sigma = √sigmoid(-logsnr), so that alpha² + sigma² = 1."""
    return signal_scale(-logsnr)


@dataclass(frozen=True)
class CosineSchedule:
    """The log-SNR over time: `logsnr_max` at t = 0, falling to `logsnr_min` at t = 1.

    logsnr(t) = -2·ln tan(a·t + b). This is the cosine schedule of Nichol and Dhariwal (2021),
    truncated as in Hoogeboom et al., "simple diffusion" (2023).
    """

    logsnr_min: float
    logsnr_max: float

    def logsnr(self, t: Tensor) -> Tensor:
        """Returns the log-SNR at times in [0, 1]."""
        b = math.atan(math.exp(-0.5 * self.logsnr_max))
        a = math.atan(math.exp(-0.5 * self.logsnr_min)) - b
        return -2 * torch.log(torch.tan(a * t.float() + b))

    def alpha(self, t: Tensor) -> Tensor:
        """Returns the scale of the clean image at times in [0, 1]."""
        return signal_scale(self.logsnr(t))

    def sigma(self, t: Tensor) -> Tensor:
        """Returns the scale of the noise at times in [0, 1]."""
        return noise_scale(self.logsnr(t))


def space_times(num_steps: int, spacing: str, strength: float = 1.0) -> Tensor:
    """Returns `num_steps` + 1 times on the CPU, in descending order from `strength` to 0.

    `spacing` is "linear" or "cosine". With "cosine", times are denser at both ends. The published
    code computes the fractions in two ways, which differ in the last bit; so does this function.
    """
    if spacing == "cosine":
        fractions = torch.arange(num_steps + 1, dtype=torch.float32) / num_steps
        fractions = 0.5 * (1 - torch.cos(math.pi * fractions))
    else:
        fractions = torch.linspace(0, 1, num_steps + 1, dtype=torch.float32)
    return fractions.flip(0) * strength
