"""Says how many images have no mask."""

from __future__ import annotations

from dinac_cli.commands.screen.tables import count_images


def describe_unmasked(unmasked: int, images: int | None, masks: str) -> str:
    """Says how many of the images have no file in `masks`, the folder of --masks.

    `images` is None if there are more images, of which nobody knows yet.
    """
    if unmasked == images:
        return f"WARNING: no image has a mask in {masks}; check the folder and the names"
    return f"without a mask in {masks}, so everything counts: {count_images(unmasked)}"
