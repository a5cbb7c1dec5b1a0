"""Implements `operations.Operations` as Triton kernels, with fewer passes over memory than torch.

GRN needs two passes, because its statistics cover the whole image. Every other operation needs one
pass. No sum is atomic, so the order in which programs run does not change the results.
"""

from __future__ import annotations

import torch
from torch import Tensor
from triton import cdiv, next_power_of_2

from dinac_cli.models.dinac.fast import triton_kernels as kernels
from dinac_cli.models.dinac.layers import NORM_EPS

gelu_in_response = True

CONV_SIDE, CONV_CHANNELS = 8, 32
"""One program of the convolution computes CONV_SIDE² positions of CONV_CHANNELS channels."""

GRN_ROWS, GRN_STEP, GRN_COLUMNS = 256, 16, 64
"""For one program of `activate_columns`: positions in total, positions per step, channels."""


def normalize(x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Implements `Operations.normalize`."""
    dim = x.shape[-1]
    y = torch.empty(x.shape, dtype=dtype, device=x.device)
    kernels.normalize_rows[x.numel() // dim,](x, weight, y, dim, NORM_EPS, next_power_of_2(dim))
    return y


def add_normalized(
    x: Tensor, update: Tensor, weight: Tensor, following: Tensor | None
) -> Tensor | None:
    """Implements `Operations.add_normalized`."""
    dim, goes_on = x.shape[-1], following is not None
    y = torch.empty_like(update) if goes_on else None
    # The kernel requires two more tensors even if it ignores them.
    last = (following, y) if goes_on else (weight, update)
    kernels.add_normalized_rows[x.numel() // dim,](
        x, update, weight, *last, dim, NORM_EPS, next_power_of_2(dim), goes_on
    )
    return y


def rotate_heads(qkv: Tensor, weight: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Implements `Operations.rotate_heads`; overwrites the queries and keys."""
    batch, tokens, _, dim = qkv.shape
    count, pairs = len(weight), dim // 2
    blocks = next_power_of_2(count), next_power_of_2(pairs)
    kernels.rotate_rows[batch * tokens,](
        qkv, weight, rotation, tokens, count, pairs, NORM_EPS, *blocks
    )
    q, k = qkv[:, :, :count].chunk(2, dim=2)
    return q, k, qkv[:, :, count:]


def convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Implements `Operations.convolve`."""
    batch, height, width, dim = x.shape
    size = weight.shape[-1]
    y = torch.empty(x.shape, dtype=weight.dtype, device=x.device)
    down, across = cdiv(height, CONV_SIDE), cdiv(width, CONV_SIDE)
    kernels.convolve_tiles[batch * down * across, cdiv(dim, CONV_CHANNELS)](
        x, weight, bias, y, height, width, down, across, dim, size, CONV_SIDE, CONV_CHANNELS
    )
    return y


def normalize_response(u: Tensor, gamma: Tensor) -> Tensor:
    """Implements `Operations.normalize_response`; applies the exact GELU first."""
    batch, height, width, dim = u.shape
    parts = cdiv(height * width, GRN_ROWS)
    sums = torch.empty(batch, parts, dim, device=u.device)
    kernels.activate_columns[batch * parts, cdiv(dim, GRN_COLUMNS)](
        u, sums, height * width, parts, dim, GRN_ROWS, GRN_STEP, GRN_COLUMNS
    )
    factor = torch.empty(batch, 1, 1, dim, device=u.device)
    kernels.weigh_response[batch,](sums, gamma, factor, parts, dim, NORM_EPS, next_power_of_2(dim))
    return u.mul_(factor)


def add_gated(x: Tensor, gate: Tensor, update: Tensor, shift: Tensor) -> Tensor:
    """Implements `Operations.add_gated`."""
    dim = x.shape[-1]
    y = torch.empty_like(x)
    kernels.add_gated_rows[x.numel() // dim,](x, gate, update, shift, y, dim, next_power_of_2(dim))
    return y
