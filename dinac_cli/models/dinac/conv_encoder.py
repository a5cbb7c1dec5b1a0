"""The encoder of SemDisDiffAE: convolution blocks that map image patches to a posterior."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dinac_cli.models.dinac.config import CHANNEL_WISE, DinacAEConfig
from dinac_cli.models.dinac.decoder import FCDMBlock
from dinac_cli.models.dinac.layers import NORM_EPS, PatchEmbed, Pointwise
from dinac_cli.models.dinac.posterior import Posterior, split_moments
from dinac_cli.models.pixel_scaling import scale_pixels

LAYER_SCALE = 1e-3
"""The gate of every channel in a new network."""


class ScaledFCDMBlock(FCDMBlock):
    """The decoder's block without modulation: its gate is the parameter `layer_scale` [D]."""

    def __init__(self, dim: int, hidden_dim: int, kernel_size: int) -> None:
        super().__init__(dim, hidden_dim, kernel_size)
        self.layer_scale = nn.Parameter(torch.full((dim,), LAYER_SCALE))

    def forward(self, x: Tensor, modulation: None = None) -> Tensor:  # type: ignore[override]
        """Returns the stream [B, h, w, D] after this block."""
        return super().forward(x, (torch.zeros_like(self.layer_scale), self.layer_scale))


class ConvEncoder(nn.Module):
    """Maps images [B, 3, H, W] in [-1, 1] to a posterior over latents [B, C, H/P, W/P]."""

    __call__: Callable[..., Posterior]

    def __init__(self, config: DinacAEConfig) -> None:
        super().__init__()
        dim = config.model_dim
        self.normalizes_mean = config.bottleneck_norm_mode == CHANNEL_WISE
        self.patchify = PatchEmbed(config.in_channels, dim, config.patch_size)
        self.blocks = nn.ModuleList(
            ScaledFCDMBlock(dim, config.mlp_dim, config.depthwise_kernel_size)
            for _ in range(config.encoder_depth)
        )
        self.to_bottleneck = Pointwise(dim, 2 * config.bottleneck_dim)

    def forward(self, images: Tensor) -> Posterior:
        x = self.patchify(images).float()  # [B, h, w, D]
        for block in self.blocks:
            x = block(x)
        posterior = split_moments(self.to_bottleneck(x))
        return normalize_mean(posterior) if self.normalizes_mean else posterior

    def encode_pixels(self, pixels: Tensor) -> Posterior:
        """Returns the posterior of pixels, uint8 [B, H, W, 3]."""
        return self(scale_pixels(pixels))


def normalize_mean(posterior: Posterior) -> Posterior:
    """Divides the mean by its root mean square over the channels, at each position."""
    mean = posterior.mean
    scale = (mean.square().mean(dim=1, keepdim=True) + NORM_EPS).rsqrt()
    return Posterior(mean * scale, posterior.logsnr)
