"""The cost of the fast network on a GPU, counted without one: kernels, FLOPs and bytes.

Everything runs on the meta device, which computes only shapes; a Triton kernel counts as one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from dinac_cli.models.dinac.autoencoder import DinacAE
from dinac_cli.models.dinac.config import DinacAEConfig
from dinac_cli.models.dinac.fast.autoencoder import accelerate
from dinac_cli.models.dinac.fast.operations import Operations
from dinac_cli.models.interface import DinacAEInferenceConfig

BATCH = 32
POSITIONS = BATCH * 16 * 16
D2 = DinacAEConfig()

# The torch operations in the fast network that run no kernel on the device.
FREE = {
    "chunk", "contiguous", "detach", "empty", "empty_like", "expand", "flatten", "item", "permute",
    "reshape", "select", "slice", "to", "transpose", "unsqueeze", "view_as_real",
}  # fmt: skip


class Launches(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts kernels by name, and the bytes of the tensors that the calls create."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kernels: Counter[str] = Counter()
        self.size_bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        on_device = isinstance(result, torch.Tensor) and result.device.type == "meta"
        if on_device and name not in FREE:
            self.kernels[name] += 1
        if on_device and name not in FREE - {"empty", "empty_like"} and not name.endswith("_"):
            self.size_bytes += result.numel() * result.element_size()
        return result


@pytest.fixture
def launches(triton_operations: Operations, monkeypatch: pytest.MonkeyPatch) -> Launches:
    """A counter; Triton's kernels are counted instead of run."""
    counter = Launches()
    assert isinstance(triton_operations, ModuleType)
    kernels = triton_operations.kernels
    for name in [name for name in vars(kernels) if hasattr(getattr(kernels, name), "run")]:
        monkeypatch.setattr(kernels, name, _Counted(name, counter))
    return counter


class _Counted:
    def __init__(self, name: str, counter: Launches) -> None:
        self._name = name
        self._counter = counter

    def __getitem__(self, grid: object) -> Callable[..., None]:
        def launch(*arguments: object) -> None:
            self._counter.kernels[self._name] += 1

        return launch


@pytest.fixture(scope="module")
def plain() -> DinacAE:
    """The published network in bfloat16, with shapes but no content."""
    with torch.device("meta"):
        model = DinacAE(D2, parts={"encoder", "decoder"}).eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            module.to(torch.bfloat16)
    return model


@contextmanager
def measured(launches: Launches) -> Iterator[FlopCounterMode]:
    with torch.inference_mode(), FlopCounterMode(display=False) as flops, launches:
        yield flops


def test_encoder(plain: DinacAE, triton_operations: Operations, launches: Launches) -> None:
    fast = accelerate(plain, triton_operations)
    images = torch.empty(BATCH, 3, 256, 256, device="meta")
    with torch.inference_mode():
        fast.encode(images)  # caches the rotations
    launches.kernels.clear()
    with measured(launches) as flops:
        fast.encode(images)
    blocks = D2.encoder_depth
    kernels = launches.kernels
    assert kernels["linear"] == 4 * blocks + 2
    assert kernels["scaled_dot_product_attention"] == kernels["gelu_"] == blocks
    assert kernels["rotate_rows"] == blocks
    assert kernels["add_normalized_rows"] == 2 * blocks
    assert kernels["normalize_rows"] == 1
    # 9 per block; and two products, a norm, the posterior and the whitening.
    assert sum(kernels.values()) <= 9 * blocks + 12
    assert flops.get_total_flops() / BATCH == pytest.approx(41.8e9, rel=0.002)
    # A block creates 11 bfloat16 values per position and dim: 2 by the norms, 3 + 1 by attention,
    # 4 + 1 by the MLP. The rest of the bound is for the ends.
    assert launches.size_bytes <= (blocks + 2) * POSITIONS * D2.model_dim * 2 * 12


def test_decoder(plain: DinacAE, triton_operations: Operations, launches: Launches) -> None:
    fast = accelerate(plain, triton_operations)
    latents = torch.empty(BATCH, D2.bottleneck_dim, 16, 16, device="meta")
    settings = DinacAEInferenceConfig(seed=0)
    with torch.inference_mode():
        fast.decode(latents, 256, 256, settings)  # caches the noise and the modulations
    launches.kernels.clear()
    with measured(launches) as flops:
        fast.decode(latents, 256, 256, settings)
    blocks, kernels = D2.decoder_depth, launches.kernels
    for name in ("convolve_tiles", "normalize_rows", "activate_columns", "weigh_response"):
        assert kernels[name] == blocks
    assert kernels["add_gated_rows"] == kernels["mul_"] == blocks
    assert kernels["linear"] == 2 * blocks + 4
    # 8 per block; four products, the sum of two branches, the sampler and the whitening.
    assert sum(kernels.values()) <= 8 * blocks + 16
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
        fast.decode(latents, 256, 256, settings)
    evaluation = D2.decoder_depth + (D2.decoder_end_blocks if guided else 0)
    assert launches.kernels["convolve_tiles"] == steps * evaluation
