"""The layers of the encoder, the decoder and the class head.

Matrix products are computed in the type of their weights. Norms and residual streams are float32.
The weights are cast once, so no autocast is needed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from dinac_cli.models.dinac.rope import Rotation, rotate

NORM_EPS = 1e-6


def project(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Applies a linear layer or 1x1 convolution to the last dim, in the type of `weight`."""
    return F.linear(x.to(weight.dtype), weight.flatten(1), bias)


def normalize_rms(x: Tensor, weight: Tensor | None = None) -> Tensor:
    """Divides `x` by the root mean square of its last dim; always returns float32."""
    return F.rms_norm(x.float(), x.shape[-1:], weight, NORM_EPS)


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Cuts images [B, 3, H, W] into flat patches [B, h, w, 3·P·P], channel by channel."""
    batch, channels, height, width = images.shape
    rows, columns = height // patch_size, width // patch_size
    x = images.reshape(batch, channels, rows, patch_size, columns, patch_size)
    return x.permute(0, 2, 4, 1, 3, 5).flatten(3)  # [B, 3, h, P, w, P] → [B, h, w, 3·P·P]


def unpatchify(patches: Tensor, patch_size: int) -> Tensor:
    """Joins flat patches [B, h, w, 3·P·P] to images [B, 3, H, W]; undoes `patchify`."""
    x = patches.reshape(*patches.shape[:3], -1, patch_size, patch_size)  # [B, h, w, 3, P, P]
    return x.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)  # [B, 3, h, P, w, P] → …


def split_heads(x: Tensor, head_dim: int) -> Tensor:
    """Splits the last dim into heads: [B, N, heads·head_dim] → [B, heads, N, head_dim]."""
    return x.reshape(*x.shape[:2], -1, head_dim).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """Joins heads in order: [B, heads, N, head_dim] → [B, N, heads·head_dim]."""
    return x.transpose(1, 2).flatten(2)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Computes softmax attention in the type of `v`, with scale 1/√d; inputs: [B, heads, ·, d]."""
    return F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v)


class Linear(nn.Linear):
    """A linear layer. The input has any float type and is cast to the type of the weights."""

    __call__: Callable[..., Tensor]

    def forward(self, input: Tensor) -> Tensor:
        return project(input, self.weight, self.bias)


class Pointwise(nn.Conv2d):
    """A 1x1 convolution over channels-last data [B, h, w, C]."""

    __call__: Callable[..., Tensor]

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=1)

    def forward(self, input: Tensor) -> Tensor:
        return project(input, self.weight, self.bias)


class RMSNorm(nn.Module):
    """RMS normalisation with float32 output. Checkpoints store its weight under `_impl`."""

    __call__: Callable[..., Tensor]

    def __init__(self, dim: int) -> None:
        super().__init__()
        self._impl = nn.RMSNorm(dim, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return normalize_rms(x, self._impl.weight)


class PatchEmbed(nn.Module):
    """Embeds the patches of images [B, 3, H, W] as vectors [B, h, w, D]."""

    __call__: Callable[..., Tensor]

    def __init__(self, in_channels: int, dim: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        # This product equals a strided convolution, but never uses TF32.
        return project(patchify(images, self.patch_size), self.proj.weight, self.proj.bias)


class Mlp(nn.Module):
    """Two linear layers without bias and an exact GELU between them."""

    __call__: Callable[..., Tensor]

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.up = Linear(dim, hidden_dim, bias=False)
        self.down = Linear(hidden_dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class SelfAttention(nn.Module):
    """Self-attention of tokens [B, N, D]. Queries and keys are normalised, then rotated."""

    def __init__(self, dim: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.qkv = Linear(dim, 3 * dim, bias=False)
        self.proj_out = Linear(dim, dim, bias=False)
        self.q_norm = RMSNorm(head_dim)
        self.k_norm = RMSNorm(head_dim)

    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        q, k, v = (split_heads(part, self.head_dim) for part in self.qkv(x).chunk(3, dim=-1))
        q, k = rotate(self.q_norm(q), rotation), rotate(self.k_norm(k), rotation)
        return self.proj_out(merge_heads(attend(q, k, v)))


class TransformerBlock(nn.Module):
    """Adds attention, then an MLP, to a float32 residual stream [B, N, D].

    A norm comes before and after the attention, and before and after the MLP.
    """

    __call__: Callable[..., Tensor]

    def __init__(self, dim: int, head_dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.attn_norm1 = RMSNorm(dim)
        self.attn_norm2 = RMSNorm(dim)
        self.mlp_norm1 = RMSNorm(dim)
        self.mlp_norm2 = RMSNorm(dim)
        self.attn_core = SelfAttention(dim, head_dim)
        self.mlp = Mlp(dim, mlp_dim)

    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        x = x + self.attn_norm2(self.attn_core(self.attn_norm1(x), rotation))
        return x + self.mlp_norm2(self.mlp(self.mlp_norm1(x)))
