"""Images and their mirrored twins through the encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dinac_cli.container.encoded import Encoded
from dinac_cli.images.pixels import Pixels, mirror_pixels
from dinac_cli.pipeline.job import Computing

if TYPE_CHECKING:
    from dinac_cli.codec.engine import Engine


@dataclass(frozen=True)
class Twins:
    """What came of one image, and of the same one mirrored, where that was encoded too."""

    upright: Encoded
    flipped: Encoded | None = None


def submit_with_twins(
    engine: Engine,
    images: Sequence[Pixels],
    flips: Sequence[bool],
    *,
    logsnr: bool = False,
    class_token: bool = False,
) -> Computing[Twins]:
    """Encode uint8 images [H, W, 3] of one padded size and, where `flips` says so, their twins.

    `logsnr` and `class_token` ask of both what they ask of `Engine.submit_images`. The twins are a
    micro-batch of their own, of the same shape, so that no image comes out otherwise because there
    are twins. Raises ImageError where the device lacks memory.
    """

    def submit(pixels: Sequence[Pixels]) -> Computing[Encoded]:
        return engine.submit_images(pixels, logsnr=logsnr, class_token=class_token)

    upright = submit(images)
    mirrored = [mirror_pixels(p) for p, flip in zip(images, flips, strict=True) if flip]
    return _TwinBatches(upright, submit(mirrored) if mirrored else None, flips)


@dataclass(frozen=True)
class _TwinBatches:
    """Two micro-batches under way as one."""

    upright: Computing[Encoded]
    mirrored: Computing[Encoded] | None
    flips: Sequence[bool]

    @property
    def is_done(self) -> bool:
        """Whether `result` returns at once."""
        return self.upright.is_done and (self.mirrored is None or self.mirrored.is_done)

    def result(self) -> list[Twins]:
        """What came of each image, when it is there. Raises DeviceError."""
        twins = iter(() if self.mirrored is None else self.mirrored.result())
        return [
            Twins(encoded, next(twins) if flip else None)
            for encoded, flip in zip(self.upright.result(), self.flips, strict=True)
        ]
