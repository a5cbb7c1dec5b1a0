"""Says how many images have no mask, and how many masks belong to no image."""

from __future__ import annotations

from collections.abc import Iterator

from dinac_cli.commands.screen.tables import count_images


def describe_unmasked(
    unmasked: int, images: int | None, masks: str | None, with_alpha: int = 0
) -> Iterator[str]:
    """Says how many of the images have no mask, if there are any.

    `masks` is the folder of --masks; None for --mask. `images` is None if the number of all images
    is not known yet. `with_alpha` of those without a file in `masks` have transparency.
    """
    if not unmasked:
        return
    if masks is None:
        if unmasked == images:
            yield (
                "WARNING: no image has transparency, so everything counts; "
                "for a folder of mask files, use --masks"
            )
        else:
            yield f"without transparency, so everything counts: {count_images(unmasked)}"
    elif unmasked == images:
        yield f"WARNING: no image has a mask in {masks}; check the folder and the names"
    else:
        yield f"without a mask in {masks}, so everything counts: {count_images(unmasked)}"
    if with_alpha:
        have = "1 of these images has" if with_alpha == 1 else f"{with_alpha} of these images have"
        yield f"{have} transparency, which --masks ignores and --mask would keep"


def describe_unused(masks: str, folders: tuple[str, ...] | None) -> Iterator[str]:
    """Says how many files in `masks` belong to no image in `folders`, if there are any."""
    from dinac_cli.jobs.image_masks import find_unused_masks

    unused = find_unused_masks(masks, folders)
    if unused is None:
        return
    if unused.number == 1:
        yield f"1 mask in {masks} belongs to no image: {unused.example}; check its name"
    else:
        yield (
            f"{unused.number} masks in {masks} belong to no image, such as {unused.example}; "
            "check their names"
        )
