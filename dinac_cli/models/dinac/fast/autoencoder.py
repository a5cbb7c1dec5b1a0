"""The fast network, for inference. Its results equal the plain network's, up to rounding."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from dinac_cli.models.dinac.autoencoder import DinacAE
from dinac_cli.models.dinac.conv_encoder import ConvEncoder
from dinac_cli.models.dinac.decoder import Decoder
from dinac_cli.models.dinac.encoder import Encoder
from dinac_cli.models.dinac.fast import torch_operations
from dinac_cli.models.dinac.fast.conv_encoder import FastConvEncoder
from dinac_cli.models.dinac.fast.decoder import FastDecoder
from dinac_cli.models.dinac.fast.encoder import FastEncoder
from dinac_cli.models.dinac.fast.operations import Operations
from dinac_cli.models.dinac.sampling import run_ddim
from dinac_cli.models.interface import DECODER, DinacAEInferenceConfig
from dinac_cli.models.recent import Recent

START_BYTES = 256 * 2**20
"""The maximum total size of the cached noises and embeddings on a CPU, in bytes."""

GPU_START_BYTES = 768 * 2**20
"""The same on other devices.

D2 takes 26 bytes per pixel, so both orientations of a photograph of 12 megapixels take 605 MiB. A
recorded graph draws no noise: the noise of all sizes that take turns must fit.
"""


class FastDinacAE(DinacAE):
    """A faster form of `plain`, for inference.

    It has the methods of `DinacAE`, but cannot be trained or saved. The starting noise of recently
    used sizes and seeds is cached.
    """

    def __init__(self, plain: DinacAE, operations: Operations, *, compiled: bool) -> None:
        nn.Module.__init__(self)
        self.config = plain.config
        self.is_compiled = compiled
        self._operations = operations
        self._matrix_dtype = plain.dtype
        for part in ("encoder", "decoder"):
            if hasattr(plain, part):
                module = getattr(plain, part)
                setattr(self, part, _FAST[type(module)](module, operations, compiled=compiled))
        if hasattr(plain, "dino_token_alignment_head"):
            self.dino_token_alignment_head = plain.dino_token_alignment_head
        self.register_buffer("latent_norm_running_mean", plain.latent_norm_running_mean)
        self.register_buffer("latent_norm_running_var", plain.latent_norm_running_var)
        self._starts: Recent[tuple[int, int, int, float], tuple[Tensor, Tensor]] = Recent(
            START_BYTES if plain.device.type == "cpu" else GPU_START_BYTES, _count_bytes
        )

    @property
    def dtype(self) -> torch.dtype:
        return self._matrix_dtype

    @property
    def ordinary_weight_storage_dtype(self) -> torch.dtype:
        self._demand_part(DECODER)
        return self._matrix_dtype

    def decode_pixels(
        self, latents: Tensor, inference_config: DinacAEInferenceConfig | None = None
    ) -> Tensor:
        """Implements `DinacAE.decode_pixels`. One operation does the last DDIM step and rounds."""
        settings = inference_config or DinacAEInferenceConfig()
        if settings.sampler != "ddim":
            return super().decode_pixels(latents, settings)
        height, width = (self.config.patch_size * side for side in latents.shape[-2:])
        denoise, times, schedule = self._begin_decoding(latents, height, width, settings)
        # For all times at once, as in `sample_ddim`: for another number of times, torch may round
        # differently.
        alpha, sigma = schedule.alpha(times), schedule.sigma(times)
        x = run_ddim(denoise, denoise.start, times[:-1], alpha[:-1], sigma[:-1])
        x0 = denoise.estimate_patches(x, times[-2])
        return self._operations.finish_ddim(x, x0, alpha[-2:], sigma[-2:])

    def list_constants(self) -> list[Tensor]:
        constants = [tensor for start in self._starts.list_values() for tensor in start]
        for part in ("encoder", "decoder"):
            if hasattr(self, part):
                constants += getattr(self, part).list_constants()
        return constants

    def forget_starts(self) -> None:
        self._starts.clear()

    def _draw_start(
        self, batch: int, height: int, width: int, seed: int | None, sigma: float
    ) -> tuple[Tensor, Tensor]:
        if seed is None:
            return super()._draw_start(batch, height, width, seed, sigma)
        draw = partial(super()._draw_start, 1, height, width, seed, sigma)
        x, embedded = self._starts.get((height, width, seed, sigma), draw)
        return x.expand(batch, -1, -1, -1), embedded


def accelerate(
    model: DinacAE, operations: Operations = torch_operations, *, compiled: bool = False
) -> DinacAE:
    """Returns the fast form of `model`, a network in evaluation mode.

    The caller may then discard `model`. If `compiled` is true, torch.compile fuses torch's
    operations for each image size. Compiled code is faster and rounds differently. On Metal,
    returns `model` itself, because Metal has no complex numbers. The fast form needs them to rotate
    queries and keys.
    """
    if model.device.type == "mps":
        return model
    return FastDinacAE(model, operations, compiled=compiled)


_FAST: dict[type[nn.Module], Callable[..., nn.Module]] = {
    Encoder: FastEncoder,
    ConvEncoder: FastConvEncoder,
    Decoder: FastDecoder,
}


def _count_bytes(tensors: tuple[Tensor, ...]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
