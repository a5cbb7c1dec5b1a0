"""Read one image, whatever its format, into upright 8-bit sRGB pixels."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, MpoImagePlugin, TiffImagePlugin
from PIL.Image import Transpose

from dinac_cli.errors import ImageError
from dinac_cli.images import color
from dinac_cli.images.fast_jpeg import decode_jpeg
from dinac_cli.images.formats import HEAD_BYTES, MAX_PIXELS
from dinac_cli.images.geometry import NO_GEOMETRY, Geometry
from dinac_cli.images.opening import (
    check_size,
    identify_image,
    image_errors,
    load_image,
    open_image,
)

WHITE = (255, 255, 255)

_ORIENTATION = 0x0112
_NEW_SUBFILE_TYPE = 254

# What turns an image of each EXIF orientation upright; 1 is upright already.
_UPRIGHT: Mapping[object, Transpose] = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}

_TURNED = (5, 6, 7, 8)  # those of them that exchange width and height


@dataclass(frozen=True, eq=False)
class SourceImage:
    """One image as it is encoded and measured.

    `pixels` is uint8 [H, W, 3] sRGB, C-contiguous. `description` says what was done to get there,
    as in "orientation=applied;color=srgb;alpha=none;frame=1/1". `warnings` are for the user.
    """

    pixels: NDArray[np.uint8]
    description: str
    warnings: tuple[str, ...]


def read_image(
    data: bytes,
    *,
    background: tuple[int, int, int] = WHITE,
    max_pixels: int = MAX_PIXELS,
) -> SourceImage:
    """Decode the bytes of an image file to upright sRGB pixels without alpha.

    The content decides the format. EXIF orientation is applied, ICC profiles are converted to sRGB
    (perceptual intent), alpha is composited over `background` (sRGB, 0..255), the first frame of
    several is taken. Safe in many threads. ImageError, without the file's name, if the bytes are
    no whole image of a known format or declare more than `max_pixels` pixels.
    """
    kind = identify_image(data)
    with image_errors(kind):
        opened = open_image(kind, io.BytesIO(data))
        check_size(opened, max_pixels)
        _refuse_thumbnail(opened)
        _match_transparent_color(opened)
        plain = decode_jpeg(data, opened) if _is_plain_jpeg(opened) else None
        if plain is None:
            pixels, steps = _decode_pixels(opened, background)
        else:
            pixels, steps = plain, _describe_steps(turned=False, colors=color.SRGB, alpha="none")
        frames = getattr(opened, "n_frames", 1)
    steps["frame"] = f"1/{frames}"
    description = ";".join(f"{step}={result}" for step, result in steps.items())
    return SourceImage(pixels, description, tuple(_warn(opened, frames, steps["color"])))


def _is_plain_jpeg(opened: ImageFile.ImageFile) -> bool:
    """Whether nothing is to be done to the decoded pixels: RGB, no profile, upright already."""
    if opened.format != "JPEG" or opened.mode != "RGB":  # others are decoded to read their EXIF
        return False
    return _find_profile(opened) is None and _read_orientation(opened) not in _UPRIGHT


def _decode_pixels(
    opened: ImageFile.ImageFile, background: tuple[int, int, int]
) -> tuple[NDArray[np.uint8], dict[str, str]]:
    """Upright sRGB pixels [H, W, 3], and what was done to get there."""
    upright, turned = _load_upright(opened)
    opaque, alpha = color.split_alpha(upright)
    rgb, colors = color.convert_to_srgb(opaque, _find_profile(opened))
    pixels = np.array(rgb)  # a writable copy, [H, W, 3]
    if alpha is None:
        return pixels, _describe_steps(turned=turned, colors=colors, alpha="none")
    composited = f"composited-#{bytes(background).hex()}"
    steps = _describe_steps(turned=turned, colors=colors, alpha=composited)
    return color.composite(pixels, alpha, background), steps


def _describe_steps(*, turned: bool, colors: str, alpha: str) -> dict[str, str]:
    orientation = "applied" if turned else "none"
    return {"orientation": orientation, "color": colors, "alpha": alpha}


def measure_image(data: bytes) -> tuple[int, int]:
    """Width and height that an image file's header declares, before orientation; no decoding.

    ImageError as for `read_image`.
    """
    kind = identify_image(data)
    with image_errors(kind):
        width, height = open_image(kind, io.BytesIO(data)).size
    return width, height


def measure_file(
    path: str, *, max_pixels: int = MAX_PIXELS, upright: bool = False
) -> tuple[int, int]:
    """`measure_image` of a file, of which no more is read than its format asks for.

    `upright` gives the size after orientation, for which a PNG has to be decoded. ImageError as
    for `read_image`; OSError where the file cannot be opened.
    """
    with open(path, "rb") as file:
        kind = identify_image(file.read(HEAD_BYTES))
        file.seek(0)
        with image_errors(kind):
            opened = open_image(kind, file)
            check_size(opened, max_pixels)
            _refuse_thumbnail(opened)
            width, height = opened.size
            # Pillow gives the size of a TIFF as it will be.
            is_tiff = isinstance(opened, TiffImagePlugin.TiffImageFile)
            if upright and not is_tiff and _read_orientation(opened) in _TURNED:
                width, height = height, width
    return width, height


def _load_upright(opened: ImageFile.ImageFile) -> tuple[Image.Image, bool]:
    """Decode, and apply the EXIF orientation; tell whether there was one."""
    if isinstance(opened, TiffImagePlugin.TiffImageFile):
        # Pillow turns a TIFF upright by itself when it decodes, and forgets the tag.
        turned = _read_orientation(opened) in _UPRIGHT
        load_image(opened)
        return color.reduce_depth(opened), turned
    load_image(opened)
    image = color.reduce_depth(opened)
    method = _UPRIGHT.get(_read_orientation(opened))
    return (image, False) if method is None else (image.transpose(method), True)


def _read_orientation(opened: ImageFile.ImageFile) -> object:
    try:
        return opened.getexif().get(_ORIENTATION)
    except Exception:  # malformed EXIF raises whatever it likes, and the picture is whole without
        return None


def _refuse_thumbnail(opened: ImageFile.ImageFile) -> None:
    """Refuse what a camera's raw file (DNG, NEF, ARW: TIFF inside) shows to a TIFF reader."""
    if not isinstance(opened, TiffImagePlugin.TiffImageFile):
        return
    kind = opened.tag_v2.get(_NEW_SUBFILE_TYPE)
    if isinstance(kind, int) and kind & 1:
        raise ImageError(
            "only a thumbnail is readable, as in camera raw files: convert it to TIFF or PNG first"
        )


def _match_transparent_color(opened: ImageFile.ImageFile) -> None:
    """Cut a transparent colour of 16 bits to the high bytes that Pillow keeps of the pixels."""
    wide = bool(opened.tile) and opened.tile[0].args == "RGB;16B"
    if wide and "transparency" in opened.info:
        opened.info["transparency"] = tuple(v >> 8 for v in opened.info["transparency"])


def _find_profile(opened: ImageFile.ImageFile) -> bytes | None:
    """The ICC profile; empty, which is unusable, where Pillow could not even unpack it."""
    return (opened.info["icc_profile"] or b"") if "icc_profile" in opened.info else None


def _warn(opened: ImageFile.ImageFile, frames: int, colors: str) -> Iterator[str]:
    # The further images in a phone's JPEG are previews and depth maps, not frames.
    if frames > 1 and not isinstance(opened, MpoImagePlugin.MpoImageFile):
        yield f"first of {frames} frames"
    if colors == color.ASSUMED_SRGB:
        yield "unusable ICC profile ignored: colours taken as sRGB"


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
