"""Estimates of the clean images while one batch of latents is decoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from dinac_cli.models.dinac.decoder import Begun, Decoder
from dinac_cli.models.dinac.sampling import guide


@dataclass(frozen=True, kw_only=True)
class Denoising:
    """A denoiser (see `sampling`) for unwhitened latents [B, C, h, w].

    `start` is the starting images; `embedded` is their embedding by the decoder. `guidance` is the
    strength of the path-drop guidance, or None.
    """

    decoder: Decoder
    latents_raw: Tensor
    start: Tensor
    embedded: Tensor
    guidance: float | None

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Estimates the clean images [B, 3, H, W] from `x_t` [B, 3, H, W] at the time `t` []."""
        return self._estimate(x_t, t, self.decoder.finish)

    def estimate_patches(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Returns the same estimate as patches [B, h, w, 3·P·P]."""
        return self._estimate(x_t, t, self.decoder.finish_patches)

    def _estimate(self, x_t: Tensor, t: Tensor, finish: Callable[[Begun, bool], Tensor]) -> Tensor:
        embedded = self.embedded if x_t is self.start else self.decoder.embed(x_t)
        begun = self.decoder.begin(embedded, t[None], self.latents_raw)  # one time for all images
        x0 = finish(begun, False)
        return x0 if self.guidance is None else guide(x0, finish(begun, True), self.guidance)
