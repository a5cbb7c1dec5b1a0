"""What the fast encoder and decoder are made of: the plain layers' arithmetic in fewer passes.

The plain layers (`layers`, `encoder`, `decoder`) are the reference. Here weights are laid out once
for the processor, statistics are one pass over an activation, and what follows works in place.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dinac_cli.model.layers import NORM_EPS


class FastLinear:
    """A linear layer on the last dim, in the weight's type, with an exact GELU behind it or not.

    Bfloat16 weights on a CPU are kept in oneDNN's own layout, in which products need no reordering
    and the GELU costs no pass of its own.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> None:
        self.weight = weight.detach().flatten(1).contiguous()
        self.bias = None if bias is None else bias.detach().to(weight.dtype)
        self._gelu = gelu
        self._packed = _can_pack(self.weight)
        if self._packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight)

    def __call__(self, x: Tensor) -> Tensor:
        x = x.to(self.weight.dtype)
        if self._packed:
            after = "gelu" if self._gelu else "none"
            packed: Tensor = torch.ops.mkldnn._linear_pointwise(
                x, self.weight, self.bias, after, [], "none"
            )
            return packed
        y = F.linear(x, self.weight, self.bias)
        return F.gelu(y) if self._gelu else y


def _can_pack(weight: Tensor) -> bool:
    # Private functions, but those that torch.compile itself calls.
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.bfloat16
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


def scale_to_unit(x: Tensor) -> Tensor:
    """What brings the last dim of float32 `x` to a root mean square of 1, [..., 1]."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(NORM_EPS).rsqrt_()


def normalize(x: Tensor, weight: Tensor) -> Tensor:
    """`layers.normalize_rms` of a float32 `x`, which stays as it is."""
    return (x * scale_to_unit(x)).mul_(weight)


def add_normalized(x: Tensor, update: Tensor, weight: Tensor) -> Tensor:
    """Add the RMS-normalised update to the float32 stream `x`, in place."""
    update = update.float()
    return x.addcmul_(update.mul_(scale_to_unit(update)), weight)
