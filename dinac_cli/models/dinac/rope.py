"""Axial rotary position embedding over the latent grid."""

from __future__ import annotations

import torch
from torch import Tensor, nn

BASE = 10_000.0
"""A head of width d has n = d/4 periods: BASE^(i/n) grid steps, for i from 0 to n - 1."""

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines, both float32 [N, d/2]. A token has one angle per pair of a head's d dims."""


class AxialRope2d(nn.Module):
    """Computes rotations. Half of a head's d dims rotate by row, the other half by column."""

    periods: Tensor

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        # On the meta device, torch.arange would import torch's compiler, which takes a second.
        periods = [BASE ** (4 * index / head_dim) for index in range(head_dim // 4)]
        self.register_buffer("periods", torch.tensor(periods))

    def forward(self, height: int, width: int) -> Rotation:
        """Returns the rotation of a grid's height · width tokens, in row-major order."""
        periods = self.periods.float()
        rows = torch.arange(height, device=periods.device)[:, None] / periods  # [h, d/4]
        columns = torch.arange(width, device=periods.device)[:, None] / periods  # [w, d/4]
        both = (rows[:, None].expand(-1, width, -1), columns.expand(height, -1, -1))
        angles = torch.cat(both, dim=-1).flatten(0, 1)  # [h, w, d/2] → [N, d/2]
        return angles.cos(), angles.sin()


def leave_unrotated(rotation: Rotation, count: int) -> Rotation:
    """Prepends `count` tokens to `rotation`; their angles are zero."""
    cos, sin = rotation
    still = cos.new_zeros(count, cos.shape[1])
    return torch.cat((still + 1, cos)), torch.cat((still, sin))


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotates adjacent pairs of dims: (a, b) → (a·cos - b·sin, b·cos + a·sin), in float32."""
    cos, sin = rotation
    a, b = x.float().reshape(*x.shape[:-1], -1, 2).unbind(-1)  # [B, heads, N, d/2] each
    return torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)
