"""Torch's and Triton's operations match float64, also on sizes that do not fill a block."""

from __future__ import annotations

import os

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dinac_cli.models.dinac.fast import torch_operations
from dinac_cli.models.dinac.fast.operations import Operations
from dinac_cli.models.dinac.layers import NORM_EPS, unpatchify

INTERPRETED = os.environ["TRITON_INTERPRET"] == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
TYPES = [torch.float32, torch.bfloat16]
# The relative error of rounding a whole tensor once. A GPU rounds to the nearest bfloat16, Triton's
# interpreter truncates, which doubles the error.
TOLERANCES = {torch.float32: 2e-6, torch.bfloat16: 6e-3 if INTERPRETED else 3e-3}


@pytest.fixture(params=["torch", "triton"])
def operations(request: pytest.FixtureRequest) -> Operations:
    if request.param == "torch":
        return torch_operations
    triton: Operations = request.getfixturevalue("triton_operations")
    return triton


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, device=DEVICE).to(dtype)


def compare(result: Tensor, exact: Tensor, dtype: torch.dtype, roundings: int = 1) -> None:
    """Compares a result in `dtype` with the float64 result of the same inputs.

    `roundings` is the number of times that a value was rounded to `dtype`.
    """
    assert result.dtype == dtype
    assert exact.dtype == torch.float64
    assert result.shape == exact.shape
    error = (result.double() - exact).norm() / exact.norm()
    assert error <= roundings * TOLERANCES[dtype]


def normalize_exactly(x: Tensor, weight: Tensor) -> Tensor:
    x = x.double()
    return x / (x.square().mean(dim=-1, keepdim=True) + NORM_EPS).sqrt() * weight.double()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("patch", [1, 5, 16])
@pytest.mark.parametrize("grid", [(1, 1, 1), (2, 3, 5)])
def test_read_patches(
    operations: Operations, grid: tuple[int, int, int], patch: int, dtype: torch.dtype
) -> None:
    batch, rows, columns = grid
    shape = (batch, rows * patch, columns * patch, 3)
    pixels = torch.randint(256, shape, dtype=torch.uint8, device=DEVICE)
    pixels[0, 0, 0] = torch.tensor([0, 255, 128], dtype=torch.uint8)
    patches = operations.read_patches(pixels, patch, dtype)
    scaled = (pixels.double() - 127.5) / 127.5
    cut = scaled.view(batch, rows, patch, columns, patch, 3).permute(0, 1, 3, 5, 2, 4)
    compare(patches, cut.flatten(3), dtype)
    first = patches[0, 0, 0].view(3, patch, patch)[:, 0, 0].tolist()
    assert first[:2] == [-1, 1]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(2, 5, 64), (1, 1, 896), (3, 2, 3, 33)])
def test_normalize(operations: Operations, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, weight = draw(*shape), draw(shape[-1])
    before = x.clone()
    compare(operations.normalize(x, weight, dtype), normalize_exactly(x, weight), dtype)
    assert torch.equal(x, before)
    x = x.to(dtype)
    compare(operations.normalize(x, weight, dtype), normalize_exactly(x, weight), dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("goes_on", [True, False])
@pytest.mark.parametrize("shape", [(2, 7, 48), (1, 1, 33)])
def test_add_normalized(
    operations: Operations, shape: tuple[int, ...], goes_on: bool, dtype: torch.dtype
) -> None:
    x, update = draw(*shape), draw(*shape, dtype=dtype)
    weight, following = draw(shape[-1]), draw(shape[-1]) if goes_on else None
    exact = x.double() + normalize_exactly(update, weight)
    result = operations.add_normalized(x, update, weight, following)
    compare(x, exact, torch.float32)
    assert (result is None) is (not goes_on)
    if result is not None and following is not None:
        compare(result, normalize_exactly(exact, following), dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("heads", "dim"), [(1, 64), (3, 64), (14, 64), (2, 12)])
def test_rotate_heads(operations: Operations, heads: int, dim: int, dtype: torch.dtype) -> None:
    qkv, weight = draw(2, 6, 3 * heads, dim, dtype=dtype), draw(2 * heads, dim)
    angles = draw(6, 1, dim // 2)
    rotation = torch.stack((angles.cos(), angles.sin()), dim=-1)
    pairs = normalize_exactly(qkv[:, :, : 2 * heads], weight).view(2, 6, -1, dim // 2, 2)
    turned = torch.view_as_complex(pairs) * torch.view_as_complex(rotation.double())
    exact = torch.view_as_real(turned).flatten(-2)
    values = qkv[:, :, 2 * heads :].clone()
    q, k, v = operations.rotate_heads(qkv, weight, rotation)
    compare(q, exact[:, :, :heads], dtype)
    compare(k, exact[:, :, heads:], dtype)
    assert torch.equal(v, values)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("shape", "size"), [((1, 1, 9, 40), 7), ((1, 9, 5, 65), 7), ((2, 8, 5, 33), 3)]
)
def test_convolve(
    operations: Operations, shape: tuple[int, ...], size: int, dtype: torch.dtype
) -> None:
    x, dim = draw(*shape), shape[-1]
    weight, bias = draw(dim, 1, size, size, dtype=dtype), draw(dim, dtype=dtype)
    planes = x.double().permute(0, 3, 1, 2)
    exact = F.conv2d(planes, weight.double(), bias.double(), padding=size // 2, groups=dim)
    result = operations.convolve(x, operations.arrange_filters(weight), bias)
    rounded_before = operations is torch_operations  # it also rounds the input
    compare(result, exact.permute(0, 2, 3, 1), dtype, roundings=1 + rounded_before)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(1, 1, 1, 64), (2, 5, 7, 100), (1, 17, 16, 33)])
def test_normalize_response(
    operations: Operations, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    u, gamma = draw(*shape, dtype=dtype), draw(shape[-1])
    activated = F.gelu(u.double())
    norm = activated.norm(dim=(1, 2), keepdim=True)
    exact = activated * (1 + gamma * norm / (norm.mean(dim=-1, keepdim=True) + NORM_EPS))
    if not operations.gelu_in_response:
        u = F.gelu(u)
    rounded_before = 2 * (operations is torch_operations)  # the GELU and the factors
    compare(operations.normalize_response(u, gamma), exact, dtype, roundings=1 + rounded_before)


def test_gelu_is_exact(triton_operations: Operations) -> None:
    """As accurate as float32 allows, for all values. Without gamma, only the GELU is left."""
    u = torch.linspace(-40, 40, 128 * 64, device=DEVICE).view(1, 1, 128, 64)
    exact, size = F.gelu(u.double()), u.abs()
    result = triton_operations.normalize_response(u, torch.zeros(64, device=DEVICE))
    error = (result.double() - exact).abs() / size.clamp_min(1)
    assert error.max() <= 2e-7


@pytest.mark.parametrize("dtype", TYPES)
def test_add_gated(operations: Operations, dtype: torch.dtype) -> None:
    x, update = draw(2, 3, 5, 97), draw(2, 3, 5, 97, dtype=dtype)
    gate, shift = draw(97), draw(97)
    before = x.clone()
    exact = x.double() + gate.double() * (update.double() + shift.double())
    compare(operations.add_gated(x, gate, update, shift), exact, torch.float32)
    assert torch.equal(x, before)


@pytest.mark.parametrize("patch", [1, 5, 16])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("grid", [(1, 1, 1), (3, 2, 5)])
def test_finish_ddim(
    operations: Operations, grid: tuple[int, int, int], shared: bool, patch: int
) -> None:
    batch, rows, columns = grid
    x = draw(1 if shared else batch, 3, rows * patch, columns * patch)
    x = x.expand(batch, -1, -1, -1)  # in the first step, all images may have the same noise
    x0 = draw(batch, rows, columns, 3 * patch * patch) * 0.6
    alpha, sigma = torch.tensor([0.3, 0.9]), torch.tensor([0.8, 0.4])
    pixels = operations.finish_ddim(x, x0, alpha, sigma)
    assert pixels.dtype == torch.uint8
    assert pixels.is_contiguous()
    clean = unpatchify(x0.double(), patch)
    (alpha_before, alpha_after), (sigma_before, sigma_after) = alpha.double(), sigma.double()
    noise = (x.double() - alpha_before * clean) / sigma_before
    exact = (alpha_after * clean + sigma_after * noise).clamp(-1, 1) * 127.5 + 127.5
    error = (pixels.permute(0, 3, 1, 2).double() - exact).abs()
    assert error.max() <= 0.5 + 1e-4


@pytest.mark.parametrize(
    ("value", "level"), [(-3.0, 0), (-1.0, 0), (0.0, 128), (0.999, 255), (1.0, 255), (7.0, 255)]
)
def test_values_are_clamped_and_halves_round_to_even(
    operations: Operations, value: float, level: int
) -> None:
    x, x0 = draw(1, 3, 4, 4), torch.full((1, 2, 2, 12), value, device=DEVICE)
    pixels = operations.finish_ddim(x, x0, torch.tensor([0.5, 1.0]), torch.tensor([0.5, 0.0]))
    assert (pixels == level).all()
