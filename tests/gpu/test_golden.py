"""The goldens, on the device: every step of the ladder matches the references."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dinac_cli.models.dinac.fast.autoencoder import accelerate
from dinac_cli.models.dinac.fast.ladder import Choice
from dinac_cli.models.interface import PLAIN, TORCH, TRITON

from ..models.conftest import Golden
from ..models.test_golden import (
    test_bfloat16_error_is_at_most_that_of_the_references,
    test_float32_decoded_images,
    test_float32_results,
)
from .conftest import IS_GPU

__all__ = [
    "test_bfloat16_error_is_at_most_that_of_the_references",
    "test_float32_decoded_images",
    "test_float32_results",
]


@pytest.fixture(scope="module", params=[TRITON, TORCH, PLAIN])
def networks(request: pytest.FixtureRequest, goldens: list[Golden]) -> list[Golden]:
    """The goldens with the networks of a step. Graphs run the kernels of the step below them."""
    operations = Choice(request.param).operations
    if operations is None:
        return goldens
    if request.param == TRITON and not IS_GPU:
        pytest.skip("the interpreter is too slow; tests/models has the goldens for it")
    return [
        replace(
            golden,
            float32=accelerate(golden.float32, operations),
            bfloat16=accelerate(golden.bfloat16, operations),
        )
        for golden in goldens
    ]


def test_the_networks_are_on_the_device(networks: list[Golden], device: torch.device) -> None:
    assert {golden.float32.device for golden in networks} == {device}
