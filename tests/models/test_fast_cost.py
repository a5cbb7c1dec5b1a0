"""The cost of the fast network on a GPU, counted without one: kernels, FLOPs and bytes.

Everything runs on the meta device, which computes only shapes; a Triton kernel counts as one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dinac_cli.models.dinac.autoencoder import DinacAE
from dinac_cli.models.dinac.config import DinacAEConfig
from dinac_cli.models.dinac.fast.autoencoder import accelerate
from dinac_cli.models.dinac.fast.operations import Operations
from dinac_cli.models.interface import DinacAEInferenceConfig

from .launches import Launches, build_on_meta, record_launches

BATCH = 32
POSITIONS = BATCH * 16 * 16
D2 = DinacAEConfig()


@pytest.fixture
def launches(triton_operations: Operations) -> Iterator[Launches]:
    with record_launches(triton_operations) as launches:
        yield launches


@pytest.fixture(scope="module")
def plain() -> DinacAE:
    """The published network in bfloat16."""
    return build_on_meta(D2, torch.bfloat16)


@contextmanager
def measured(launches: Launches) -> Iterator[FlopCounterMode]:
    with torch.inference_mode(), FlopCounterMode(display=False) as flops, launches:
        yield flops


def test_encoder(plain: DinacAE, triton_operations: Operations, launches: Launches) -> None:
    fast = accelerate(plain, triton_operations)
    pixels = torch.empty(BATCH, 256, 256, 3, dtype=torch.uint8, device="meta")
    with torch.inference_mode():
        fast.encode_pixels(pixels)  # caches the rotations
    launches.clear()
    with measured(launches) as flops:
        fast.whiten(fast.encode_pixels(pixels).mode())
    blocks = D2.encoder_depth
    kernels = launches.kernels
    assert kernels["linear"] == 4 * blocks + 2
    assert kernels["scaled_dot_product_attention"] == kernels["gelu_"] == blocks
    assert kernels["rotate_rows"] == blocks
    assert kernels["add_normalized_rows"] == 2 * blocks
    assert kernels["normalize_rows"] == kernels["read_patches"] == 1
    # 9 per block; and two products, a norm, the casts, the posterior and the whitening. `flatten`
    # joins the heads; it copies nothing after the attention kernels of a GPU.
    assert sum(kernels.values()) - kernels["flatten"] <= 9 * blocks + 17
    assert flops.get_total_flops() / BATCH == pytest.approx(41.8e9, rel=0.002)
    # A block creates 12 bfloat16 values per position and dim: 2 by the norms, 3 + 2 by attention,
    # 4 + 1 by the MLP. The rest of the bound is for the ends.
    assert launches.size_bytes <= (blocks + 2) * POSITIONS * D2.model_dim * 2 * 12


def test_decoder(plain: DinacAE, triton_operations: Operations, launches: Launches) -> None:
    fast = accelerate(plain, triton_operations)
    latents = torch.empty(BATCH, D2.bottleneck_dim, 16, 16, device="meta")
    settings = DinacAEInferenceConfig(seed=0)
    with torch.inference_mode():
        fast.decode_pixels(latents, settings)  # caches the noise and the modulations
    launches.clear()
    with measured(launches) as flops:
        fast.decode_pixels(latents, settings)
    blocks, kernels = D2.decoder_depth, launches.kernels
    for name in ("convolve_tiles", "normalize_rows", "add_gated_rows"):
        assert kernels[name] == blocks
    for name in ("sum_squares", "weigh_response", "apply_response"):
        assert kernels[name] == blocks
    assert kernels["finish_ddim"] == 1
    assert kernels["linear"] == 2 * blocks + 4
    # 8 per block; four products, the casts, the sum of two branches, the last step, the whitening.
    assert sum(kernels.values()) <= 8 * blocks + 15
    assert flops.get_total_flops() / BATCH == pytest.approx(27.5e9, rel=0.005)
    assert launches.size_bytes <= (blocks + 2) * POSITIONS * D2.model_dim * (2 * 7 + 4)


@pytest.mark.parametrize(("steps", "guided"), [(1, False), (4, False), (1, True), (4, True)])
def test_guidance_shares_the_start_blocks(
    plain: DinacAE,
    triton_operations: Operations,
    launches: Launches,
    steps: int,
    guided: bool,
) -> None:
    fast = accelerate(plain, triton_operations)
    latents = torch.empty(1, D2.bottleneck_dim, 16, 16, device="meta")
    settings = DinacAEInferenceConfig(seed=0, num_steps=steps, pdg=guided)
    with torch.inference_mode(), launches:
        fast.decode_pixels(latents, settings)
    evaluation = D2.decoder_depth + (D2.decoder_end_blocks if guided else 0)
    assert launches.kernels["convolve_tiles"] == steps * evaluation
