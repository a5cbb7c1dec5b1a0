"""The fast encoder: replaces `dinac/encoder.py`, with fewer passes over memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinac_cli.models.dinac.encoder import Encoder
from dinac_cli.models.dinac.fast.compilation import compile_for_sizes
from dinac_cli.models.dinac.fast.layers import FastLinear
from dinac_cli.models.dinac.fast.operations import Operations
from dinac_cli.models.dinac.layers import SelfAttention, TransformerBlock, patchify
from dinac_cli.models.dinac.posterior import Posterior, split_moments
from dinac_cli.models.dinac.rope import AxialRope2d
from dinac_cli.models.recent import Recent

# A recorded graph makes no rotation: the rotations of all sizes that take turns must fit. They take
# 256 bytes per token, so nine grids of 12 megapixels take 105 MiB.
_ROTATION_BYTES = 128 * 2**20


class FastAttention:
    """Replaces `layers.SelfAttention`. One operation normalises and rotates queries and keys."""

    def __init__(self, plain: SelfAttention, operations: Operations) -> None:
        self._operations = operations
        self._head_dim = plain.head_dim
        self._qkv = FastLinear(plain.qkv.weight)
        self._proj_out = FastLinear(plain.proj_out.weight)
        heads = plain.proj_out.in_features // plain.head_dim
        norms = (plain.q_norm._impl.weight, plain.k_norm._impl.weight)
        # [2·heads, d]: one row per query head, then one row per key head.
        self._norm = torch.stack(norms).detach().float().repeat_interleave(heads, dim=0)

    def __call__(self, x: Tensor, rotation: Tensor) -> Tensor:
        """Computes self-attention of tokens [B, N, D]; `rotation` is [N, 1, d/2, 2]."""
        qkv = self._qkv(x).reshape(*x.shape[:2], -1, self._head_dim)  # [B, N, 3·heads, d]
        parts = self._operations.rotate_heads(qkv, self._norm, rotation)
        q, k, v = (part.transpose(1, 2) for part in parts)  # [B, heads, N, d]
        attended = F.scaled_dot_product_attention(q, k, v)
        return self._proj_out(attended.transpose(1, 2).flatten(2))


class FastBlock:
    """Replaces `layers.TransformerBlock`. One operation computes a sum and the norm after it."""

    def __init__(self, plain: TransformerBlock, operations: Operations) -> None:
        self._operations = operations
        norms = (plain.attn_norm1, plain.attn_norm2, plain.mlp_norm1, plain.mlp_norm2)
        self.first_norm, *self._norms = (norm._impl.weight.detach() for norm in norms)
        self._attention = FastAttention(plain.attn_core, operations)
        self._up = FastLinear(plain.mlp.up.weight, gelu=True)
        self._down = FastLinear(plain.mlp.down.weight)

    def __call__(
        self, x: Tensor, normalized: Tensor, rotation: Tensor, following: Tensor | None
    ) -> Tensor | None:
        """Updates the float32 stream `x` [B, N, D] in place.

        `normalized` is `x` after the block's first norm. Returns the new `x`, normalised with the
        weight `following`. Returns None if `following` is None.
        """
        after, mlp_before, mlp_after = self._norms
        attended = self._attention(normalized, rotation)
        y = self._operations.add_normalized(x, attended, after, mlp_before)
        assert y is not None
        return self._operations.add_normalized(x, self._down(self._up(y)), mlp_after, following)


class FastEncoder(nn.Module):
    """Replaces `plain` for inference; the results are equal up to rounding."""

    def __init__(self, plain: Encoder, operations: Operations, *, compiled: bool = False) -> None:
        super().__init__()
        self._operations = operations
        self._patch_size = plain.patchify.patch_size
        self._patches = FastLinear(plain.patchify.proj.weight, plain.patchify.proj.bias)
        self._blocks = [
            FastBlock(block, operations)
            for block in plain.blocks
            if isinstance(block, TransformerBlock)
        ]
        self._moments = FastLinear(plain.to_bottleneck.weight, plain.to_bottleneck.bias)
        self._rope: AxialRope2d = plain.rope
        self._rotations: Recent[tuple[int, int], Tensor] = Recent(
            _ROTATION_BYTES, lambda rotation: rotation.numel() * rotation.element_size()
        )
        self._compute = compile_for_sizes(self._run) if compiled else self._run

    def forward(self, images: Tensor) -> Posterior:
        """Returns the posterior [B, C, h, w] of images [B, 3, H, W] in [-1, 1]."""
        return self._encode(patchify(images, self._patch_size))

    def encode_pixels(self, pixels: Tensor) -> Posterior:
        """Implements `Encoder.encode_pixels`."""
        dtype = self._patches.weight.dtype
        return self._encode(
            self._operations.read_patches(pixels.contiguous(), self._patch_size, dtype)
        )

    def _encode(self, patches: Tensor) -> Posterior:
        """Encodes patches [B, h, w, 3·P·P] of images in [-1, 1]."""
        return self._compute(patches, self._rotate(*patches.shape[1:3]))

    def _run(self, patches: Tensor, rotation: Tensor) -> Posterior:
        embedded = self._patches(patches)  # [B, h, w, D]
        height, width = embedded.shape[1:3]
        tokens = self._run_blocks(embedded.flatten(1, 2), rotation)
        moments = self._moments(tokens).reshape(len(tokens), height, width, -1)  # [B, h, w, 2C]
        return split_moments(moments)

    def list_constants(self) -> list[Tensor]:
        """Returns the tensors that are cached between calls."""
        return self._rotations.list_values()

    def _run_blocks(self, embedded: Tensor, rotation: Tensor) -> Tensor:
        """Runs all blocks; returns the float32 stream [B, N, D]."""
        first, dtype = self._blocks[0].first_norm, embedded.dtype
        y: Tensor | None = self._operations.normalize(embedded, first, dtype)
        x = embedded.float()
        followings = [*(block.first_norm for block in self._blocks[1:]), None]
        for block, following in zip(self._blocks, followings, strict=True):
            assert y is not None
            y = block(x, y, rotation, following)
        return x

    def _rotate(self, height: int, width: int) -> Tensor:
        """Returns a grid's cosines and sines, float32 [N, 1, d/2, 2]. They are cached per size."""

        def make() -> Tensor:
            cos, sin = self._rope(height, width)
            return torch.stack((cos, sin), dim=-1)[:, None]

        return self._rotations.get((height, width), make)
