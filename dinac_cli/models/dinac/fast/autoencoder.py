"""The fast network: the same results as the plain one up to rounding, for inference only."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from dinac_cli.models.dinac.autoencoder import DinacAE
from dinac_cli.models.dinac.decoder import Decoder
from dinac_cli.models.dinac.encoder import Encoder
from dinac_cli.models.dinac.fast import torch_operations
from dinac_cli.models.dinac.fast.decoder import FastDecoder
from dinac_cli.models.dinac.fast.encoder import FastEncoder
from dinac_cli.models.dinac.fast.operations import Operations, choose_operations
from dinac_cli.models.dinac.fast.recent import Recent

START_BYTES = 256 * 2**20
"""Limit on cached starting noise and its embeddings, in bytes."""


class FastDinacAE(DinacAE):
    """A `DinacAE` with the encoder and decoder of `plain` in a faster form, made by `rebuild`.

    It has the same methods, but cannot be trained or saved. Seeded noise is cached for the most
    recently used sizes.
    """

    def __init__(
        self, plain: DinacAE, rebuild: Callable[[nn.Module], nn.Module], *, is_compiled: bool
    ) -> None:
        nn.Module.__init__(self)
        self.config = plain.config
        self.is_compiled = is_compiled
        self._matrix_dtype = plain.dtype
        for part in ("encoder", "decoder"):
            if hasattr(plain, part):
                setattr(self, part, rebuild(getattr(plain, part)))
        if hasattr(plain, "dino_token_alignment_head"):
            self.dino_token_alignment_head = plain.dino_token_alignment_head
        self.register_buffer("latent_norm_running_mean", plain.latent_norm_running_mean)
        self.register_buffer("latent_norm_running_var", plain.latent_norm_running_var)
        self._starts: Recent[tuple[int, int, int, float], tuple[Tensor, Tensor]] = Recent(
            START_BYTES, _count_bytes
        )

    @property
    def dtype(self) -> torch.dtype:
        return self._matrix_dtype

    def count_start_bytes(self) -> int:
        """Returns the size of the cached noise, in bytes."""
        return self._starts.weight

    def list_constants(self) -> list[Tensor]:
        constants = [tensor for start in self._starts.list_values() for tensor in start]
        for part in ("encoder", "decoder"):
            if hasattr(self, part):
                constants += getattr(self, part).list_constants()
        return constants

    def _draw_start(
        self, batch: int, height: int, width: int, seed: int | None, sigma: float
    ) -> tuple[Tensor, Tensor]:
        if seed is None:
            return super()._draw_start(batch, height, width, seed, sigma)
        draw = partial(super()._draw_start, 1, height, width, seed, sigma)
        x, embedded = self._starts.get((height, width, seed, sigma), draw)
        return x.expand(batch, -1, -1, -1), embedded


def accelerate(
    model: DinacAE, operations: Operations | None = None, *, compiled: bool = False
) -> DinacAE:
    """Returns the fast form of a network in evaluation mode; `model` need not be kept.

    The fast form computes with `operations`, by default the ones for the device. With `compiled`,
    torch.compile fuses torch's operations for each image size, which is faster and rounds
    differently. On Metal there is no fast form, because Metal lacks the complex numbers that rotate
    queries and keys: returns `model` itself.
    """
    if model.device.type == "mps":
        return model
    chosen = operations or (torch_operations if compiled else choose_operations(model.device))

    def rebuild(part: nn.Module) -> nn.Module:
        if isinstance(part, Encoder):
            return FastEncoder(part, chosen, compiled=compiled)
        assert isinstance(part, Decoder)
        return FastDecoder(part, chosen, compiled=compiled)

    return FastDinacAE(model, rebuild, is_compiled=compiled)


def _count_bytes(tensors: tuple[Tensor, ...]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
