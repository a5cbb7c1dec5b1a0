"""The operations between the fast network's matrix products; each is one pass over memory."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Operations(Protocol):
    """The functions in `torch_operations` and `triton_operations`. All tensors are contiguous."""

    gelu_in_response: bool
    """True if `normalize_response` applies the GELU; false if the layer before applies it."""

    def normalize(self, x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """Divides `x` [..., D] by its root mean square over D, then multiplies by `weight` [D]."""

    def add_normalized(
        self, x: Tensor, update: Tensor, weight: Tensor, following: Tensor | None
    ) -> Tensor | None:
        """Normalises `update` with `weight`, then adds it in place to the float32 `x` [..., D].

        Then normalises the new `x` with the weight `following`, and returns the result in the type
        of `update`. Returns None if `following` is None.
        """

    def rotate_heads(
        self, qkv: Tensor, weight: Tensor, rotation: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Splits `qkv` [B, N, 3·heads, d] into queries, keys and values, each [B, N, heads, d].

        Normalises queries and keys with `weight` [2·heads, d], then rotates them. `rotation` holds
        cosines and sines [N, 1, d/2, 2]. May overwrite `qkv`.
        """

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Convolves each channel of the float32 `x` [B, h, w, D] with the channel's own filter.

        `weight` is [D, 1, K, K]. The edges are padded with zeros. The result has the weight's type.
        """

    def normalize_response(self, u: Tensor, gamma: Tensor) -> Tensor:
        """Computes `decoder.normalize_response` without `beta`; overwrites `u` [B, h, w, D]."""

    def add_gated(self, x: Tensor, gate: Tensor, update: Tensor, shift: Tensor) -> Tensor:
        """Returns `x + gate·(update + shift)`, float32 [B, h, w, D]. `gate` and `shift` are [D]."""
