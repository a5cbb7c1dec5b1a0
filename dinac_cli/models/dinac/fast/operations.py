"""The passes over memory that the fast network consists of, beside its matrix products."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Protocol

import torch
from torch import Tensor


class Operations(Protocol):
    """One way to compute those passes; a module of functions. Tensors are contiguous."""

    gelu_in_response: bool
    """Whether `normalize_response` applies the GELU, or the linear layer before it has."""

    def normalize(self, x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """Bring the last dim of `x` [..., D] to a root mean square of 1, times `weight` [D]."""

    def add_normalized(
        self, x: Tensor, update: Tensor, weight: Tensor, following: Tensor | None
    ) -> Tensor | None:
        """Add the normalised update to the float32 stream `x` [..., D], in place.

        With the weight of the norm that follows, return what that makes of `x`, in the update's
        type.
        """

    def rotate_heads(
        self, qkv: Tensor, weight: Tensor, rotation: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each [B, N, heads, d], of [B, N, 3·heads, d].

        The first two normalised by `weight` [2·heads, d] and turned by `rotation`: cosines
        and sines, [N, 1, d/2, 2]. `qkv` may be used up.
        """

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Convolve each channel of float32 `x` [B, h, w, D] with its own filter [D, 1, K, K].

        Zeros stand around the edges; the result has the weight's type.
        """

    def normalize_response(self, u: Tensor, gamma: Tensor) -> Tensor:
        """`decoder.normalize_response` of `u` [B, h, w, D] without its `beta`; `u` is used up."""

    def add_gated(self, x: Tensor, gate: Tensor, update: Tensor, shift: Tensor) -> Tensor:
        """`x + gate·(update + shift)`, float32 [B, h, w, D]; gate and shift are [D]."""


def choose_operations(device: torch.device) -> Operations:
    """Triton's on CUDA, where Triton is installed; torch's elsewhere."""
    if device.type == "cuda" and find_spec("triton") is not None:
        from dinac_cli.models.dinac.fast import triton_operations

        return triton_operations
    from dinac_cli.models.dinac.fast import torch_operations

    return torch_operations
