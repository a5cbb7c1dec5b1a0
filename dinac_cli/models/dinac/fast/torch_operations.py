"""Implements `operations.Operations` in torch.

Each statistic is computed in one pass over memory. Updates are made in place.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dinac_cli.models.dinac.layers import NORM_EPS, normalize_rms, patchify, unpatchify
from dinac_cli.models.dinac.rope import rotate
from dinac_cli.models.dinac.sampling import step_ddim
from dinac_cli.models.pixel_scaling import round_images, scale_pixels

gelu_in_response = False


def read_patches(pixels: Tensor, patch_size: int, dtype: torch.dtype) -> Tensor:
    """Implements `Operations.read_patches`."""
    return patchify(scale_pixels(pixels), patch_size).to(dtype)


def normalize(x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Implements `Operations.normalize`."""
    x = x.float()
    return (x * _scale_to_unit(x)).mul_(weight).to(dtype)


def add_normalized(
    x: Tensor, update: Tensor, weight: Tensor, following: Tensor | None
) -> Tensor | None:
    """Implements `Operations.add_normalized`."""
    dtype, update = update.dtype, update.float()
    x.addcmul_(update.mul_(_scale_to_unit(update)), weight)
    return None if following is None else normalize(x, following, dtype)


def rotate_heads(qkv: Tensor, weight: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Implements `Operations.rotate_heads`."""
    count = len(weight)
    qk = qkv[:, :, :count].float()  # [B, N, 2·heads, d]
    if torch.compiler.is_compiling():  # it fuses operations, but lacks complex numbers
        turned = rotate(normalize_rms(qk) * weight, (rotation[..., 0], rotation[..., 1]))
        q, k = turned.to(qkv.dtype).chunk(2, dim=2)
        return q, k, qkv[:, :, count:]
    scale = _scale_to_unit(qk)
    pairs = qk.mul_(weight).view(*qk.shape[:-1], -1, 2)
    torch.view_as_complex(pairs).mul_(torch.view_as_complex(rotation))
    q, k = qk.mul_(scale).to(qkv.dtype).chunk(2, dim=2)
    return q, k, qkv[:, :, count:]


def arrange_filters(weight: Tensor) -> Tensor:
    """Implements `Operations.arrange_filters`; changes nothing."""
    return weight


def convolve(x: Tensor, filters: Tensor, bias: Tensor) -> Tensor:
    """Implements `Operations.convolve`; `filters` is [D, 1, K, K]."""
    # `permute` copies no data: the result is an NCHW tensor in channels-last memory.
    u = x.to(filters.dtype).permute(0, 3, 1, 2)
    if u.is_cuda and u.dtype == torch.float32:
        u = u.contiguous()  # cuDNN's channels-last kernels may round to TF32
    u = F.conv2d(u, filters, bias, padding=filters.shape[-1] // 2, groups=len(filters))
    return u.permute(0, 2, 3, 1)


def normalize_response(u: Tensor, gamma: Tensor) -> Tensor:
    """Implements `Operations.normalize_response`."""
    norm = u.square().sum(dim=(1, 2), keepdim=True, dtype=torch.float32).sqrt_()
    relative = norm / (norm.mean(dim=-1, keepdim=True) + NORM_EPS)  # [B, 1, 1, D]
    return u.mul_((1 + gamma * relative).to(u.dtype))


def add_gated(x: Tensor, gate: Tensor, update: Tensor, shift: Tensor) -> Tensor:
    """Implements `Operations.add_gated`."""
    return torch.addcmul(x, gate, update.float().add_(shift))


def finish_ddim(x: Tensor, x0: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Implements `Operations.finish_ddim`."""
    images = unpatchify(x0, x.shape[2] // x0.shape[1])
    return round_images(step_ddim(x, images, alpha, sigma))


def _scale_to_unit(x: Tensor) -> Tensor:
    """Returns the factor [..., 1] that scales the last dim of `x` to a root mean square of 1."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(NORM_EPS).rsqrt_()
