"""Depthwise convolutions as matrix products, for training on a CPU.

On a small grid a depthwise filter is, for each channel, a matrix over the grid's positions. Made
so, forward and backward are batched matrix products, which processors do many times faster than
the backward pass of a grouped convolution.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinac_cli.models.dinac.decoder import FCDMBlock

MAX_POSITIONS = 256
"""Above this many positions of a grid the matrices, which grow as its square, cost more."""


def place_taps(height: int, width: int, kernel_size: int) -> Tensor:
    """Where each tap of a filter acts: 0 or 1, bfloat16 [k·k, N·N] with N = height·width.

    Entry (tap, from·N + to) says that the tap carries position `from` to position `to`; there is
    nothing beyond the edge.
    """
    index = torch.arange(height * width)
    rows, columns = index // width, index % width
    down = rows[:, None] - rows[None, :] + kernel_size // 2  # [from, to]
    right = columns[:, None] - columns[None, :] + kernel_size // 2
    inside = (down >= 0) & (down < kernel_size) & (right >= 0) & (right < kernel_size)
    taps = torch.arange(kernel_size**2)[:, None, None]
    return ((taps == down * kernel_size + right) & inside).flatten(1).bfloat16()


class MatrixDepthwise(nn.Module):
    """The depthwise convolution `conv`, with its own parameters, over a grid [height, width].

    Grids of another size go through the convolution.
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
        """Filter [B, C, h, w]; the result is laid out channel first."""
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
    """Make a decoder's blocks filter grids of this size by matrix products, where that pays."""
    if height * width > MAX_POSITIONS:
        return
    for block in decoder.modules():
        if isinstance(block, FCDMBlock):
            block.dwconv = MatrixDepthwise(block.dwconv, height, width)  # type: ignore[assignment]
