"""Names the options for images that are smaller than the size that a run makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dinac_cli.commands.screen.tables import count_images

if TYPE_CHECKING:
    from dinac_cli.images.geometry import Geometry


def advise_on_sizes(upscaled: str, count: int, too_small: int, geometry: Geometry) -> Iterator[str]:
    """Names the options for `count` images that are scaled up, and for images that are too small.

    `upscaled` is a phrase in which `{}` is the number of images that are scaled up.
    """
    images = upscaled.format(count_images(count))
    if geometry.buckets is not None:
        if count:
            yield f"{images}; --no-upscale --skip-small would skip small images"
        if too_small:
            small = f"smaller than their bucket: {count_images(too_small)}"
            yield f"{small}; --upscale enlarges small images, --skip-small skips them"
        return
    if count:
        yield f"{images}; --no-upscale keeps small images at their own size"
    if too_small:
        yield f"smaller than the crop: {count_images(too_small)}; --skip-small skips small images"
