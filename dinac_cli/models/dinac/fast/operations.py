"""The operations between the fast network's matrix products; each is one pass over memory."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Operations(Protocol):
    """The functions in `torch_operations` and `triton_operations`.

    All tensors are contiguous, except that a batch of equal images may be an expanded view.
    """

    gelu_in_response: bool
    """True if `normalize_response` applies the GELU; false if the layer before applies it."""

    def read_patches(self, pixels: Tensor, patch_size: int, dtype: torch.dtype) -> Tensor:
        """Cuts pixels, uint8 [B, H, W, 3], into patches [B, h, w, 3·P·P] in [-1, 1], in `dtype`.

        Each patch is flat, channel by channel.
        """

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

    def arrange_filters(self, weight: Tensor) -> Tensor:
        """Arranges the filters [D, 1, K, K] of a depthwise convolution for `convolve`."""

    def convolve(self, x: Tensor, filters: Tensor, bias: Tensor) -> Tensor:
        """Convolves each channel of the float32 `x` [B, h, w, D] with the channel's own filter.

        `filters` comes from `arrange_filters`; `bias` is [D]. The edges are padded with zeros. The
        result has the type of `bias`.
        """

    def normalize_response(self, u: Tensor, gamma: Tensor) -> Tensor:
        """Computes `decoder.normalize_response` without `beta`; overwrites `u` [B, h, w, D]."""

    def add_gated(self, x: Tensor, gate: Tensor, update: Tensor, shift: Tensor) -> Tensor:
        """Returns `x + gate·(update + shift)`, float32 [B, h, w, D]. `gate` and `shift` are [D]."""

    def finish_ddim(self, x: Tensor, x0: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Takes the last DDIM step (see `sampling.step_ddim`), then clamps and rounds to pixels.

        `x` is float32 [B, 3, H, W]; `x0` is patches, float32 [B, h, w, 3·P·P]. `alpha` and `sigma`
        are [2], on the CPU. Returns uint8 [B, H, W, 3].
        """
