"""The matrix products of the fast network. On a CPU, the layout of weights is changed once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor


class FastLinear:
    """Applies a linear layer to the last dim, in the type of the weight.

    If `gelu` is true, an exact GELU follows. On a CPU, bfloat16 weights are stored in oneDNN's
    layout. Matrix products then do not convert the layout, and the GELU needs no extra pass over
    memory. If `tf32` is true, CUDA may round float32 factors to TF32.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False, tf32: bool = False
    ) -> None:
        self.weight = weight.detach().flatten(1).contiguous()
        self.bias = None if bias is None else bias.detach().to(weight.dtype)
        self._gelu = gelu
        self._tf32 = tf32
        self._width = len(self.weight)
        self._packed = _can_pack(self.weight)
        if self._packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight)

    def __call__(self, x: Tensor) -> Tensor:
        x = x.to(self.weight.dtype)
        if self._packed:
            after = "gelu" if self._gelu else "none"
            if torch.compiler.is_compiling():
                y: Tensor = multiply_packed_opaquely(x, self.weight, self.bias, after, self._width)
                return y
            return _multiply_packed(x, self.weight, self.bias, after)
        with allow_tf32() if self._tf32 else nullcontext():
            y = F.linear(x, self.weight, self.bias)
        return torch.ops.aten.gelu_(y) if self._gelu else y


@contextmanager
def allow_tf32() -> Iterator[None]:
    """Lets float32 matrix products on CUDA use TF32; restores the setting of the process."""
    # cuBLAS reads this setting since torch 2.9. The older `allow_tf32` also changes others.
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def _multiply_packed(x: Tensor, weight: Tensor, bias: Tensor | None, after: str) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, after, [], "none")
    return y


@torch.library.custom_op("dinac::multiply_packed", mutates_args=())
def multiply_packed_opaquely(
    x: Tensor, weight: Tensor, bias: Tensor | None, after: str, width: int
) -> Tensor:
    """Calls `_multiply_packed`; torch.compile does not look inside this function."""
    return _multiply_packed(x, weight, bias, after)


@multiply_packed_opaquely.register_fake
def _shape_packed(x: Tensor, weight: Tensor, bias: Tensor | None, after: str, width: int) -> Tensor:
    return x.new_empty((*x.shape[:-1], width))


def _can_pack(weight: Tensor) -> bool:
    # These functions of torch are private, but torch.compile itself calls them.
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.bfloat16
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )
