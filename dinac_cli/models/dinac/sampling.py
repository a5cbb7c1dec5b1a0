"""Samplers turn noise into images with a given number of denoiser calls.

A sampler takes a denoiser, the starting images [B, 3, H, W], N + 1 descending times on the CPU, and
the schedule. It returns the images at the last time. These images differ from the denoiser's last
estimate of the clean images.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dinac_cli.models.dinac.schedule import CosineSchedule

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""(x_t [B, 3, H, W], t []) → x0 estimate [B, 3, H, W]."""

Sampler = Callable[[Denoiser, Tensor, Tensor, CosineSchedule], Tensor]


def sample_ddim(denoise: Denoiser, x: Tensor, times: Tensor, schedule: CosineSchedule) -> Tensor:
    """Samples by deterministic DDIM: Song et al., https://arxiv.org/abs/2010.02502, equation 12."""
    return run_ddim(denoise, x, times, schedule.alpha(times), schedule.sigma(times))


def run_ddim(denoise: Denoiser, x: Tensor, times: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Takes one DDIM step between each two neighbouring times. All vectors are [N + 1]."""
    for i in range(len(times) - 1):
        x = step_ddim(x, denoise(x, times[i]), alpha[i : i + 2], sigma[i : i + 2])
    return x


def step_ddim(x: Tensor, x0: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Takes one DDIM step from `x`, with the estimate `x0` of the clean images.

    `alpha` and `sigma`, both [2], are the scales before and after the step.
    """
    noise = (x - alpha[0] * x0) / sigma[0]
    return alpha[1] * x0 + sigma[1] * noise


def sample_dpmpp_2m(
    denoise: Denoiser, x: Tensor, times: Tensor, schedule: CosineSchedule
) -> Tensor:
    """Samples by DPM-Solver++(2M): Lu et al., https://arxiv.org/abs/2211.01095, algorithm 2."""
    alpha, sigma = schedule.alpha(times), schedule.sigma(times)
    half_logsnr = schedule.logsnr(times) / 2
    x0_before: Tensor | None = None
    for i in range(len(times) - 1):
        x0 = denoise(x, times[i])
        h = half_logsnr[i + 1] - half_logsnr[i]
        weight = alpha[i + 1] * torch.expm1(-h)
        x = (sigma[i + 1] / sigma[i]) * x - weight * x0
        if x0_before is not None:
            r = (half_logsnr[i] - half_logsnr[i - 1]) / h
            x = x - 0.5 * weight * (x0 - x0_before) / r
        x0_before = x0
    return x


SAMPLERS: dict[str, Sampler] = {"ddim": sample_ddim, "dpmpp_2m": sample_dpmpp_2m}


def guide(x0_full: Tensor, x0_dropped: Tensor, strength: float) -> Tensor:
    """Applies path-drop guidance. If `strength` is above 1, the result lies beyond `x0_full`."""
    return x0_dropped + strength * (x0_full - x0_dropped)


def draw_noise(batch: int, height: int, width: int, seed: int | None) -> Tensor:
    """Draws standard normal noise [batch, 3, height, width] in float32 on the CPU.

    With a seed, every image of every batch gets the same noise. Without a seed, every image gets
    different noise.
    """
    generator = torch.Generator()
    if seed is None:
        generator.seed()
        return torch.randn((batch, 3, height, width), generator=generator)
    generator.manual_seed(seed)
    noise = torch.randn((1, 3, height, width), generator=generator)
    return noise.expand(batch, -1, -1, -1)
