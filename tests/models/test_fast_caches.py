"""From the third call of each shape on, the network copies nothing from or to the host.

Otherwise a CUDA graph of the call cannot be recorded, or would repeat the copy of an old value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pytest
import torch
from torch import Tensor

from dinac_cli.models.dinac.autoencoder import DinacAE
from dinac_cli.models.dinac.config import DinacAEConfig
from dinac_cli.models.dinac.fast.autoencoder import accelerate
from dinac_cli.models.dinac.fast.operations import Operations
from dinac_cli.models.interface import DinacAEInferenceConfig

from .launches import Launches, build_on_meta, record_launches

# As wide as D2, so the cached noises and rotations are as large.
WIDE = DinacAEConfig(encoder_depth=1, decoder_depth=3, decoder_start_blocks=1, decoder_end_blocks=1)
# The grids of photographs of 12 megapixels: the longer side, then the shorter one.
LONGEST = [(252, 189), (250, 190), (248, 192), (256, 186), (260, 183)]
NINE_GRIDS = [*LONGEST, *((columns, rows) for rows, columns in LONGEST[:4])]


@pytest.fixture
def launches(triton_operations: Operations) -> Iterator[Launches]:
    with record_launches(triton_operations) as launches:
        yield launches


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def fast(request: pytest.FixtureRequest, triton_operations: Operations) -> DinacAE:
    return accelerate(build_on_meta(WIDE, request.param), triton_operations)


def check_third_calls(calls: Sequence[Callable[[], object]], launches: Launches) -> None:
    """Runs the calls in turns, three times each. The third calls compute no constant again."""
    found = []
    with torch.inference_mode(), launches:
        for _ in range(3):
            launches.clear()
            for call in calls:
                call()
            found.append((len(launches.from_host), launches.kernels["sin"]))
            assert launches.to_host == []
            assert launches.triton
    assert sum(found[0]) > 0  # noise, times and rotations are made
    assert found[2] == (0, 0)


def draw_latents(rows: int, columns: int) -> Tensor:
    return torch.empty(1, WIDE.bottleneck_dim, rows, columns, device="meta")


def decode(model: DinacAE, grid: tuple[int, int], settings: DinacAEInferenceConfig) -> object:
    return model.decode_pixels(draw_latents(*grid), settings)


def test_hundred_steps(fast: DinacAE, launches: Launches) -> None:
    settings = DinacAEInferenceConfig(seed=1, num_steps=100)
    check_third_calls([partial(decode, fast, (2, 3), settings)], launches)


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
def test_guided_steps(fast: DinacAE, sampler: str, launches: Launches) -> None:
    settings = DinacAEInferenceConfig(seed=1, num_steps=3, sampler=sampler, pdg=True, strength=0.7)
    check_third_calls([partial(decode, fast, (2, 3), settings)], launches)


def test_two_orientations_of_12_megapixels(fast: DinacAE, launches: Launches) -> None:
    grids = [(252, 189), (189, 252)]
    settings = DinacAEInferenceConfig(seed=1)
    check_third_calls([partial(decode, fast, grid, settings) for grid in grids], launches)


def test_nine_grids_of_12_megapixels(fast: DinacAE, launches: Launches) -> None:
    assert len(set(NINE_GRIDS)) == 9
    batches = [
        torch.empty(1, 16 * rows, 16 * columns, 3, dtype=torch.uint8, device="meta")
        for rows, columns in NINE_GRIDS
    ]
    check_third_calls([partial(fast.encode_pixels, batch) for batch in batches], launches)
