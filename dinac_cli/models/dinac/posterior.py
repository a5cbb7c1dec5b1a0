"""The encoder's output: a Gaussian over unwhitened latents."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dinac_cli.models.dinac.schedule import noise_scale, signal_scale


@dataclass(frozen=True)
class Posterior:
    """A variance-preserving Gaussian: N(alpha·mean, sigma²) with alpha² + sigma² = 1.

    `mean` and `logsnr` are float32 [B, C, h, w].
    """

    mean: Tensor
    logsnr: Tensor

    def mode(self) -> Tensor:
        """Returns the most likely latents, alpha·mean."""
        return signal_scale(self.logsnr) * self.mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draws latents from the Gaussian. The generator must be on the device of `mean`."""
        mean = self.mean
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return self.mode() + noise_scale(self.logsnr) * noise


def split_moments(moments: Tensor) -> Posterior:
    """Splits the encoder's output [B, h, w, 2C] into the mean and the log-SNR, [B, C, h, w]."""
    mean, logsnr = moments.float().permute(0, 3, 1, 2).chunk(2, dim=1)
    return Posterior(mean.contiguous(), logsnr.contiguous())
