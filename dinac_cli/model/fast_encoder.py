"""The encoder of `encoder.py` in fewer passes over memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinac_cli.model.encoder import Encoder
from dinac_cli.model.fast_layers import FastLinear, add_normalized, normalize, scale_to_unit
from dinac_cli.model.layers import SelfAttention, TransformerBlock, patchify
from dinac_cli.model.posterior import Posterior
from dinac_cli.model.rope import AxialRope2d

_GRIDS_KEPT = 8


class FastAttention:
    """`layers.SelfAttention`: norms and rotation of queries and keys at once, in place."""

    def __init__(self, plain: SelfAttention) -> None:
        self._head_dim = plain.head_dim
        self._qkv = FastLinear(plain.qkv.weight)
        self._proj_out = FastLinear(plain.proj_out.weight)
        heads = plain.proj_out.in_features // plain.head_dim
        norms = (plain.q_norm._impl.weight, plain.k_norm._impl.weight)
        # [2·heads, d]: one row for each head of the queries, then of the keys.
        self._norm = torch.stack(norms).detach().float().repeat_interleave(heads, dim=0)

    def __call__(self, x: Tensor, rotation: Tensor) -> Tensor:
        """Attend among tokens [B, N, D]; `rotation` is complex [N, 1, d/2]."""
        qkv = self._qkv(x).reshape(*x.shape[:2], -1, self._head_dim)  # [B, N, 3·heads, d]
        count = len(self._norm)
        qk = qkv[:, :, :count].float()  # [B, N, 2·heads, d]
        scale = scale_to_unit(qk)
        pairs = qk.mul_(self._norm).view(*qk.shape[:-1], -1, 2)
        torch.view_as_complex(pairs).mul_(rotation)
        heads = qk.mul_(scale).to(qkv.dtype)
        q, k = (part.transpose(1, 2) for part in heads.chunk(2, dim=2))  # [B, heads, N, d]
        v = qkv[:, :, count:].transpose(1, 2)
        attended = F.scaled_dot_product_attention(q, k, v)
        return self._proj_out(attended.transpose(1, 2).flatten(2))


class FastBlock:
    """`layers.TransformerBlock` on a float32 stream [B, N, D], which it changes."""

    def __init__(self, plain: TransformerBlock) -> None:
        norms = (plain.attn_norm1, plain.attn_norm2, plain.mlp_norm1, plain.mlp_norm2)
        self._norms = [norm._impl.weight.detach() for norm in norms]
        self._attention = FastAttention(plain.attn_core)
        self._up = FastLinear(plain.mlp.up.weight, gelu=True)
        self._down = FastLinear(plain.mlp.down.weight)

    def __call__(self, x: Tensor, rotation: Tensor) -> Tensor:
        before, after, mlp_before, mlp_after = self._norms
        x = add_normalized(x, self._attention(normalize(x, before), rotation), after)
        return add_normalized(x, self._down(self._up(normalize(x, mlp_before))), mlp_after)


class FastEncoder(nn.Module):
    """Computes what `plain` does and takes its weights over; for inference alone."""

    def __init__(self, plain: Encoder) -> None:
        super().__init__()
        self._patch_size = plain.patchify.patch_size
        self._patches = FastLinear(plain.patchify.proj.weight, plain.patchify.proj.bias)
        self._blocks = [
            FastBlock(block) for block in plain.blocks if isinstance(block, TransformerBlock)
        ]
        self._moments = FastLinear(plain.to_bottleneck.weight, plain.to_bottleneck.bias)
        self._rope: AxialRope2d = plain.rope
        self._rotations: dict[tuple[int, int], Tensor] = {}

    def forward(self, images: Tensor) -> Posterior:
        grid = self._patches(patchify(images, self._patch_size)).float()  # [B, h, w, D]
        height, width = grid.shape[1:3]
        rotation = self._rotate(height, width)
        tokens = grid.flatten(1, 2)  # [B, N, D]
        for block in self._blocks:
            tokens = block(tokens, rotation)
        moments = self._moments(tokens).reshape(len(tokens), height, width, -1)  # [B, h, w, 2C]
        mean, logsnr = moments.float().permute(0, 3, 1, 2).chunk(2, dim=1)
        return Posterior(mean.contiguous(), logsnr.contiguous())

    def _rotate(self, height: int, width: int) -> Tensor:
        """The rotation of a grid's tokens as complex numbers [N, 1, d/2], kept for a few grids."""
        if (height, width) not in self._rotations:
            while len(self._rotations) >= _GRIDS_KEPT:
                del self._rotations[next(iter(self._rotations))]
            cos, sin = self._rope(height, width)
            self._rotations[height, width] = torch.complex(cos, sin)[:, None]
        return self._rotations[height, width]
