"""The models that are timed against each other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

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


class Contender(ABC):
    """A model to be timed.

    `weights` maps each task ("encode" or "decode") to the part of the model that computes the task.
    """

    weights: Mapping[str, nn.Module]

    @abstractmethod
    def prepare(self, task: str, steps: int, batch: int, side: int) -> Callable[[], Tensor]:
        """Returns the function to time.

        Each call of this function encodes `batch` random images of `side` by `side` pixels, or
        decodes random latents to such images.
        """

    def count_weight_bytes(self, task: str) -> int:
        """Returns the size of the weights for `task` ("encode" or "decode"), in bytes."""
        tensors = self.weights[task].parameters()
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class DinacContender(Contender):
    """A DINAC model. `plain` is the same model before its weights were rearranged for speed."""

    def __init__(self, model: DinacAE, plain: DinacAE) -> None:
        self.model = model
        # On CUDA, the commands replay a CUDA graph. Here, all models except `plain` do the same.
        self._is_recorded = model.device.type == "cuda" and model is not plain
        self.weights = {"encode": plain.encoder, "decode": plain.decoder}

    def prepare(self, task: str, steps: int, batch: int, side: int) -> Callable[[], Tensor]:
        config, device = self.model.config, self.model.device
        if task == "encode":
            return self._record(self.model.encode, draw_images(batch, side, device))
        grid = (side // config.patch_size, side // config.patch_size)
        latents = torch.randn(batch, config.bottleneck_dim, *grid, device=device)
        settings = DinacAEInferenceConfig(num_steps=steps, seed=0)
        return self._record(lambda z: self.model.decode(z, side, side, settings), latents)

    def _record(self, compute: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], Tensor]:
        if not self._is_recorded:
            return lambda: compute(x)
        for _ in range(_CALLS_BEFORE_RECORDING):
            compute(x)
        replay = record_cuda_graph(lambda x: (compute(x),), x, self.model.list_constants)
        return lambda: replay(x)[0]


class Flux2Contender(Contender):
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
        nn.Module.to(self._model, device, dtype)  # `self._model.to` logs a warning
        self._dtype = dtype
        self._device = device
        self.weights = {"encode": self._model.encoder, "decode": self._model.decoder}

    def prepare(self, task: str, steps: int, batch: int, side: int) -> Callable[[], Tensor]:
        if task == "encode":
            images = draw_images(batch, side, self._device).to(self._dtype)
            return lambda: self._model.encode(images).latent_dist.mode()
        shape = (batch, self._model.config.latent_channels, side // 8, side // 8)
        latents = torch.randn(shape, device=self._device).to(self._dtype)
        return lambda: self._model.decode(latents).sample  # this decoder ignores `steps`


def draw_images(batch: int, side: int, device: torch.device) -> Tensor:
    """Returns random square images [B, 3, S, S] in [-1, 1]."""
    return torch.rand(batch, 3, side, side, device=device) * 2 - 1


def draw_network(config: DinacAEConfig, device: torch.device, dtype: torch.dtype) -> DinacAE:
    """Returns a model with random weights and no class head. No tensor is all zeros."""
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
