"""Reads an image of any supported format into upright 8-bit sRGB pixels."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from PIL import ExifTags, Image, ImageFile, MpoImagePlugin, TiffImagePlugin
from PIL.Image import Transpose

from dinac_cli.errors import ImageError
from dinac_cli.images import color
from dinac_cli.images.damage import SOUND, Damage, DamageChoice, Soundness, check_jpeg
from dinac_cli.images.description import format_description
from dinac_cli.images.fast_jpeg import decode_jpeg
from dinac_cli.images.fax import holds_zeroed_strip, is_fax, watch_libtiff
from dinac_cli.images.formats import MAX_PIXELS
from dinac_cli.images.geometry import NO_GEOMETRY, Geometry
from dinac_cli.images.jpeg_scans import END_OF_IMAGE
from dinac_cli.images.opening import check_size, load_image, open_image
from dinac_cli.images.pixels import Pixels

WHITE = (255, 255, 255)

# For each EXIF orientation, the transposition that makes the image upright. Orientation 1 is
# already upright.
_UPRIGHT: Mapping[object, Transpose] = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}

_TURNED = (5, 6, 7, 8)  # these orientations exchange width and height


@dataclass(frozen=True, eq=False)
class SourceImage:
    """An image after its conversion for encoding or comparison.

    `pixels` is uint8 [H, W, 3] sRGB, C-contiguous. `description` lists the conversions, such as
    "orientation=applied;color=srgb;alpha=none;frame=1/1". `warnings` are messages for the user.
    `upscaled` is true if the image was scaled up. `soundness` says whether the file is damaged.
    """

    pixels: Pixels
    description: str
    warnings: tuple[str, ...]
    upscaled: bool = False
    soundness: Soundness = SOUND


def read_image(
    data: bytes,
    *,
    background: tuple[int, int, int] = WHITE,
    max_pixels: int = MAX_PIXELS,
    damaged: DamageChoice = "fail",
) -> SourceImage:
    """Decodes the bytes of an image file to upright sRGB pixels without alpha.

    Detects the format by the first bytes, and decodes only the first frame. Applies the EXIF
    orientation. Converts colours from the ICC profile to sRGB (perceptual intent), and composites
    alpha over `background` (sRGB, 0..255). This function is thread-safe.
    Raises ImageError if the bytes are not a complete image of a supported format, or if they
    declare more than `max_pixels` pixels. The message does not contain the file's name.
    Raises DamagedImageError if a JPEG or a fax is damaged. If `damaged` is "warn", reads what the
    decoder makes of it, and the description ends with `damaged=truncated` or `damaged=corrupt`. A
    JPEG that lacks only its end marker is read with a warning. Without simplejpeg, damage to JPEGs
    is not recognised.
    """
    with _open_checked(data, max_pixels) as opened:
        pixels = decode_jpeg(data, opened) if _is_plain_jpeg(opened) else None
        soundness = SOUND
        if opened.format in ("JPEG", "MPO"):
            soundness = check_jpeg(data, is_decoded=pixels is not None)
        soundness.require(damaged)
        if is_fax(opened):
            return _read_fax(data, opened, background, damaged)
        if not soundness.lacks_end:
            return _convert(opened, pixels, background, soundness)
    with _open_checked(data + END_OF_IMAGE, max_pixels) as opened:
        return _convert(opened, None, background, soundness)


def _read_fax(
    data: bytes,
    opened: ImageFile.ImageFile,
    background: tuple[int, int, int],
    damaged: DamageChoice,
) -> SourceImage:
    """Reads a TIFF of a fax compression. Its damage is known only after it is decoded."""
    reason = "zeros overwrite coded data" if holds_zeroed_strip(data, opened) else ""
    with watch_libtiff() as log:
        image = _convert(opened, None, background, SOUND)
    reason = "bad code words" if log.complained else reason
    if not reason:
        return image
    soundness = Soundness(Damage.CORRUPT, reason, title="TIFF")
    soundness.require(damaged)
    return replace(
        image,
        description=f"{image.description};damaged={Damage.CORRUPT.value}",
        warnings=(*image.warnings, *soundness.warn()),
        soundness=soundness,
    )


@contextmanager
def _open_checked(data: bytes, max_pixels: int) -> Iterator[ImageFile.ImageFile]:
    with open_image(io.BytesIO(data)) as opened:
        check_size(opened, max_pixels)
        _refuse_thumbnail(opened)
        _match_transparent_color(opened)
        yield opened


def _convert(
    opened: ImageFile.ImageFile,
    pixels: Pixels | None,
    background: tuple[int, int, int],
    soundness: Soundness,
) -> SourceImage:
    """Returns the image. `pixels` are its upright sRGB pixels, or None if Pillow must decode it."""
    steps = {"orientation": "none", "color": color.SRGB, "alpha": "none"}
    if pixels is None:
        pixels, steps = _decode_pixels(opened, background)
    frames = getattr(opened, "n_frames", 1)
    warnings = (*_warn(opened, frames, steps["color"]), *soundness.warn())
    steps["frame"] = f"1/{frames}"
    if soundness.damage is not None:
        steps["damaged"] = soundness.damage.value
    return SourceImage(pixels, format_description(steps), warnings, soundness=soundness)


def _is_plain_jpeg(opened: ImageFile.ImageFile) -> bool:
    """True if the image is an upright RGB JPEG without profile, so that it needs no conversion."""
    # The format is checked first, because other formats may decode the pixels to read the EXIF.
    if opened.format != "JPEG" or opened.mode != "RGB":
        return False
    return _find_profile(opened) is None and _read_orientation(opened) not in _UPRIGHT


def _decode_pixels(
    opened: ImageFile.ImageFile, background: tuple[int, int, int]
) -> tuple[Pixels, dict[str, str]]:
    """Returns upright sRGB pixels [H, W, 3], and the conversions as keys and values."""
    upright, turned = _load_upright(opened)
    opaque, alpha = color.split_alpha(upright)
    rgb, colors = color.convert_to_srgb(opaque, _find_profile(opened))
    pixels = np.array(rgb)  # a writable copy, [H, W, 3]
    steps = {"orientation": "applied" if turned else "none", "color": colors, "alpha": "none"}
    if alpha is not None:
        pixels = color.composite(pixels, alpha, background)
        steps["alpha"] = f"composited-#{bytes(background).hex()}"
    return pixels, steps


def measure_image(data: bytes) -> tuple[int, int]:
    """Returns (width, height) from the header of an image file, before the image is turned.

    Raises ImageError if the format is not supported or the header is damaged.
    """
    with open_image(io.BytesIO(data)) as opened:
        return opened.size


def measure_file(
    path: str, *, max_pixels: int = MAX_PIXELS, upright: bool = False
) -> tuple[int, int]:
    """Returns (width, height) of an image file. Reads no more of the file than necessary.

    If `upright` is true, returns the size after the image is turned upright. For a PNG, this means
    that the pixels must be decoded. Raises ImageError for the same files as `read_image`, and
    OSError if the file cannot be opened.
    """
    with open(path, "rb") as file, open_image(file) as opened:
        check_size(opened, max_pixels)
        _refuse_thumbnail(opened)
        width, height = opened.size
        # For a TIFF, Pillow already reports the size of the upright image.
        is_tiff = isinstance(opened, TiffImagePlugin.TiffImageFile)
        if upright and not is_tiff and _read_orientation(opened) in _TURNED:
            return height, width
        return width, height


def _load_upright(opened: ImageFile.ImageFile) -> tuple[Image.Image, bool]:
    """Decodes an image and turns it upright. Returns the image, and whether it was turned."""
    if isinstance(opened, TiffImagePlugin.TiffImageFile):
        # When Pillow decodes a TIFF, it turns the image upright and removes the orientation tag.
        turned = _read_orientation(opened) in _UPRIGHT
        load_image(opened)
        return color.reduce_depth(opened), turned
    load_image(opened)
    image = color.reduce_depth(opened)
    method = _UPRIGHT.get(_read_orientation(opened))
    return (image, False) if method is None else (image.transpose(method), True)


def _read_orientation(opened: ImageFile.ImageFile) -> object:
    try:
        return opened.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # malformed EXIF may raise any error, but the pixels can be decoded
        return None


def _refuse_thumbnail(opened: ImageFile.ImageFile) -> None:
    """Raises ImageError if the image is a thumbnail.

    In a camera raw file (DNG, NEF, ARW), Pillow finds only the thumbnail.
    """
    if not isinstance(opened, TiffImagePlugin.TiffImageFile):
        return
    kind = opened.tag_v2.get(ExifTags.Base.NewSubfileType)
    if isinstance(kind, int) and kind & 1:
        raise ImageError(
            "only a thumbnail is readable, as in camera raw files; convert it to TIFF or PNG first"
        )


def _match_transparent_color(opened: ImageFile.ImageFile) -> None:
    """Keeps only the high bytes of a 16-bit transparent colour, as Pillow does for the pixels."""
    is_wide = bool(opened.tile) and opened.tile[0].args == "RGB;16B"
    if is_wide and "transparency" in opened.info:
        opened.info["transparency"] = tuple(v >> 8 for v in opened.info["transparency"])


def _find_profile(opened: ImageFile.ImageFile) -> bytes | None:
    """Returns the ICC profile, None if there is no profile, or b"" if Pillow cannot unpack it."""
    return (opened.info["icc_profile"] or b"") if "icc_profile" in opened.info else None


def _warn(opened: ImageFile.ImageFile, frames: int, colors: str) -> Iterator[str]:
    # A JPEG from a phone (MPO) can also hold previews and depth maps. They do not count as frames.
    if frames > 1 and not isinstance(opened, MpoImagePlugin.MpoImageFile):
        if isinstance(opened, TiffImagePlugin.TiffImageFile):
            yield f"multi-page: only page 1 of {frames} encoded"
        else:
            yield f"animated: only frame 1 of {frames} encoded"
    if colors == color.ASSUMED_SRGB:
        yield "unusable ICC profile ignored; colours taken as sRGB"


def read_shaped(
    data: bytes,
    hold: Callable[[int], None],
    *,
    background: tuple[int, int, int],
    max_pixels: int,
    geometry: Geometry = NO_GEOMETRY,
    damaged: DamageChoice = "fail",
) -> SourceImage:
    """Reads an image with `read_image` and applies `geometry` to it.

    `hold(size_bytes)` waits until the image and `data` together may use `size_bytes` of memory.
    `hold` is called before the image is decoded. After that, it is called again with the final,
    smaller size. See `read_image` for `damaged`. Raises ImageError.
    """
    width, height = measure_image(data)
    scaled = math.prod(geometry.scale(width, height)) if geometry.changes_pixels else 0
    hold(len(data) + 3 * (width * height + scaled))
    image = read_image(data, background=background, max_pixels=max_pixels, damaged=damaged)
    image = replace(
        image,
        pixels=geometry.apply(image.pixels),
        description=geometry.describe(image.description),
        upscaled=geometry.upscales(width, height),
    )
    hold(len(data) + image.pixels.nbytes)
    return image


def hold_beside(hold: Callable[[int], None], kept_bytes: int) -> Callable[[int], None]:
    """Returns a `hold` function that adds `kept_bytes` to each size, for data already in memory."""
    return lambda size: hold(kept_bytes + size)
