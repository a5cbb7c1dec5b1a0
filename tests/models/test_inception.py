"""The Inception network of FID matches a plain computation and TensorFlow's resizing.

The published weights were not at hand: the weights here are random.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from dinac_cli.errors import CheckpointError
from dinac_cli.jobs.rfid import FEATURES
from dinac_cli.models.perceptual.inception import (
    Inception,
    Pixels,
    list_shapes,
    load_inception,
    resize,
)

# A branch: names, channels and kernels of its convolutions, one after the other. "a|b" are two
# convolutions of the same input beside each other. "s" is stride 2 without padding.
Branch = list[tuple[str, int, str]]
Block = tuple[str, list[Branch], str, int]  # name, branches, pooling, channels of the pool's branch


def small(name: str, pooled: int) -> Block:
    double: Branch = [("3x3dbl_1", 64, "1x1"), ("3x3dbl_2", 96, "3x3"), ("3x3dbl_3", 96, "3x3")]
    five: Branch = [("5x5_1", 48, "1x1"), ("5x5_2", 64, "5x5")]
    return name, [[("1x1", 64, "1x1")], five, double], "average", pooled


def long(name: str, width: int) -> Block:
    seven: Branch = [("7x7_1", width, "1x1"), ("7x7_2", width, "1x7"), ("7x7_3", 192, "7x1")]
    double: Branch = [("7x7dbl_1", width, "1x1"), ("7x7dbl_2", width, "7x1")]
    double += [("7x7dbl_3", width, "1x7"), ("7x7dbl_4", width, "7x1"), ("7x7dbl_5", 192, "1x7")]
    return name, [[("1x1", 192, "1x1")], seven, double], "average", 192


def wide(name: str, pooling: str) -> Block:
    three: Branch = [("3x3_1", 384, "1x1"), ("3x3_2a|3x3_2b", 384, "1x3|3x1")]
    double: Branch = [("3x3dbl_1", 448, "1x1"), ("3x3dbl_2", 384, "3x3")]
    double += [("3x3dbl_3a|3x3dbl_3b", 384, "1x3|3x1")]
    return name, [[("1x1", 320, "1x1")], three, double], pooling, 192


BLOCKS: list[Block] = [
    small("5b", 32),
    small("5c", 64),
    small("5d", 64),
    (
        "6a",
        [
            [("3x3", 384, "3x3s")],
            [("3x3dbl_1", 64, "1x1"), ("3x3dbl_2", 96, "3x3"), ("3x3dbl_3", 96, "3x3s")],
        ],
        "reduce",
        0,
    ),
    long("6b", 128),
    long("6c", 160),
    long("6d", 160),
    long("6e", 192),
    (
        "7a",
        [
            [("3x3_1", 192, "1x1"), ("3x3_2", 320, "3x3s")],
            [
                ("7x7x3_1", 192, "1x1"),
                ("7x7x3_2", 192, "1x7"),
                ("7x7x3_3", 192, "7x1"),
                ("7x7x3_4", 192, "3x3s"),
            ],
        ],
        "reduce",
        0,
    ),
    wide("7b", "average"),
    wide("7c", "maximum"),
]
POOLS = {
    "average": torch.nn.AvgPool2d(3, 1, 1, count_include_pad=False),
    "maximum": torch.nn.MaxPool2d(3, 1, 1),
    "reduce": torch.nn.MaxPool2d(3, 2),
}


def convolve(
    weights: dict[str, Tensor], name: str, x: Tensor, kernel: str, pad: bool = True
) -> Tensor:
    """A convolution, batch normalisation by its formula, and ReLU, in float64."""
    own = {
        key: weights[f"{name}.{key}"].double() for key in ("conv.weight", "bn.weight", "bn.bias")
    }
    mean, variance = (weights[f"{name}.bn.running_{key}"].double() for key in ("mean", "var"))
    height, width = (int(side) for side in kernel.rstrip("s").split("x"))
    assert own["conv.weight"].shape[2:] == (height, width)
    pad = pad and not kernel.endswith("s")
    x = F.conv2d(
        x,
        own["conv.weight"],
        stride=2 if kernel.endswith("s") else 1,
        padding=(height // 2, width // 2) if pad else 0,
    )
    mean, variance, gain, bias = (
        each[:, None, None] for each in (mean, variance, own["bn.weight"], own["bn.bias"])
    )
    return torch.relu((x - mean) / torch.sqrt(variance + 0.001) * gain + bias)


def describe_plainly(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    x = convolve(weights, "Conv2d_1a_3x3", x, "3x3s")
    x = convolve(weights, "Conv2d_2a_3x3", x, "3x3", pad=False)
    x = F.max_pool2d(convolve(weights, "Conv2d_2b_3x3", x, "3x3"), 3, 2)
    x = convolve(weights, "Conv2d_3b_1x1", x, "1x1")
    x = F.max_pool2d(convolve(weights, "Conv2d_4a_3x3", x, "3x3", pad=False), 3, 2)
    for name, branches, pooling, pooled in BLOCKS:
        outs = []
        for branch in branches:
            y = x
            for parts, channels, kernels in branch:
                pairs = zip(parts.split("|"), kernels.split("|"), strict=True)
                found = [convolve(weights, f"Mixed_{name}.branch{p}", y, k) for p, k in pairs]
                assert {each.shape[1] for each in found} == {channels}
                y = torch.cat(found, 1)
            outs.append(y)
        y = POOLS[pooling](x)
        outs.append(convolve(weights, f"Mixed_{name}.branch_pool", y, "1x1") if pooled else y)
        x = torch.cat(outs, 1)
    return x.mean((2, 3))[0]


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = {}
    for name, shape in list_shapes().items():
        if name.endswith("conv.weight"):
            fan_in = math.prod(shape[1:])
            drawn[name] = torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5
        elif name.endswith(("bn.bias", "running_mean")):
            drawn[name] = torch.randn(shape, generator=generator) * 0.1
        else:
            drawn[name] = torch.rand(shape, generator=generator) + 0.5
    return drawn


def draw(height: int, width: int) -> Pixels:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_number_of_values_is_that_of_the_published_network() -> None:
    """Inception V3 without its classifiers has 21,785,568 weights, and two statistics each."""
    shapes = list_shapes()
    is_weight = {name: not name.endswith(("running_mean", "running_var")) for name in shapes}
    counts = {name: math.prod(shape) for name, shape in shapes.items()}
    assert sum(counts[name] for name in shapes if is_weight[name]) == 21_785_568
    assert len(shapes) == 94 * 5


def test_features_match_a_plain_computation(weights: dict[str, Tensor]) -> None:
    pixels = draw(120, 90)
    features = Inception(weights).describe(pixels)
    with torch.inference_mode():
        plain = describe_plainly(weights, (resize(pixels).double() - 128) / 128).numpy()
    assert features.shape == plain.shape == (FEATURES,)
    assert plain.std() > 0.01
    np.testing.assert_allclose(features, plain, rtol=1e-3, atol=1e-5 * plain.max())


@pytest.mark.parametrize("size", [(299, 299), (1, 1), (40, 500), (640, 300), (31, 598)])
def test_resizing_is_that_of_tensorflow_1(size: tuple[int, int]) -> None:
    """Each position times the ratio of the sizes; its neighbours below and above, weighted."""
    pixels = draw(*size)
    found = resize(pixels).numpy()
    assert found.shape == (1, 3, 299, 299)
    rng = np.random.default_rng(0)
    for y, x in [(0, 0), (298, 298), *rng.integers(0, 299, (200, 2)).tolist()]:
        down, right = y * size[0] / 299, x * size[1] / 299
        top, left = int(down), int(right)
        bottom, beside = min(top + 1, size[0] - 1), min(left + 1, size[1] - 1)
        corners = pixels[[top, top, bottom, bottom], [left, beside, left, beside]].astype(float)
        upper = corners[0] + (corners[1] - corners[0]) * (right - left)
        lower = corners[2] + (corners[3] - corners[2]) * (right - left)
        expected = upper + (lower - upper) * (down - top)
        assert found[0, :, y, x] == pytest.approx(expected, abs=0.02)


def test_weights_come_from_safetensors(weights: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "inception.safetensors"
    narrow = {name: tensor.bfloat16() for name, tensor in weights.items()}
    save_file(narrow | {"fc.weight": torch.zeros(1008, 4)}, path)
    found = load_inception(path).weights
    assert all(torch.equal(found[name], narrow[name].float()) for name in weights)
    assert found.keys() == weights.keys()
    del narrow["Mixed_7c.branch_pool.bn.bias"]
    save_file(narrow, path)
    with pytest.raises(CheckpointError) as caught:
        load_inception(path)
    assert str(caught.value) == (
        f"{path} does not hold the weights of the Inception network of FID: "
        "Mixed_7c.branch_pool.bn.bias is missing; 'dinac man metrics' lists the tensors"
    )
