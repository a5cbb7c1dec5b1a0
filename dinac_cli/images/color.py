"""Bring decoded images of every mode to 8-bit sRGB: depth, alpha, ICC profile, background."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile, TiffImagePlugin

from dinac_cli.errors import ImageError

SRGB, CONVERTED, ASSUMED_SRGB = "srgb", "converted", "assumed-srgb"
"""Where an image's colours came from: no or an sRGB profile; another one; an unusable one."""


def reduce_depth(image: ImageFile.ImageFile) -> Image.Image:
    """Scale gray of 16 bits, 32 bits or floating point to mode L, or LA if a value is transparent.

    Pillow's own conversion clips at 255. 16 bits are scaled by 1/257 and rounded; 32-bit integers
    count as 16-bit (Pillow reads 16-bit PGM so), floats as 0..1; ImageError outside these ranges.
    Images of other modes come back as they are.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    peak, white_is_zero = _gray_scale(image)
    if values.min() < 0 or not values.max() <= peak:  # `not <=` also catches NaN
        raise ImageError(
            f"gray values outside 0..{peak} have no defined brightness: convert to 8 or 16 bits"
        )
    if values.dtype.kind == "f":
        gray = np.rint(values * (255 / peak)).astype(np.uint8)
    else:
        gray = ((values.astype(np.uint32) * 255 + peak // 2) // peak).astype(np.uint8)
    reduced = Image.fromarray(255 - gray if white_is_zero else gray)
    transparent = image.info.get("transparency")
    if transparent is not None:
        alpha = np.where(values == transparent, 0, 255).astype(np.uint8)
        reduced = Image.merge("LA", (reduced, Image.fromarray(alpha)))
    return reduced


def _gray_scale(image: ImageFile.ImageFile) -> tuple[int, bool]:
    """Peak value, and whether zero is white: TIFF alone has 12 bits and negatives."""
    peak = 1 if image.mode == "F" else 65535
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return peak, False
    if image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE) == (12,):
        peak = 4095
    return peak, image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0


def split_alpha(image: Image.Image) -> tuple[Image.Image, NDArray[np.uint8] | None]:
    """Separate the colours, in a mode without alpha, from alpha: uint8 [H, W], None if opaque."""
    if not image.has_transparency_data:
        return image, None
    if image.mode in ("1", "L", "LA", "La"):
        image = image.convert("LA")
        color, alpha = image.getchannel("L"), np.asarray(image.getchannel("A"))
    else:
        image = image.convert("RGBA")
        color, alpha = image.convert("RGB"), np.asarray(image.getchannel("A"))
    return color, (None if alpha.min() == 255 else alpha)


def composite(
    rgb: NDArray[np.uint8], alpha: NDArray[np.uint8], background: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """Lay `rgb` [H, W, 3] over one colour with `alpha` [H, W], in sRGB values, rounded exactly."""
    weight = alpha[..., None].astype(np.uint16)  # [H, W, 1]
    below = np.asarray(background, dtype=np.uint16) * (255 - weight)  # at most 255 * 255
    return ((rgb * weight + below + 127) // 255).astype(np.uint8)


def convert_to_srgb(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, str]:
    """Convert an image without alpha to mode RGB, through its ICC profile where it has one.

    Returns the image and SRGB, CONVERTED or ASSUMED_SRGB. A profile that is as good as sRGB
    changes nothing, so that its pixels stay exact.
    """
    if profile is None:
        return _to_rgb(image), SRGB
    try:
        space = _color_space(profile)
        if space == "RGB" and image.mode != "CMYK":
            image = _to_rgb(image)
        elif image.mode == "1":
            image = image.convert("L")
        transform = _build_transform(profile, image.mode)
        if transform is None:
            return _to_rgb(image), SRGB
        return _apply_transform(transform, image), CONVERTED
    except (OSError, ValueError, TypeError, ImageCms.PyCMSError):
        return _to_rgb(image), ASSUMED_SRGB


def _to_rgb(image: Image.Image) -> Image.Image:
    # Pillow copies the pixels even where there is nothing to convert.
    return image if image.mode == "RGB" else image.convert("RGB")


def _apply_transform(transform: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    if image.mode != "L":
        return transform.apply(image)
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    colors = np.asarray(transform.apply(ramp))[0]  # [256, 3]
    return Image.fromarray(colors[np.asarray(image)])


def _color_space(profile: bytes) -> str:
    return ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space.strip()


@lru_cache(maxsize=8)
def _build_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Build the transform from `profile` to sRGB, or None if it changes no value by more than 1.

    Cached: the images of a folder mostly share a profile, and a CMYK table takes long to build.
    """
    transform = ImageCms.ImageCmsTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")),
        mode,
        "RGB",
        ImageCms.Intent.PERCEPTUAL,
        # For gray the optimised table is off by up to 10 levels in the shadows, and 256 colours
        # need no speed.
        flags=ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE,
    )
    if mode not in ("L", "RGB"):
        return transform
    samples = _sample_colors().convert(mode)
    before = np.asarray(samples.convert("RGB")).astype(np.int16)
    after = np.asarray(transform.apply(samples)).astype(np.int16)
    return None if np.abs(after - before).max() <= 1 else transform


def _sample_colors() -> Image.Image:
    """All grays and a 9 x 9 x 9 grid of colours, as one row of RGB pixels."""
    grays = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)  # [256, 3]
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)  # [729, 3]
    return Image.fromarray(np.concatenate([grays, grid])[None])
