"""The network made fast for inference: the same results, up to rounding, in less time."""

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
from dinac_cli.models.dinac.recent import Recent

START_BYTES = 256 * 2**20
"""What the noises that are kept, with the decoder's view of them, may take."""


class FastDinacAE(DinacAE):
    """A `DinacAE` with a faster form of the encoder and decoder of `plain`, for inference alone.

    `rebuild` makes that form of a part. The methods are the same, but the network cannot be
    trained or saved. Seeded noise is kept for the sizes used last.
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
        """Bytes of the noises that are kept."""
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
    """The fast form of a network that is ready for inference; the plain one need not be kept.

    It computes with `operations`, by default those that suit the device. With `compiled`,
    torch.compile joins torch's operations for each size of image: other roundings, more speed.
    Where there is no fast form (Metal lacks the complex numbers that turn queries and keys), the
    network itself.
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
