"""An image as it is encoded and measured: read, scaled and cropped, within a budget of memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from dinac_cli.images.geometry import NO_GEOMETRY, Geometry
from dinac_cli.images.reading import SourceImage, measure_image, read_image


def read_shaped(
    data: bytes,
    hold: Callable[[int], None],
    *,
    background: tuple[int, int, int],
    max_pixels: int,
    geometry: Geometry = NO_GEOMETRY,
) -> SourceImage:
    """`read_image` and `geometry` after it; of a larger image no more is held once it is scaled.

    `hold(size_bytes)` waits until that much may be in memory, `data` counted with it. Raises
    ImageError.
    """
    width, height = measure_image(data)
    scaled = math.prod(geometry.scale(width, height)) if geometry.changes_pixels else 0
    hold(len(data) + 3 * (width * height + scaled))
    image = read_image(data, background=background, max_pixels=max_pixels)
    image = replace(
        image,
        pixels=geometry.apply(image.pixels),
        description=geometry.describe(image.description),
    )
    hold(len(data) + image.pixels.nbytes)
    return image


def hold_beside(hold: Callable[[int], None], kept_bytes: int) -> Callable[[int], None]:
    """`hold` for one more image beside what is kept already."""
    return lambda size: hold(kept_bytes + size)
