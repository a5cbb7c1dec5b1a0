"""Checks on a device that the operations give the right results there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dinac_cli.models.dinac.config import ENCODER_HEAD_DIM, DinacAEConfig
from dinac_cli.models.dinac.fast import torch_operations
from dinac_cli.models.dinac.fast.operations import Operations

LIMITS = {torch.float32: 2e-5, torch.bfloat16: 2e-2}
"""The largest error allowed in each type of matrix products. TF32 or a wrong element exceeds it;
the rounding of every step to this type does not."""

PIXEL_LIMIT = 1 / 255
"""The same for pixels: one level, because a value near a half may be rounded up or down."""

_PATCH = 16
_ALPHA, _SIGMA = (0.6, 0.98), (0.8, 0.2)


@dataclass(frozen=True)
class OperationCheck:
    """How one operation compares with torch's operation in float32 on the CPU.

    `error` is the largest difference of an element, divided by the sum of the element's size and
    the root mean square of its tensor (for pixels, by 255). It is None if the operation raised the
    error `cause`.
    """

    name: str
    error: float | None
    limit: float
    cause: Exception | None = None

    @property
    def holds(self) -> bool:
        """True if `error` is at most `limit`."""
        return self.error is not None and self.error <= self.limit


def check_operations(
    operations: Operations, config: DinacAEConfig, device: torch.device, dtype: torch.dtype
) -> tuple[OperationCheck, ...]:
    """Runs each operation once on `device`, at the widths of a model and on odd sizes.

    `dtype` is the type of the model's matrix products. If an operation raises an error, the device
    may be unusable, so its check is the last one.
    """
    checks: list[OperationCheck] = []
    for (name, call), inputs in zip(_CALLS.items(), _draw_inputs(config, dtype), strict=True):
        exact = call(torch_operations, torch.float32, *(x.float().clone() for x in inputs))
        try:
            made = call(operations, dtype, *(x.clone().to(device) for x in inputs))
            error = max(_compare(x.cpu(), y) for x, y in zip(made, exact, strict=True))
        except Exception as exc:
            return (*checks, OperationCheck(name, None, LIMITS[dtype], exc))
        limit = PIXEL_LIMIT if made[0].dtype == torch.uint8 else LIMITS[dtype]
        checks.append(OperationCheck(name, error, limit))
    return tuple(checks)


def _compare(made: Tensor, exact: Tensor) -> float:
    is_pixels = exact.dtype == torch.uint8
    made, exact = made.double(), exact.double()
    size = 255 if is_pixels else exact.abs() + exact.square().mean().sqrt()
    error = float(((made - exact).abs() / size).max())
    return math.inf if math.isnan(error) else error


def _add_normalized(operations: Operations, x: Tensor, *rest: Tensor) -> Sequence[Tensor]:
    following = operations.add_normalized(x, *rest)
    assert following is not None
    return [following, x]


def _normalize_response(operations: Operations, u: Tensor, gamma: Tensor) -> Sequence[Tensor]:
    return [operations.normalize_response(u if operations.gelu_in_response else F.gelu(u), gamma)]


def _finish_ddim(operations: Operations, x: Tensor, x0: Tensor) -> Sequence[Tensor]:
    x = x[:1].expand(len(x0), -1, -1, -1)  # all images start from the same noise
    return [operations.finish_ddim(x, x0, torch.tensor(_ALPHA), torch.tensor(_SIGMA))]


# Each function calls one operation, which may overwrite its inputs, and returns all its results.
_CALLS: dict[str, Callable[..., Sequence[Tensor]]] = {
    "read_patches": lambda operations, dtype, pixels: [
        operations.read_patches(pixels.to(torch.uint8), _PATCH, dtype)
    ],
    "normalize": lambda operations, dtype, x, weight: [operations.normalize(x, weight, dtype)],
    "add_normalized": lambda operations, dtype, *inputs: _add_normalized(operations, *inputs),
    "rotate_heads": lambda operations, dtype, *inputs: operations.rotate_heads(*inputs),
    "convolve": lambda operations, dtype, x, weight, bias: [
        operations.convolve(x, operations.arrange_filters(weight), bias)
    ],
    "normalize_response": lambda operations, dtype, *inputs: _normalize_response(
        operations, *inputs
    ),
    "add_gated": lambda operations, dtype, *inputs: [operations.add_gated(*inputs)],
    "finish_ddim": lambda operations, dtype, *inputs: _finish_ddim(operations, *inputs),
}


def _draw_inputs(config: DinacAEConfig, dtype: torch.dtype) -> Iterator[Sequence[Tensor]]:
    """Yields the inputs of each of `_CALLS`, on the CPU."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    dim, wide, kernel = config.model_dim, config.mlp_dim, config.depthwise_kernel_size
    heads, width = dim // ENCODER_HEAD_DIM, ENCODER_HEAD_DIM
    angles = draw(6, 1, width // 2)
    rotation = torch.stack((angles.cos(), angles.sin()), dim=-1)
    yield (torch.randint(256, (2, 3 * _PATCH, 5 * _PATCH, 3), generator=generator),)
    yield draw(2, 7, dim, dtype=dtype), draw(dim)
    yield draw(2, 7, dim), draw(2, 7, dim, dtype=dtype), draw(dim), draw(dim)
    yield draw(2, 6, 3 * heads, width, dtype=dtype), draw(2 * heads, width), rotation
    filters, bias = draw(dim, 1, kernel, kernel, dtype=dtype), draw(dim, dtype=dtype)
    yield draw(2, 11, 13, dim), filters, bias
    yield draw(2, 17, 19, wide, dtype=dtype), draw(wide)
    yield draw(2, 5, 7, dim), draw(dim), draw(2, 5, 7, dim, dtype=dtype), draw(dim)
    yield draw(2, 3, 3 * _PATCH, 5 * _PATCH), draw(2, 3, 5, 3 * _PATCH**2)
