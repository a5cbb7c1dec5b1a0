"""Depthwise convolutions as matrix products, for training on a CPU.

On a small grid, a depthwise filter is one matrix over the grid's positions per channel. Forward and
backward are then batched matrix products, which CPUs compute many times faster than the backward
pass of a grouped convolution.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinac_cli.models.dinac.decoder import FCDMBlock

MAX_POSITIONS = 256
"""The largest grid for which matrices are faster; their size grows as the square of the grid's."""


def place_taps(height: int, width: int, kernel_size: int) -> Tensor:
    """Returns where each tap of a filter acts: 0 or 1, bfloat16 [k·k, N·N], N = height·width.

    Entry (tap, from·N + to) is 1 if the tap carries position `from` to position `to`. Values
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
    """Computes the depthwise convolution `conv`, with its parameters, over a grid [height, width].

    Grids of another size are convolved.
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
        """Filters [B, C, h, w]; in memory, the result has the channels first."""
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
    """Makes a decoder's blocks filter grids of this size by matrix products, if that is faster."""
    if height * width > MAX_POSITIONS:
        return
    for block in decoder.modules():
        if isinstance(block, FCDMBlock):
            block.dwconv = MatrixDepthwise(block.dwconv, height, width)  # type: ignore[assignment]
