"""`operations.Operations` as Triton kernels: one pass over an activation where torch has many.

GRN alone takes two, for its statistics are over the whole image. No result depends on the order in
which programs run: there are no atomic sums.
"""

from __future__ import annotations

import torch
from torch import Tensor
from triton import cdiv, next_power_of_2

from dinac_cli.models.dinac.fast import triton_kernels as kernels
from dinac_cli.models.dinac.layers import NORM_EPS

gelu_in_response = True

_CONV_SIDE, _CONV_CHANNELS = 8, 32
_PART, _STEP, _COLUMNS = 256, 16, 64


def normalize(x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """See `Operations.normalize`."""
    dim = x.shape[-1]
    y = torch.empty(x.shape, dtype=dtype, device=x.device)
    rows = x.numel() // dim
    kernels.normalize_rows[rows,](x, weight, y, dim, NORM_EPS, next_power_of_2(dim))
    return y


def add_normalized(
    x: Tensor, update: Tensor, weight: Tensor, following: Tensor | None
) -> Tensor | None:
    """See `Operations.add_normalized`."""
    dim = x.shape[-1]
    goes_on = following is not None
    y = torch.empty_like(update) if goes_on else update
    kernels.add_normalized_rows[x.numel() // dim,](
        x,
        update,
        weight,
        following if following is not None else weight,
        y,
        dim,
        NORM_EPS,
        next_power_of_2(dim),
        goes_on,
    )
    return y if goes_on else None


def rotate_heads(qkv: Tensor, weight: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """See `Operations.rotate_heads`; queries and keys change in place."""
    batch, tokens, _, dim = qkv.shape
    count = len(weight)
    kernels.rotate_rows[batch * tokens,](
        qkv,
        weight,
        rotation,
        tokens,
        count,
        dim // 2,
        NORM_EPS,
        next_power_of_2(count),
        next_power_of_2(dim // 2),
    )
    q, k = qkv[:, :, :count].chunk(2, dim=2)
    return q, k, qkv[:, :, count:]


def convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """See `Operations.convolve`."""
    batch, height, width, dim = x.shape
    size = weight.shape[-1]
    y = torch.empty(x.shape, dtype=weight.dtype, device=x.device)
    down, across = cdiv(height, _CONV_SIDE), cdiv(width, _CONV_SIDE)
    kernels.convolve_tiles[batch * down * across, cdiv(dim, _CONV_CHANNELS)](
        x,
        weight,
        bias,
        y,
        height,
        width,
        down,
        across,
        dim,
        size,
        _CONV_SIDE,
        _CONV_CHANNELS,
    )
    return y


def normalize_response(u: Tensor, gamma: Tensor) -> Tensor:
    """See `Operations.normalize_response`; applies the exact GELU first."""
    batch, height, width, dim = u.shape
    parts = cdiv(height * width, _PART)
    sums = torch.empty(batch, parts, dim, device=u.device)
    kernels.activate_columns[batch * parts, cdiv(dim, _COLUMNS)](
        u, sums, height * width, parts, dim, _PART, _STEP, _COLUMNS
    )
    factor = torch.empty(batch, 1, 1, dim, device=u.device)
    kernels.weigh_response[batch,](sums, gamma, factor, parts, dim, NORM_EPS, next_power_of_2(dim))
    return u.mul_(factor)


def add_gated(x: Tensor, gate: Tensor, update: Tensor, shift: Tensor) -> Tensor:
    """See `Operations.add_gated`."""
    dim = x.shape[-1]
    y = torch.empty_like(x)
    rows = x.numel() // dim
    kernels.add_gated_rows[rows,](x, gate, update, shift, y, dim, next_power_of_2(dim))
    return y
