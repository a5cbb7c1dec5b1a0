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

PATCH_BLOCK = 256
"""The values of a patch that a program handles at a time."""

CONV_ROWS, CONV_COLUMNS, CONV_CHANNELS = 8, 8, 64
"""For one program of the convolution: output rows, output columns, channels."""

GRN_ROWS, GRN_STEP, GRN_COLUMNS = 256, 16, 64
"""For one program of the two passes of GRN: positions in total, positions per step, channels."""

# Triton 3.10 changes the default. Fused products and sums round differently.
OPTIONS = {"enable_fp_fusion": True}


def read_patches(pixels: Tensor, patch_size: int, dtype: torch.dtype) -> Tensor:
    """Implements `Operations.read_patches`."""
    batch, height, width, channels = pixels.shape
    rows, columns, dim = height // patch_size, width // patch_size, channels * patch_size**2
    patches = torch.empty(batch, rows, columns, dim, dtype=dtype, device=pixels.device)
    kernels.read_patches[batch * rows * columns,](
        pixels, patches, width, dim, patch_size, PATCH_BLOCK, **OPTIONS
    )
    return patches


def normalize(x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Implements `Operations.normalize`."""
    dim = x.shape[-1]
    y = torch.empty(x.shape, dtype=dtype, device=x.device)
    kernels.normalize_rows[x.numel() // dim,](
        x, weight, y, dim, NORM_EPS, next_power_of_2(dim), **OPTIONS
    )
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
        x, update, weight, *last, int(goes_on), dim, NORM_EPS, next_power_of_2(dim), **OPTIONS
    )
    return y


def rotate_heads(qkv: Tensor, weight: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Implements `Operations.rotate_heads`; overwrites the queries and keys."""
    batch, tokens, _, dim = qkv.shape
    count, pairs = len(weight), dim // 2
    blocks = next_power_of_2(count), next_power_of_2(pairs)
    kernels.rotate_rows[batch * tokens,](
        qkv, weight, rotation, tokens, count, pairs, NORM_EPS, *blocks, **OPTIONS
    )
    q, k = qkv[:, :, :count].chunk(2, dim=2)
    return q, k, qkv[:, :, count:]


def arrange_filters(weight: Tensor) -> Tensor:
    """Implements `Operations.arrange_filters`; returns float32 [K, K, D]."""
    return weight[:, 0].permute(1, 2, 0).float().contiguous()


def convolve(x: Tensor, filters: Tensor, bias: Tensor) -> Tensor:
    """Implements `Operations.convolve`."""
    batch, height, width, dim = x.shape
    y = torch.empty(x.shape, dtype=bias.dtype, device=x.device)
    down, across = cdiv(height, CONV_ROWS), cdiv(width, CONV_COLUMNS)
    blocks = len(filters), CONV_ROWS, CONV_COLUMNS, CONV_CHANNELS
    kernels.convolve_tiles[batch * down * across, cdiv(dim, CONV_CHANNELS)](
        x, filters, bias, y, height, width, down, across, dim, *blocks, **OPTIONS
    )
    return y


def normalize_response(u: Tensor, gamma: Tensor) -> Tensor:
    """Implements `Operations.normalize_response`; applies the exact GELU first."""
    batch, height, width, dim = u.shape
    positions = height * width
    parts = cdiv(positions, GRN_ROWS)
    grid = batch * parts, cdiv(dim, GRN_COLUMNS)
    blocks = GRN_ROWS, GRN_STEP, GRN_COLUMNS
    sums = torch.empty(batch, parts, dim, device=u.device)
    kernels.sum_squares[grid](u, sums, positions, parts, dim, *blocks, **OPTIONS)
    factor = torch.empty(batch, dim, device=u.device)
    kernels.weigh_response[batch,](
        sums, gamma, factor, parts, dim, NORM_EPS, next_power_of_2(dim), **OPTIONS
    )
    kernels.apply_response[grid](u, factor, positions, parts, dim, *blocks, **OPTIONS)
    return u


def add_gated(x: Tensor, gate: Tensor, update: Tensor, shift: Tensor) -> Tensor:
    """Implements `Operations.add_gated`."""
    dim = x.shape[-1]
    y = torch.empty_like(x)
    kernels.add_gated_rows[x.numel() // dim,](
        x, gate, update, shift, y, dim, next_power_of_2(dim), **OPTIONS
    )
    return y


def finish_ddim(x: Tensor, x0: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Implements `Operations.finish_ddim`."""
    batch, channels, height, width = x.shape
    _, rows, columns, dim = x0.shape
    (alpha_before, alpha_after), (sigma_before, sigma_after) = alpha.tolist(), sigma.tolist()
    x_factor = sigma_after / sigma_before
    x0_factor = alpha_after - x_factor * alpha_before
    pixels = torch.empty(batch, height, width, channels, dtype=torch.uint8, device=x.device)
    sizes = width, rows * columns, x.stride(0), x_factor, x0_factor
    kernels.finish_ddim[batch * rows * columns,](
        x, x0, pixels, *sizes, dim, height // rows, PATCH_BLOCK, **OPTIONS
    )
    return pixels
