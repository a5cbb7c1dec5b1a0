"""The decoder: a convolutional denoiser of images, conditioned on latents.

All tensors between the patch embedding and the pixels are channels-last: [B, h, w, D].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinac_cli.models.dinac.config import TIME_FREQUENCIES, DinacAEConfig
from dinac_cli.models.dinac.layers import (
    NORM_EPS,
    Linear,
    PatchEmbed,
    Pointwise,
    normalize_rms,
    unpatchify,
)

TIME_SCALE = 1000.0
"""The time embedding multiplies the diffusion time by this factor."""

LONGEST_WAVE = 10_000.0
"""The highest frequency of the time embedding, divided by the lowest."""

Modulation = tuple[Tensor, Tensor]
"""The scale and the gate of one block, each float32 [B or 1, 1, 1, D]."""


class Begun(NamedTuple):
    """The result of `Decoder.begin`. With guidance, `finish` is called twice on this result."""

    start: Tensor  # the start blocks' output, float32 [B, h, w, D]
    modulations: list[Modulation]


class TimeEmbed(nn.Module):
    """Embeds diffusion times [B] as condition vectors [B, D]."""

    freqs: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        last = TIME_FREQUENCIES - 1
        freqs = [LONGEST_WAVE ** (-index / last) for index in range(TIME_FREQUENCIES)]
        self.register_buffer("freqs", torch.tensor(freqs))
        self.proj_in = Linear(2 * TIME_FREQUENCIES, dim)
        self.proj_out = Linear(dim, dim)

    def forward(self, t: Tensor) -> Tensor:
        t = t.to(self.freqs.device, torch.float32)
        angles = (TIME_SCALE * t)[:, None] * self.freqs  # [B, 128]
        waves = torch.cat((angles.sin(), angles.cos()), dim=-1)
        return self.proj_out(F.silu(self.proj_in(waves)))


class AdaLNBase(nn.Module):
    """The part of the modulation that all blocks share."""

    __call__: Callable[..., Tensor]

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = Linear(dim, 2 * dim)
        # In a new network, all gates are zero, so each block is the identity.
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, s: Tensor) -> Tensor:
        return self.proj(s)


class AdaLNDelta(nn.Module):
    """The low-rank part of the modulation. Each block has its own low-rank part."""

    __call__: Callable[..., Tensor]

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__()
        self.down = Linear(dim, rank, bias=False)
        self.up = Linear(rank, 2 * dim, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, s: Tensor) -> Tensor:
        return self.up(self.down(s))


def normalize_response(u: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """Computes the global response normalisation of `u` [B, h, w, D] in float32.

    The result is gamma·(u·n) + beta + u. n is the L2 norm of a channel over the grid, divided by
    the mean of these norms over all channels. Source: Woo et al., ConvNeXt V2,
    https://arxiv.org/abs/2301.00808.
    """
    u = u.float()
    norm = torch.linalg.vector_norm(u, dim=(1, 2), keepdim=True)  # [B, 1, 1, D]
    relative = norm / (norm.mean(dim=-1, keepdim=True) + NORM_EPS)
    return torch.addcmul(beta, u, 1 + gamma * relative)


class GRN(nn.Module):
    """Global response normalisation. Checkpoints store its weights as [1, D, 1, 1]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, dim, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, dim, 1, 1))

    def forward(self, u: Tensor) -> Tensor:
        return normalize_response(u, self.gamma.flatten(), self.beta.flatten())


class FCDMBlock(nn.Module):
    """A modulated convolution block on a float32 residual stream [B, h, w, D]."""

    def __init__(self, dim: int, hidden_dim: int, kernel_size: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)
        self.pwconv1 = Pointwise(dim, hidden_dim)
        self.grn = GRN(hidden_dim)
        self.pwconv2 = Pointwise(hidden_dim, dim)

    def forward(self, x: Tensor, modulation: Modulation) -> Tensor:
        """Returns the stream after this block. The gate multiplies the block's update."""
        scale, gate = modulation
        # `permute` copies no data: the result is an NCHW tensor in channels-last memory.
        u = x.to(self.dwconv.weight.dtype).permute(0, 3, 1, 2)
        if u.is_cuda and u.dtype == torch.float32:
            u = u.contiguous()  # cuDNN's channels-last kernels may round to TF32
        u = self.dwconv(u).permute(0, 2, 3, 1)  # [B, h, w, D]
        u = normalize_rms(u) * (1 + scale)
        u = self.grn(F.gelu(self.pwconv1(u)))  # [B, h, w, 4D]
        return x + gate * self.pwconv2(u)


class Decoder(nn.Module):
    """Estimates the clean image from a noisy image, a diffusion time and unwhitened latents."""

    __call__: Callable[..., Tensor]

    def __init__(self, config: DinacAEConfig) -> None:
        super().__init__()
        dim = config.model_dim
        self.patch_size = config.patch_size
        self.path_drop_mask_feature = nn.Parameter(torch.zeros(1, dim, 1, 1))
        self.patchify = PatchEmbed(config.in_channels, dim, config.patch_size)
        self.latent_up = Pointwise(config.bottleneck_dim, dim)
        self.fuse_in = Pointwise(2 * dim, dim)
        self.time_embed = TimeEmbed(dim)
        self.adaln_base = AdaLNBase(dim)
        self.adaln_deltas = nn.ModuleList(
            AdaLNDelta(dim, config.adaln_low_rank_rank) for _ in range(config.decoder_depth)
        )
        self.start_blocks = _make_blocks(config, config.decoder_start_blocks)
        self.middle_blocks = _make_blocks(config, config.decoder_middle_blocks)
        self.fuse_skip = Pointwise(2 * dim, dim)
        self.end_blocks = _make_blocks(config, config.decoder_end_blocks)
        self.out_proj = Pointwise(dim, config.in_channels * config.patch_size**2)

    def forward(
        self, x_t: Tensor, t: Tensor, latents_raw: Tensor, drop_middle: bool = False
    ) -> Tensor:
        """Estimates the clean image x0, float32 [B, 3, H, W].

        `x_t` is [B, 3, H, W] and `latents_raw` is [B, C, h, w]. `t` is [B]. If all images have the
        same time, `t` may be [1]; the modulations are then computed only once. If `drop_middle` is
        true, the middle blocks are skipped (path-drop).
        """
        return self.finish(self.begin(self.embed(x_t), t, latents_raw), drop_middle)

    def embed(self, x_t: Tensor) -> Tensor:
        """Embeds noisy images; the result [B, h, w, D] is the input of `begin`."""
        return self.patchify(x_t)

    def begin(self, embedded: Tensor, t: Tensor, latents_raw: Tensor) -> Begun:
        """Runs the start blocks. If all images have equal noise, `embedded` may be [1, h, w, D]."""
        modulations = modulate(self.time_embed, self.adaln_base, self.adaln_deltas, t)
        latents = self.latent_up(latents_raw.permute(0, 2, 3, 1))  # [B, h, w, D]
        x = self.fuse_in(torch.cat((embedded.expand_as(latents), latents), dim=-1)).float()
        x = _run_blocks(self.start_blocks, x, modulations[: len(self.start_blocks)])
        return Begun(x, modulations)

    def finish(self, begun: Begun, drop_middle: bool = False) -> Tensor:
        """Runs the middle and end blocks; returns the float32 estimate of x0 [B, 3, H, W]."""
        return unpatchify(self.finish_patches(begun, drop_middle), self.patch_size)

    def finish_patches(self, begun: Begun, drop_middle: bool = False) -> Tensor:
        """Does the same as `finish`; returns the estimate as float32 patches [B, h, w, 3·P·P]."""
        start, modulations = begun
        first, last = len(self.start_blocks), len(modulations) - len(self.end_blocks)
        if drop_middle:
            middle = self.path_drop_mask_feature.flatten().expand_as(start)
        else:
            middle = _run_blocks(self.middle_blocks, start, modulations[first:last])
        x = self.fuse_skip(torch.cat((start, middle), dim=-1)).float()
        x = _run_blocks(self.end_blocks, x, modulations[last:])
        return self.out_proj(x).float()


def modulate(
    time_embed: TimeEmbed, base: AdaLNBase, deltas: nn.ModuleList, t: Tensor
) -> list[Modulation]:
    """Returns the scale and gate of each block at times [B]. Order: start, middle, end blocks."""
    s = F.silu(time_embed(t))  # [B, D]
    shared, modulations = base(s).float(), []
    for delta in deltas:
        scale, gate = (shared + delta(s).float())[:, None, None].chunk(2, dim=-1)
        modulations.append((scale, gate))
    return modulations


def _make_blocks(config: DinacAEConfig, count: int) -> nn.ModuleList:
    return nn.ModuleList(
        FCDMBlock(config.model_dim, config.mlp_dim, config.depthwise_kernel_size)
        for _ in range(count)
    )


def _run_blocks(blocks: nn.ModuleList, x: Tensor, modulations: list[Modulation]) -> Tensor:
    for block, modulation in zip(blocks, modulations, strict=True):
        x = block(x, modulation)
    return x
