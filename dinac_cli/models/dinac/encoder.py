"""The encoder: a transformer that maps image patches to a posterior over latents."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from dinac_cli.models.dinac.config import ENCODER_HEAD_DIM, DinacAEConfig
from dinac_cli.models.dinac.layers import PatchEmbed, Pointwise, TransformerBlock
from dinac_cli.models.dinac.posterior import Posterior, split_moments
from dinac_cli.models.dinac.rope import AxialRope2d
from dinac_cli.models.pixel_scaling import scale_pixels


class Encoder(nn.Module):
    """Maps images [B, 3, H, W] in [-1, 1] to a posterior over latents [B, C, H/P, W/P]."""

    __call__: Callable[..., Posterior]

    def __init__(self, config: DinacAEConfig) -> None:
        super().__init__()
        dim = config.model_dim
        self.patchify = PatchEmbed(config.in_channels, dim, config.patch_size)
        self.blocks = nn.ModuleList(
            TransformerBlock(dim, ENCODER_HEAD_DIM, config.mlp_dim)
            for _ in range(config.encoder_depth)
        )
        self.rope = AxialRope2d(ENCODER_HEAD_DIM)
        self.to_bottleneck = Pointwise(dim, 2 * config.bottleneck_dim)

    def forward(self, images: Tensor) -> Posterior:
        grid = self.patchify(images).float()  # [B, h, w, D]
        rotation = self.rope(*grid.shape[1:3])
        tokens = grid.flatten(1, 2)  # [B, N, D]
        for block in self.blocks:
            tokens = block(tokens, rotation)
        moments = self.to_bottleneck(tokens.reshape(grid.shape))  # [B, h, w, 2C]
        return split_moments(moments)

    def encode_pixels(self, pixels: Tensor) -> Posterior:
        """Returns the posterior of pixels, uint8 [B, H, W, 3]."""
        return self(scale_pixels(pixels))
