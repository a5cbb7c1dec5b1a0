"""A FLUX.2 VAE in memory: from pixels to whitened latents and back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinac_cli.errors import ModelError
from dinac_cli.models.checkpoint_files import CheckpointFiles
from dinac_cli.models.flux2.diffusers_library import import_vae_class
from dinac_cli.models.flux2.vae_config import UNSHUFFLE, Flux2Config
from dinac_cli.models.flux2.vae_files import (
    COUNTER,
    STATISTICS,
    find_vae_part,
    keeps_vae_float32,
    read_vae_table,
)
from dinac_cli.models.interface import DinacAEInferenceConfig, ModelTraits
from dinac_cli.models.loading import check_tensors, demand_dtype, read_tensors
from dinac_cli.models.pixel_scaling import round_images, scale_pixels


class Flux2VAE:
    """The parts of a VAE that a task needs; see `OpenModel`.

    Source of the whitening: `Flux2Pipeline` of diffusers, which takes the statistics of a batch
    norm in evaluation mode. The statistics, and the arithmetic with them, are always float32.
    """

    is_compiled = False
    """Whether the model runs code from torch.compile."""

    def __init__(
        self, module: nn.Module, config: Flux2Config, device: torch.device, dtype: torch.dtype
    ) -> None:
        """`module` is an `AutoencoderKLFlux2`, on `device`, whose weights are `dtype`."""
        self._module: Any = module
        self.traits: ModelTraits = config.traits
        self.device = device
        self.dtype = dtype
        norm: Any = module.bn
        self._mean: Tensor = norm.running_mean[:, None, None]
        self._std: Tensor = (norm.running_var + config.batch_norm_eps).sqrt()[:, None, None]

    def encode_batch(
        self, pixels: Tensor, *, logsnr: bool = False, class_token: bool = False
    ) -> tuple[Tensor, ...]:
        """Implements `OpenModel.encode_batch`: the mode of the posterior, whitened."""
        if logsnr or class_token:
            raise ModelError("a FLUX.2 VAE has neither a log-SNR nor a class token")
        return (self._compute(self.encode, scale_pixels(pixels.to(self.device))),)

    def decode_batch(self, latents: Tensor, settings: DinacAEInferenceConfig) -> Tensor:
        """Implements `OpenModel.decode_batch`. The decoder has no steps, and ignores `settings`."""
        return round_images(self._compute(self.decode, latents.to(self.device)))

    def encode(self, images: Tensor) -> Tensor:
        """Returns the whitened latents of images [B, 3, H, W] in [-1, 1]: the posterior's mode."""
        moments: Tensor = self._module.quant_conv(self._module.encoder(images.to(self.dtype)))
        mode = moments.float().chunk(2, dim=1)[0]  # [B, L, H/8, W/8]
        return self.whiten(F.pixel_unshuffle(mode, UNSHUFFLE)).contiguous()

    def decode(self, latents: Tensor) -> Tensor:
        """Decodes whitened latents to float32 images [B, 3, H, W]; does not clamp values."""
        z = F.pixel_shuffle(self.dewhiten(latents), UNSHUFFLE)
        images: Tensor = self._module.decoder(self._module.post_quant_conv(z.to(self.dtype)))
        return images.float()

    def _compute(self, step: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
        """Runs `step` on a batch; on a CPU, image by image.

        On a CPU, torch divides the work of a whole batch between the threads. Then the rounding of
        an image would depend on its place in the batch.
        """
        if self.device.type != "cpu":
            return step(batch)
        return torch.cat([step(batch[place : place + 1]) for place in range(len(batch))])

    def predict_batch(self, latents: Tensor, *, spatial: bool) -> Tensor:
        """Raises ModelError, because a VAE predicts no features."""
        raise ModelError("a FLUX.2 VAE has no class head")

    def measure_deviation(self, logsnr: Tensor) -> Tensor:
        """Raises ModelError, because a log-SNR does not describe the posterior of a VAE."""
        raise ModelError("the posterior of a FLUX.2 VAE has no log-SNR")

    def whiten(self, latents_raw: Tensor) -> Tensor:
        """Shifts and scales each channel of [B, C, h, w] to mean 0 and variance 1, in float32."""
        return (latents_raw.float() - self._mean) / self._std

    def dewhiten(self, latents: Tensor) -> Tensor:
        """Undoes `whiten`, in float32."""
        return latents.float() * self._std + self._mean

    def list_constants(self) -> list[Tensor]:
        """Implements `OpenModel.list_constants`: nothing is cached between calls."""
        return []

    def forget_starts(self) -> None:
        """Implements `OpenModel.forget_starts`: nothing is cached between calls."""


def load_vae(
    files: CheckpointFiles,
    config: Flux2Config,
    parts: Collection[str],
    device: torch.device,
    dtype: torch.dtype,
    user: str,
) -> Flux2VAE:
    """Loads the parts of a VAE. Checks the names and shapes of all tensors first.

    `user` is what needs the diffusers library. Raises ModelError, UsageError,
    MissingLibraryError.
    """
    demand_dtype(dtype)
    module = build_on_meta(config, user)
    table = read_vae_table(files.weights)
    shapes = {name: tuple(x.shape) for name, x in module.state_dict().items() if name != COUNTER}
    check_tensors(table, shapes)
    wanted = [name for name in shapes if find_vae_part(name) in parts or name in STATISTICS]
    types = {name: torch.float32 if keeps_vae_float32(name) else dtype for name in wanted}
    return assemble(module, config, read_tensors(table, types, device), dtype)


def build_on_meta(config: Flux2Config, user: str) -> nn.Module:
    """Builds the module of diffusers without memory for its weights. Raises MissingLibraryError."""
    create = import_vae_class(user)
    with torch.device("meta"):
        module: nn.Module = create(**config.to_arguments())
    return module


def assemble(
    module: nn.Module, config: Flux2Config, tensors: Mapping[str, Tensor], dtype: torch.dtype
) -> Flux2VAE:
    """Gives the tensors to a module on the meta device, and drops the parts without tensors."""
    for name, _ in list(module.named_children()):
        if not any(tensor.startswith(f"{name}.") for tensor in tensors):
            setattr(module, name, None)
    device = tensors[STATISTICS[0]].device
    counter = {COUNTER: torch.zeros((), dtype=torch.int64, device=device)}
    module.load_state_dict({**tensors, **counter}, assign=True)
    return Flux2VAE(module.eval().requires_grad_(False), config, device, dtype)
