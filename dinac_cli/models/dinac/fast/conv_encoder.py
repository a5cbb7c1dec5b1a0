"""The fast encoder of SemDisDiffAE: replaces `dinac/conv_encoder.py`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dinac_cli.models.dinac.conv_encoder import ConvEncoder, ScaledFCDMBlock, normalize_mean
from dinac_cli.models.dinac.decoder import Modulation
from dinac_cli.models.dinac.fast.compilation import compile_for_sizes
from dinac_cli.models.dinac.fast.decoder import FastConvBlock
from dinac_cli.models.dinac.fast.layers import FastLinear
from dinac_cli.models.dinac.fast.operations import Operations
from dinac_cli.models.dinac.layers import patchify
from dinac_cli.models.dinac.posterior import Posterior, split_moments


class FastConvEncoder(nn.Module):
    """Replaces `plain` for inference; the results are equal up to rounding.

    Its blocks are those of the fast decoder, with a factor of one, so they need no other kernels.
    """

    def __init__(
        self, plain: ConvEncoder, operations: Operations, *, compiled: bool = False
    ) -> None:
        super().__init__()
        self._operations = operations
        self._normalizes_mean = plain.normalizes_mean
        self._patch_size = plain.patchify.patch_size
        self._patches = FastLinear(plain.patchify.proj.weight, plain.patchify.proj.bias)
        blocks = [block for block in plain.blocks if isinstance(block, ScaledFCDMBlock)]
        self._blocks = [(FastConvBlock(block, operations), _modulate(block)) for block in blocks]
        self._moments = FastLinear(plain.to_bottleneck.weight, plain.to_bottleneck.bias)
        self._compute = compile_for_sizes(self._run) if compiled else self._run

    def forward(self, images: Tensor) -> Posterior:
        """Returns the posterior [B, C, h, w] of images [B, 3, H, W] in [-1, 1]."""
        return self._compute(patchify(images, self._patch_size))

    def encode_pixels(self, pixels: Tensor) -> Posterior:
        """Implements `ConvEncoder.encode_pixels`."""
        dtype = self._patches.weight.dtype
        return self._compute(
            self._operations.read_patches(pixels.contiguous(), self._patch_size, dtype)
        )

    def list_constants(self) -> list[Tensor]:
        """Returns the tensors that are cached between calls: none."""
        return []

    def _run(self, patches: Tensor) -> Posterior:
        """Encodes patches [B, h, w, 3·P·P] of images in [-1, 1]."""
        x = self._patches(patches).float()  # [B, h, w, D]
        for block, modulation in self._blocks:
            x = block(x, modulation)
        posterior = split_moments(self._moments(x))
        return normalize_mean(posterior) if self._normalizes_mean else posterior


def _modulate(block: ScaledFCDMBlock) -> Modulation:
    """Returns the factor, which is one, and the gate of a block, both [D]."""
    gate = block.layer_scale.detach()
    return torch.ones_like(gate), gate
