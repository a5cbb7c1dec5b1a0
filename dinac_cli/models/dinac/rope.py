"""Axial rotary position embedding over the latent grid."""

from __future__ import annotations

import torch
from torch import Tensor, nn

BASE = 10_000.0
"""The next period after the longest would be BASE grid steps."""

Rotation = tuple[Tensor, Tensor]
"""Cosine and sine of each token's angle per pair of dims, both float32 [N, head_dim / 2]."""


class AxialRope2d(nn.Module):
    """Angles of a grid's tokens: half of a head's dims rotate by row, half by column."""

    periods: Tensor

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        # Plain floats: torch.arange on the meta device imports the compiler, which takes a second.
        periods = [BASE ** (4 * index / head_dim) for index in range(head_dim // 4)]
        self.register_buffer("periods", torch.tensor(periods))

    def forward(self, height: int, width: int) -> Rotation:
        """Returns the rotation of the height · width tokens of a grid, in row-major order."""
        periods = self.periods.float()
        rows = torch.arange(height, device=periods.device)[:, None] / periods  # [h, d/4]
        columns = torch.arange(width, device=periods.device)[:, None] / periods  # [w, d/4]
        angles = torch.cat(
            (
                rows[:, None, :].expand(-1, width, -1),
                columns[None, :, :].expand(height, -1, -1),
            ),
            dim=-1,
        ).flatten(0, 1)  # [h, w, d/2] → [N, d/2]
        return angles.cos(), angles.sin()


def leave_unrotated(rotation: Rotation, count: int) -> Rotation:
    """Prepends `count` tokens with angle zero to a rotation."""
    cos, sin = rotation
    still = cos.new_zeros(count, cos.shape[1])
    return torch.cat((still + 1, cos)), torch.cat((still, sin))


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotates adjacent pairs of dims: (a, b) → (a·cos - b·sin, b·cos + a·sin).

    `x` is [B, heads, N, head_dim]; computes and returns float32.
    """
    cos, sin = rotation
    a, b = x.float().reshape(*x.shape[:-1], -1, 2).unbind(-1)  # [B, heads, N, d/2] each
    return torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)
