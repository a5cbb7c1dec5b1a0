"""Converts decoded images of any mode to 8-bit sRGB pixels without alpha."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile, TiffImagePlugin

from dinac_cli.errors import ImageError, UsageError
from dinac_cli.images.color_space import ColorSpace, convert_levels
from dinac_cli.images.hdr import CLIP

SRGB, CONVERTED, ASSUMED_SRGB = "srgb", "converted", "assumed-srgb"
"""How the colours of an image became sRGB. SRGB: the image has no profile, or an sRGB profile.
CONVERTED: the image has another profile. ASSUMED_SRGB: the profile or the declared space of
the image is not usable."""

BT709 = "bt709-as-srgb"
"""The image declares the curve of a camera, as BT.709 does. Its pixels are taken as sRGB."""


_NAMED_COLORS = {"white": "ffffff", "black": "000000", "gray": "808080", "grey": "808080"}


def parse_color(text: str) -> tuple[int, int, int]:
    """Parses `white`, `black`, `gray` or `#rrggbb` to (red, green, blue). Raises UsageError."""
    digits = _NAMED_COLORS.get(text.lower(), text.removeprefix("#"))
    try:
        red, green, blue = bytes.fromhex(digits)
    except ValueError as exc:
        message = f"--background {text}: expected white, black, gray or #rrggbb"
        raise UsageError(message) from exc
    return red, green, blue


def name_color(color: tuple[int, int, int]) -> str:
    """Returns the shortest text that `parse_color` reads as this colour."""
    digits = bytes(color).hex()
    return next((name for name, hex in _NAMED_COLORS.items() if hex == digits), f"#{digits}")


def reduce_depth(image: ImageFile.ImageFile) -> Image.Image:
    """Scales 16-bit, 32-bit and float gray to mode L, or to LA if one value is transparent.

    Pillow's own conversion clips values at 255. This function scales and rounds them. Floats must
    be between 0 and 1. Integers must be between 0 and 65535. This is also true for 32-bit integers,
    because Pillow reads a 16-bit PGM as 32-bit. Raises ImageError for values outside these ranges.
    Returns images of other modes unchanged.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    peak, white_is_zero = _gray_scale(image)
    if values.min() < 0 or not values.max() <= peak:  # `not <=` also catches NaN
        raise ImageError(
            f"gray values outside 0..{peak} have no defined brightness; convert to 8 or 16 bits"
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
    """Returns the largest gray value, and whether zero is white.

    Only TIFF files can have 12-bit values. Only in TIFF files can zero be white.
    """
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    is_12_bit = tags.get(TiffImagePlugin.BITSPERSAMPLE) == (12,)
    peak = 4095 if is_12_bit else 1 if image.mode == "F" else 65535
    return peak, tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0


def split_alpha(image: Image.Image) -> tuple[Image.Image, NDArray[np.uint8] | None]:
    """Returns the image without alpha, and its alpha as uint8 [H, W].

    The alpha is None if the image is opaque.
    """
    if not image.has_transparency_data:
        return image, None
    is_gray = image.mode in ("1", "L", "LA", "La")
    image = image.convert("LA" if is_gray else "RGBA")
    alpha = np.asarray(image.getchannel("A"))
    color = image.getchannel("L") if is_gray else image.convert("RGB")
    return color, None if alpha.min() == 255 else alpha


def composite(
    rgb: NDArray[np.uint8], alpha: NDArray[np.uint8], background: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """Composites `rgb` [H, W, 3] with `alpha` [H, W] over one sRGB colour. Rounds exactly."""
    weight = alpha[..., None].astype(np.uint16)  # [H, W, 1]
    below = np.asarray(background, dtype=np.uint16) * (255 - weight)  # at most 255 * 255
    return ((rgb * weight + below + 127) // 255).astype(np.uint8)


def convert_to_srgb(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, str]:
    """Converts an image without alpha to mode RGB. Uses the ICC profile if the image has one.

    Returns the converted image, and one of the texts SRGB, CONVERTED and ASSUMED_SRGB. Ignores a
    profile that is practically sRGB, so that the pixels do not change.
    """
    if profile is None:
        return _to_rgb(image), SRGB
    try:
        space = ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space.strip()
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


def convert_declared(
    image: Image.Image,
    space: ColorSpace,
    *,
    hdr: str = CLIP,
    levels: NDArray[np.uint16] | None = None,
) -> tuple[Image.Image, str]:
    """Converts an image without alpha from a declared colour space to mode RGB, sRGB.

    `levels` [H, W, 3] are the same pixels with 16 bits per channel, if the file has them. `hdr` is
    one of CLIP and TONEMAP. Returns the converted image, and SRGB, BT709 or the name of the space.
    """
    if space.is_srgb:
        return _to_rgb(image), BT709 if space.is_assumed else SRGB
    samples = np.asarray(_to_rgb(image)) if levels is None else levels
    return Image.fromarray(convert_levels(samples, space, hdr)), space.describe(hdr)


def _to_rgb(image: Image.Image) -> Image.Image:
    # Without this check, `convert` would copy the pixels of an RGB image.
    return image if image.mode == "RGB" else image.convert("RGB")


def _apply_transform(transform: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    if image.mode != "L":
        return transform.apply(image)
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    colors = np.asarray(transform.apply(ramp))[0]  # [256, 3]
    return Image.fromarray(colors[np.asarray(image)])


@lru_cache(maxsize=8)
def _build_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Builds the transform from `profile` to sRGB.

    Returns None if the transform changes no value by more than 1. The result is cached, because
    images in a folder often share one profile, and a CMYK transform is slow to build.
    """
    transform = ImageCms.ImageCmsTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")),
        mode,
        "RGB",
        ImageCms.Intent.PERCEPTUAL,
        # The optimised gray table of LittleCMS has errors of up to 10 levels in dark tones. Gray
        # has only 256 values, so it needs no optimisation.
        flags=ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE,
    )
    if mode not in ("L", "RGB"):
        return transform
    samples = _sample_colors().convert(mode)
    before = np.asarray(samples.convert("RGB")).astype(np.int16)
    after = np.asarray(transform.apply(samples)).astype(np.int16)
    return None if np.abs(after - before).max() <= 1 else transform


def _sample_colors() -> Image.Image:
    """Returns one row of RGB pixels: all 256 grays, then a 9 x 9 x 9 grid of colours."""
    grays = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)  # [256, 3]
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)  # [729, 3]
    return Image.fromarray(np.concatenate([grays, grid])[None])
