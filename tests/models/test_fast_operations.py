"""Triton's kernels match torch's operations, also on sizes that do not fill a block."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

from dinac_cli.models.dinac.fast import torch_operations
from dinac_cli.models.dinac.fast.operations import Operations

INTERPRETED = os.environ["TRITON_INTERPRET"] == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
TYPES = [torch.float32, torch.bfloat16]
# The relative error of rounding a whole tensor once. A GPU rounds to the nearest bfloat16, Triton's
# interpreter truncates, which doubles the error.
TOLERANCES = {torch.float32: 2e-6, torch.bfloat16: 8e-3 if INTERPRETED else 4e-3}


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, device=DEVICE).to(dtype)


def compare(result: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert result.dtype == expected.dtype
    assert result.shape == expected.shape
    error = (result.float() - expected.float()).norm() / expected.float().norm()
    assert error <= TOLERANCES[dtype]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(2, 5, 64), (1, 1, 896), (3, 2, 3, 33)])
def test_normalize(
    triton_operations: Operations, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    x, weight = draw(*shape), draw(shape[-1])
    expected = torch_operations.normalize(x, weight, dtype)
    before = x.clone()
    compare(triton_operations.normalize(x, weight, dtype), expected, dtype)
    assert torch.equal(x, before)
    compare(triton_operations.normalize(x.to(dtype), weight, dtype), expected, torch.bfloat16)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("goes_on", [True, False])
def test_add_normalized(triton_operations: Operations, goes_on: bool, dtype: torch.dtype) -> None:
    x, update = draw(2, 7, 48), draw(2, 7, 48, dtype=dtype)
    weight, following = draw(48), draw(48) if goes_on else None
    ours, theirs = x.clone(), x.clone()
    result = triton_operations.add_normalized(ours, update.clone(), weight, following)
    expected = torch_operations.add_normalized(theirs, update.clone(), weight, following)
    compare(ours, theirs, torch.float32)
    assert (result is None) is (expected is None) is (not goes_on)
    if result is not None and expected is not None:
        compare(result, expected, dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("heads", "dim"), [(1, 64), (3, 64), (14, 64), (2, 12)])
def test_rotate_heads(
    triton_operations: Operations, heads: int, dim: int, dtype: torch.dtype
) -> None:
    qkv, weight = draw(2, 6, 3 * heads, dim, dtype=dtype), draw(2 * heads, dim)
    angles = draw(6, 1, dim // 2)
    rotation = torch.stack((angles.cos(), angles.sin()), dim=-1)
    ours = triton_operations.rotate_heads(qkv.clone(), weight, rotation)
    theirs = torch_operations.rotate_heads(qkv.clone(), weight, rotation)
    for result, expected in zip(ours, theirs, strict=True):
        compare(result, expected, dtype)
    assert torch.equal(ours[2], qkv[:, :, 2 * heads :])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("shape", "size"), [((1, 1, 1, 40), 7), ((1, 9, 10, 32), 7), ((2, 16, 8, 33), 3)]
)
def test_convolve(
    triton_operations: Operations, shape: tuple[int, ...], size: int, dtype: torch.dtype
) -> None:
    x = draw(*shape)
    filters, bias = draw(shape[-1], 1, size, size, dtype=dtype), draw(shape[-1], dtype=dtype)
    # Torch also rounds the input; the kernel does not, so it must match the exact result.
    exact = torch_operations.convolve(x, filters.float(), bias.float())
    compare(triton_operations.convolve(x, filters, bias), exact.to(dtype), dtype)
    assert relative(torch_operations.convolve(x, filters, bias), exact) <= 4 * TOLERANCES[dtype]


def relative(result: Tensor, exact: Tensor) -> float:
    return float((result.float() - exact).norm() / exact.norm())


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(1, 1, 1, 64), (2, 5, 7, 100), (1, 17, 16, 33)])
def test_normalize_response(
    triton_operations: Operations, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    u, gamma = draw(*shape, dtype=dtype), draw(shape[-1])
    activated = torch.nn.functional.gelu(u)
    expected = torch_operations.normalize_response(activated, gamma)
    # Torch's operation rounds its factors to the type, the kernel does not.
    result = triton_operations.normalize_response(u, gamma)
    assert result.dtype == dtype
    assert relative(result, expected.float()) <= 2 * TOLERANCES[dtype]


@pytest.mark.parametrize("dtype", TYPES)
def test_add_gated(triton_operations: Operations, dtype: torch.dtype) -> None:
    x, update = draw(2, 3, 5, 96), draw(2, 3, 5, 96, dtype=dtype)
    gate, shift = draw(96), draw(96)
    before = x.clone()
    result = triton_operations.add_gated(x, gate, update, shift)
    compare(result, torch_operations.add_gated(x, gate, update.clone(), shift), torch.float32)
    assert torch.equal(x, before)
