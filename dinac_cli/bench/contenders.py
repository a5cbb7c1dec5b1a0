"""The models that are timed against each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dinac_cli.errors import UsageError
from dinac_cli.models.dinac.autoencoder import DinacAE, build_model
from dinac_cli.models.dinac.config import DinacAEConfig
from dinac_cli.models.dinac.fast.autoencoder import accelerate
from dinac_cli.models.dinac.fast.graphs import record_cuda_graph
from dinac_cli.models.interface import DinacAEInferenceConfig

PLAIN, FAST, COMPILED, FLUX2 = "plain", "fast", "compiled", "flux2"

_CALLS_BEFORE_RECORDING = 3


class Contender(Protocol):
    """Encodes and decodes images [B, 3, H, W] in [-1, 1]."""

    def prepare_encode(self, images: Tensor) -> Callable[[], Tensor]:
        """Returns a call that encodes these images, ready to be timed."""

    def prepare_decode(
        self, batch: int, height: int, width: int, steps: int
    ) -> Callable[[], Tensor]:
        """Returns a call that decodes random latents of `batch` images, ready to be timed."""

    def count_weight_bytes(self, task: str) -> int:
        """Returns the bytes of the weights that `task` ("encode" or "decode") needs."""


@dataclass(frozen=True)
class DinacContender:
    """One of our models; `plain` has the same weights in a form that can be counted."""

    model: DinacAE
    plain: DinacAE

    def prepare_encode(self, images: Tensor) -> Callable[[], Tensor]:
        """See `Contender`."""
        return self._record(self.model.encode, images)

    def prepare_decode(
        self, batch: int, height: int, width: int, steps: int
    ) -> Callable[[], Tensor]:
        """See `Contender`."""
        config = self.model.config
        grid = (height // config.patch_size, width // config.patch_size)
        latents = torch.randn(batch, config.bottleneck_dim, *grid, device=self.model.device)
        settings = DinacAEInferenceConfig(num_steps=steps, seed=0)
        return self._record(lambda z: self.model.decode(z, height, width, settings), latents)

    def count_weight_bytes(self, task: str) -> int:
        """See `Contender`."""
        return _count_bytes(self.plain.encoder if task == "encode" else self.plain.decoder)

    def _record(self, compute: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], Tensor]:
        """Runs as in the commands: on CUDA, all but the plain model replay a recording."""
        if self.model.device.type != "cuda" or self.model is self.plain:
            return lambda: compute(x)
        for _ in range(_CALLS_BEFORE_RECORDING):
            compute(x)
        replay = record_cuda_graph(lambda x: (compute(x),), x, self.model.list_constants)
        return lambda: replay(x)[0]


class Flux2Contender:
    """The autoencoder of FLUX.2 with random weights, from the diffusers library."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        """Raises UsageError if diffusers is not installed."""
        try:
            from diffusers import AutoencoderKLFlux2
        except ImportError as exc:
            raise UsageError(
                "--compare flux2 needs the diffusers library: pip install 'dinac-cli[compare]'"
            ) from exc
        torch.manual_seed(0)
        self._model: Any = AutoencoderKLFlux2().eval().requires_grad_(False)
        nn.Module.to(self._model, device, dtype)  # its own method logs a warning
        self._dtype = dtype
        self._device = device

    def prepare_encode(self, images: Tensor) -> Callable[[], Tensor]:
        """See `Contender`."""
        x = images.to(self._dtype)
        return lambda: self._model.encode(x).latent_dist.mode()

    def prepare_decode(
        self, batch: int, height: int, width: int, steps: int
    ) -> Callable[[], Tensor]:
        """See `Contender`; this decoder has no steps."""
        channels = self._model.config.latent_channels
        shape = (batch, channels, height // 8, width // 8)
        latents = torch.randn(shape, device=self._device).to(self._dtype)
        return lambda: self._model.decode(latents).sample

    def count_weight_bytes(self, task: str) -> int:
        """See `Contender`."""
        return _count_bytes(self._model.encoder if task == "encode" else self._model.decoder)


def draw_network(config: DinacAEConfig, device: torch.device, dtype: torch.dtype) -> DinacAE:
    """Returns a model with random weights, none of them zero, and without a class head."""
    torch.manual_seed(0)
    model = DinacAE(config, parts=("encoder", "decoder"))
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return build_model(model, model.state_dict(), dtype).requires_grad_(False).to(device)


def list_contenders(plain: DinacAE, *, compiled: bool, compare: str | None) -> dict[str, Contender]:
    """Returns the plain model and the models to compare it with. Raises UsageError."""
    contenders: dict[str, Contender] = {
        PLAIN: DinacContender(plain, plain),
        FAST: DinacContender(accelerate(plain), plain),
    }
    if compiled:
        contenders[COMPILED] = DinacContender(accelerate(plain, compiled=True), plain)
    if compare is not None:
        contenders[compare] = Flux2Contender(plain.device, plain.dtype)
    return contenders


def _count_bytes(module: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in module.parameters())
