"""The class head: predicts the class token and the patch tokens of a DINO network from latents."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dinac_cli.models.dinac.config import ClassHeadConfig
from dinac_cli.models.dinac.layers import (
    Linear,
    Mlp,
    Pointwise,
    RMSNorm,
    TransformerBlock,
    attend,
    merge_heads,
    normalize_rms,
    split_heads,
)
from dinac_cli.models.dinac.rope import AxialRope2d, leave_unrotated

TOKEN_RANGE = 0.035
"""New tokens are random, uniform in ±TOKEN_RANGE; this gives a standard deviation of 0.02."""


class CrossAttention(nn.Module):
    """The attention of `ClassReadout`.

    It is a module of its own because the tensor names in checkpoints require one.
    """

    __call__: Callable[..., Tensor]

    def __init__(self, dim: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.kv_proj = Linear(dim, 2 * dim, bias=False)
        self.out_proj = Linear(dim, dim, bias=False)
        self.q_norm_heads = RMSNorm(head_dim)
        self.k_norm_heads = RMSNorm(head_dim)

    def forward(self, q: Tensor, context: Tensor) -> Tensor:
        q = split_heads(q, self.head_dim)
        k, v = (split_heads(part, self.head_dim) for part in self.kv_proj(context).chunk(2, -1))
        return self.out_proj(merge_heads(attend(self.q_norm_heads(q), self.k_norm_heads(k), v)))


class ClassReadout(nn.Module):
    """Cross-attention from a query token [B, 1, D] to a context [B, M, D], followed by an MLP."""

    def __init__(self, dim: int, head_dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.query_norm = RMSNorm(dim)
        self.context_norm = RMSNorm(dim)
        self.mlp_norm = RMSNorm(dim)
        self.q_proj = Linear(dim, dim, bias=False)
        self.attn_core = CrossAttention(dim, head_dim)
        self.mlp = Mlp(dim, mlp_dim)

    def forward(self, query: Tensor, context: Tensor) -> Tensor:
        q = self.q_proj(self.query_norm(query))
        x = query + self.attn_core(q, self.context_norm(context)).float()
        return x + self.mlp(self.mlp_norm(x)).float()


class ClassHead(nn.Module):
    """Maps unwhitened latents [B, C, h, w] to DINO features."""

    def __init__(self, sizes: ClassHeadConfig, bottleneck_dim: int) -> None:
        super().__init__()
        dim, head_dim = sizes.model_dim, sizes.head_dim
        self.initial_class_token = nn.Parameter(torch.empty(1, dim))
        self.register_tokens = nn.Parameter(torch.empty(sizes.register_token_count, dim))
        for tokens in (self.initial_class_token, self.register_tokens):
            # On the meta device, normal_ would import torch's compiler, which takes a second.
            nn.init.uniform_(tokens, -TOKEN_RANGE, TOKEN_RANGE)
        self.in_proj = Pointwise(bottleneck_dim, dim)
        self.block = TransformerBlock(dim, head_dim, sizes.mlp_dim)
        self.class_readout = ClassReadout(dim, head_dim, sizes.mlp_dim)
        self._axial_rope2d = AxialRope2d(head_dim)

    def forward(self, latents_raw: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the float32 class token [B, D] and the float32 patch tokens [B, h·w, D]."""
        tokens = self.embed_tokens(latents_raw)
        return self.read_class_token(tokens), self.read_patch_tokens(tokens)

    def embed_tokens(self, latents_raw: Tensor) -> Tensor:
        """Returns the block's output [B, 1 + R + h·w, D]: class, register and patch tokens."""
        batch, _, height, width = latents_raw.shape
        patches = self.in_proj(latents_raw.permute(0, 2, 3, 1)).flatten(1, 2).float()
        prefix = torch.cat((self.initial_class_token, self.register_tokens)).float()
        tokens = torch.cat((prefix.expand(batch, -1, -1), patches), dim=1)
        rotation = leave_unrotated(self._axial_rope2d(height, width), len(prefix))
        return self.block(tokens, rotation)

    def read_class_token(self, tokens: Tensor) -> Tensor:
        """Returns the class token [B, D]; `tokens` is the result of `embed_tokens`."""
        return normalize_rms(self.class_readout(tokens[:, :1], tokens[:, 1:]))[:, 0]

    def read_patch_tokens(self, tokens: Tensor) -> Tensor:
        """Returns the patch tokens [B, h·w, D]; `tokens` is the result of `embed_tokens`."""
        return normalize_rms(tokens[:, 1 + len(self.register_tokens) :])
