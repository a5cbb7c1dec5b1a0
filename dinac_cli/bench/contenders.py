"""The models that are timed against each other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dinac_cli.models.dinac.autoencoder import DinacAE, build_model
from dinac_cli.models.dinac.config import DinacAEConfig
from dinac_cli.models.dinac.fast import torch_operations
from dinac_cli.models.dinac.fast.autoencoder import accelerate
from dinac_cli.models.dinac.fast.ladder import choose_step
from dinac_cli.models.flux2.diffusers_library import import_vae_class
from dinac_cli.models.flux2.vae_config import Flux2Config
from dinac_cli.models.graphs import CudaRecorder
from dinac_cli.models.interface import GRAPHS, DinacAEInferenceConfig

PLAIN, FAST, COMPILED, FLUX2 = "plain", "fast", "compiled", "flux2"

_CALLS_BEFORE_RECORDING = 3


class Calls(NamedTuple):
    """The function to time, and the function whose memory is measured.

    They differ if a recorded CUDA graph is timed: its memory was allocated when it was recorded,
    and is about that of the calls which were recorded.
    """

    timed: Callable[[], Tensor]
    eager: Callable[[], Tensor]


class Contender(ABC):
    """A model to be timed.

    `weights` maps each task ("encode" or "decode") to the part of the model that computes the task.
    """

    weights: Mapping[str, nn.Module]

    @abstractmethod
    def prepare(self, task: str, steps: int, batch: int, side: int) -> Calls:
        """Returns the functions to measure.

        Each call of these functions encodes `batch` random images of `side` by `side` pixels, or
        decodes random latents to such images.
        """

    def count_weight_bytes(self, task: str) -> int:
        """Returns the size of the weights for `task` ("encode" or "decode"), in bytes."""
        tensors = self.weights[task].parameters()
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class DinacContender(Contender):
    """A DINAC model. `plain` is the same model before its weights were rearranged for speed.

    If `is_recorded` is set, a CUDA graph is timed, as the commands use it.
    """

    def __init__(self, model: DinacAE, plain: DinacAE, *, is_recorded: bool = False) -> None:
        self.model = model
        self._is_recorded = is_recorded
        self.weights = {"encode": plain.encoder, "decode": plain.decoder}

    def prepare(self, task: str, steps: int, batch: int, side: int) -> Calls:
        config, device = self.model.config, self.model.device
        if task == "encode":
            pixels = torch.randint(256, (batch, side, side, 3), dtype=torch.uint8, device=device)
            return self._record(self._encode, pixels)
        grid = (side // config.patch_size, side // config.patch_size)
        latents = torch.randn(batch, config.bottleneck_dim, *grid, device=device)
        settings = DinacAEInferenceConfig(num_steps=steps, seed=0)
        return self._record(lambda z: self.model.decode_pixels(z, settings), latents)

    def _encode(self, pixels: Tensor) -> Tensor:
        return self.model.whiten(self.model.encode_pixels(pixels).mode())

    def _record(self, compute: Callable[[Tensor], Tensor], x: Tensor) -> Calls:
        def eager() -> Tensor:
            return compute(x)

        if not self._is_recorded:
            return Calls(eager, eager)
        for _ in range(_CALLS_BEFORE_RECORDING):
            eager()
        replay = CudaRecorder(self.model.list_constants)(lambda x: (compute(x),), x)
        return Calls(lambda: replay(x)[0], eager)


class Flux2Contender(Contender):
    """The autoencoder of FLUX.2 with random weights, from the diffusers library."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        """Raises MissingLibraryError if diffusers is not installed."""
        create = import_vae_class("--compare flux2")
        torch.manual_seed(0)
        self._model: Any = create(**Flux2Config().to_arguments()).eval().requires_grad_(False)
        nn.Module.to(self._model, device, dtype)  # `self._model.to` logs a warning
        self._dtype = dtype
        self._device = device
        self.weights = {"encode": self._model.encoder, "decode": self._model.decoder}

    def prepare(self, task: str, steps: int, batch: int, side: int) -> Calls:
        images = draw_images(batch, side, self._device).to(self._dtype)
        shape = (batch, self._model.config.latent_channels, side // 8, side // 8)
        latents = torch.randn(shape, device=self._device).to(self._dtype)

        def compute() -> Tensor:
            if task == "encode":
                mode: Tensor = self._model.encode(images).latent_dist.mode()
                return mode
            decoded: Tensor = self._model.decode(latents).sample  # this decoder ignores `steps`
            return decoded

        return Calls(compute, compute)


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
    """Returns the plain model and the models to compare it with. Raises UsageError, DeviceError."""
    step = None
    if plain.device.type == "cuda":
        step = choose_step(plain.config, plain.device, plain.dtype)
    operations = (None if step is None else step.operations) or torch_operations
    is_recorded = step is not None and step.step == GRAPHS
    fast = accelerate(plain, operations)
    contenders: dict[str, Contender] = {
        PLAIN: DinacContender(plain, plain),
        FAST: DinacContender(fast, plain, is_recorded=is_recorded),
    }
    if compiled:
        contenders[COMPILED] = DinacContender(accelerate(plain, compiled=True), plain)
    if compare is not None:
        contenders[compare] = Flux2Contender(plain.device, plain.dtype)
    return contenders
