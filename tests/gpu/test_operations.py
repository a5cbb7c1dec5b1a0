"""Every operation is right at the widths of the models, and beyond 2**31 elements."""

from __future__ import annotations

import pytest
import torch

from dinac_cli.models.dinac.config import RELEASED
from dinac_cli.models.dinac.fast.ladder import Choice, choose_step
from dinac_cli.models.dinac.fast.operations import Operations
from dinac_cli.models.dinac.fast.self_check import check_operations
from dinac_cli.models.interface import GRAPHS, TORCH
from dinac_cli.models.registry import open_nano

from .conftest import IS_GPU

CONFIGS = {**RELEASED, "nano": open_nano().read_config()}
WIDTH = 896
ROWS = 2**31 // WIDTH + 5
NEEDED_BYTES = 40 * 2**30


@pytest.fixture(params=[GRAPHS, TORCH])
def operations(request: pytest.FixtureRequest) -> Operations:
    if request.param == GRAPHS and not IS_GPU:
        pytest.skip("the interpreter is too slow; tests/models checks it on small sizes")
    chosen = Choice(request.param).operations
    assert chosen is not None
    return chosen


@pytest.mark.parametrize("name", sorted(CONFIGS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_widths_of_the_models(
    operations: Operations, name: str, dtype: torch.dtype, device: torch.device
) -> None:
    for check in check_operations(operations, CONFIGS[name], device, dtype):
        assert check.holds, check


@pytest.mark.needs_gpu
def test_the_first_step_is_chosen_at_the_widths_of_the_models(device: torch.device) -> None:
    for config in CONFIGS.values():
        for dtype in (torch.float32, torch.bfloat16):
            assert choose_step(config, device, dtype).step == GRAPHS


@pytest.fixture
def room(device: torch.device) -> None:
    if torch.cuda.mem_get_info(device)[0] < NEEDED_BYTES:
        pytest.skip(f"needs {NEEDED_BYTES / 2**30:.0f} GiB of free memory")


@pytest.mark.needs_gpu
@pytest.mark.usefixtures("room")
@torch.inference_mode()
def test_rows_beyond_two_to_the_31_elements(operations: Operations, device: torch.device) -> None:
    weight = torch.rand(WIDTH, device=device)
    x = torch.zeros(1, ROWS, WIDTH, device=device)
    x[:, -7:] = torch.randn(7, WIDTH, device=device)
    alone = operations.normalize(x[:, -7:].contiguous(), weight, torch.bfloat16)
    made = operations.normalize(x, weight, torch.bfloat16)
    assert torch.equal(made[:, -7:], alone)
    assert not made[:, :100].any()


@pytest.mark.needs_gpu
@pytest.mark.usefixtures("room")
@torch.inference_mode()
def test_images_beyond_two_to_the_31_elements(operations: Operations, device: torch.device) -> None:
    side = 64
    images = ROWS // side**2 + 1
    x = torch.zeros(images, side, side, WIDTH, device=device)
    x[-1] = torch.randn(side, side, WIDTH, device=device)
    filters = torch.randn(WIDTH, 1, 7, 7, device=device).bfloat16()
    bias = torch.zeros(WIDTH, device=device).bfloat16()
    alone = operations.convolve(x[-1:].contiguous(), filters, bias)
    made = operations.convolve(x, filters, bias)
    assert torch.equal(made[-1:], alone)
    assert not made[0].any()
