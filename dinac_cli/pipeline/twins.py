"""Images and their mirrored twins through the encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dinac_cli.images.pixels import Pixels, mirror_pixels
from dinac_cli.pipeline.job import Computing

if TYPE_CHECKING:
    from dinac_cli.codec.engine import Engine

Latents = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Encoded:
    """What came of one image, float32 [C, h, w]; `flipped` of the same one, mirrored."""

    upright: Latents
    flipped: Latents | None = None


def submit_with_twins(
    engine: Engine, images: Sequence[Pixels], flips: Sequence[bool]
) -> Computing[Encoded]:
    """Encode uint8 images [H, W, 3] of one padded size and, where `flips` says so, their twins.

    The twins are a micro-batch of their own, of the same shape, so that no image comes out
    otherwise because there are twins. Raises ImageError where the device lacks memory.
    """
    upright = engine.submit_images(images)
    mirrored = [mirror_pixels(p) for p, flip in zip(images, flips, strict=True) if flip]
    return _WithTwins(upright, engine.submit_images(mirrored) if mirrored else None, flips)


@dataclass(frozen=True)
class _WithTwins:
    """Two micro-batches under way as one."""

    upright: Computing[Latents]
    mirrored: Computing[Latents] | None
    flips: Sequence[bool]

    @property
    def is_done(self) -> bool:
        """Whether `result` returns at once."""
        return self.upright.is_done and (self.mirrored is None or self.mirrored.is_done)

    def result(self) -> list[Encoded]:
        """What came of each image, when it is there. Raises DeviceError."""
        twins = iter(() if self.mirrored is None else self.mirrored.result())
        return [
            Encoded(latents, next(twins) if flip else None)
            for latents, flip in zip(self.upright.result(), self.flips, strict=True)
        ]
