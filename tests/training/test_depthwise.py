"""Depthwise convolutions as matrix products equal the convolutions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dinac_cli.models.dinac.autoencoder import DinacAE
from dinac_cli.models.dinac.decoder import FCDMBlock
from dinac_cli.training.depthwise import MatrixDepthwise, use_matrices

from .conftest import TINY


@pytest.mark.parametrize("grid", [(1, 1), (2, 9), (8, 8), (10, 7)])
def test_values_and_gradients_equal_the_convolution(grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 6, 7, padding=3, groups=6)
    assert conv.bias is not None
    images = torch.randn(3, 6, *grid, requires_grad=True)
    wanted = conv(images)
    direction = torch.randn_like(wanted)
    parts = (images, conv.weight, conv.bias)
    expected = torch.autograd.grad(wanted, parts, direction)
    made = MatrixDepthwise(conv, *grid)(images)
    torch.testing.assert_close(made, wanted)
    for ours, theirs in zip(torch.autograd.grad(made, parts, direction), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_other_grids_are_convolved() -> None:
    conv = nn.Conv2d(4, 4, 3, padding=1, groups=4)
    images = torch.randn(1, 4, 5, 6)
    torch.testing.assert_close(MatrixDepthwise(conv, 2, 2)(images), conv(images))


def test_decoder_keeps_its_parameters_and_their_names() -> None:
    model = DinacAE.from_pretrained(TINY)
    names = list(model.state_dict())
    parameters = list(model.parameters())
    use_matrices(model.decoder, 2, 2)
    assert list(model.state_dict()) == names
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    blocks = [block for block in model.decoder.modules() if isinstance(block, FCDMBlock)]
    assert all(isinstance(block.dwconv, MatrixDepthwise) for block in blocks)
    use_matrices(large := DinacAE.from_pretrained(TINY).decoder, 64, 64)
    assert not any(isinstance(module, MatrixDepthwise) for module in large.modules())
