"""Depthwise convolutions as matrix products, for training on a CPU.

On a small grid of N positions, the filter of each channel can be written as an [N, N] matrix. The
forward and the backward pass are then batched matrix products. A CPU computes such products many
times faster than the backward pass of a grouped convolution.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinac_cli.models.dinac.decoder import FCDMBlock

_MAX_POSITIONS = 256  # on larger grids, a convolution is faster than such large matrices


def place_taps(height: int, width: int, kernel_size: int) -> Tensor:
    """Returns the matrix that turns a filter [k·k] into an [N, N] matrix. N is height·width.

    The matrix is bfloat16 [k·k, N·N], and its values are 0 or 1. Entry (tap, from·N + to) is 1 if
    the filter multiplies input position `from` by this tap for output position `to`. Positions
    outside the grid count as zero.
    """
    index = torch.arange(height * width)
    rows, columns = index // width, index % width
    down = rows[:, None] - rows[None, :] + kernel_size // 2  # [from, to]
    right = columns[:, None] - columns[None, :] + kernel_size // 2
    inside = (down >= 0) & (down < kernel_size) & (right >= 0) & (right < kernel_size)
    taps = torch.arange(kernel_size**2)[:, None, None]
    return ((taps == down * kernel_size + right) & inside).flatten(1).bfloat16()


class MatrixDepthwise(nn.Module):
    """Computes the depthwise convolution `conv` with the same parameters, but by matrix products.

    Uses matrix products on a grid of `height` by `width`, and the usual convolution on other grids.
    """

    placement: Tensor

    def __init__(self, conv: nn.Conv2d, height: int, width: int) -> None:
        super().__init__()
        assert conv.bias is not None
        self.weight, self.bias = conv.weight, conv.bias
        self.grid = (height, width)
        kernel_size = conv.kernel_size[0]
        taps = place_taps(height, width, kernel_size).to(conv.weight.device)
        self.register_buffer("placement", taps, persistent=False)

    def forward(self, u: Tensor) -> Tensor:
        """Filters a tensor [B, C, h, w]. The result is a view of a tensor [C, B, h, w]."""
        batch, channels, height, width = u.shape
        if (height, width) != self.grid:
            padding = self.weight.shape[-1] // 2
            return F.conv2d(u, self.weight, self.bias, padding=padding, groups=channels)
        positions = height * width
        matrices = self.weight.flatten(1) @ self.placement.to(self.weight.dtype)
        matrices = matrices.view(channels, positions, positions)
        columns = u.transpose(0, 1).reshape(channels, batch, positions)
        filtered = torch.baddbmm(self.bias[:, None, None], columns, matrices)
        return filtered.view(channels, batch, height, width).transpose(0, 1)


def use_matrices(decoder: nn.Module, height: int, width: int) -> None:
    """Makes the decoder's blocks use matrix products, if these are faster for this grid."""
    if height * width > _MAX_POSITIONS:
        return
    for block in decoder.modules():
        if isinstance(block, FCDMBlock):
            block.dwconv = MatrixDepthwise(block.dwconv, height, width)  # type: ignore[assignment]
