"""Reads an image of any supported format into upright 8-bit sRGB pixels."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import IO, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, MpoImagePlugin, TiffImagePlugin
from PIL.Image import Transpose

from dinac_cli.errors import ImageError
from dinac_cli.images import color
from dinac_cli.images.color_space import refuse_hdr
from dinac_cli.images.damage import SOUND, Damage, DamageChoice, Soundness, check_jpeg
from dinac_cli.images.declared import Declared, read_declared
from dinac_cli.images.deep_png import is_deep, read_levels
from dinac_cli.images.description import format_description, parse_description
from dinac_cli.images.fast_jpeg import decode_jpeg
from dinac_cli.images.fax import holds_zeroed_strip, is_fax, watch_libtiff
from dinac_cli.images.formats import MAX_PIXELS
from dinac_cli.images.geometry import NO_GEOMETRY, Geometry
from dinac_cli.images.hdr import CLIP, REFUSE
from dinac_cli.images.jpeg_scans import END_OF_IMAGE, PlainJpeg, find_plain_jpeg, holds_zero_run
from dinac_cli.images.masks import FULL, Mask, fit_mask
from dinac_cli.images.opening import check_size, load_image, open_image
from dinac_cli.images.optional_formats import is_optional
from dinac_cli.images.pixels import Pixels
from dinac_cli.images.revisions import describe_revision

T = TypeVar("T")

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

_UNCONVERTED = f"orientation=none;color={color.SRGB};alpha=none;frame=1/1"

_TURNED = (5, 6, 7, 8)  # these orientations exchange width and height


@dataclass(frozen=True, eq=False)
class SourceImage:
    """An image after its conversion for encoding or comparison.

    `pixels` is uint8 [H, W, 3] sRGB, C-contiguous. `description` lists the conversions, such as
    "orientation=applied;color=srgb;alpha=none;frame=1/1". `warnings` are messages for the user.
    `upscaled` is true if the image was scaled up. `soundness` says whether the file is damaged.
    `mask` [H, W] says how much each pixel counts; None if all count, or if no mask was asked for.
    """

    pixels: Pixels
    description: str
    warnings: tuple[str, ...]
    upscaled: bool = False
    soundness: Soundness = SOUND
    mask: Mask | None = None


def read_image(
    data: bytes,
    *,
    background: tuple[int, int, int] = WHITE,
    max_pixels: int = MAX_PIXELS,
    hdr: str = REFUSE,
    damaged: DamageChoice = "fail",
    keep_alpha: bool = False,
) -> SourceImage:
    """Decodes the bytes of an image file to upright sRGB pixels without alpha.

    Detects the format by the first bytes, and decodes only the first frame. Applies the EXIF
    orientation. Converts colours from the ICC profile to sRGB (perceptual intent), or from the
    primaries and the curve that the file declares, and composites alpha over `background` (sRGB,
    0..255). If `keep_alpha` is set, the alpha channel becomes the mask of the image. `hdr` is one
    of `HDR_CHOICES`. This function is thread-safe.
    Raises ImageError if the bytes are not a complete image of a supported format, if they declare
    more than `max_pixels` pixels, or if the image is HDR and `hdr` is REFUSE. The message does not
    contain the file's name.
    Raises DamagedImageError if a JPEG or a fax is damaged. If `damaged` is "warn", reads what the
    decoder makes of it, and the description says `damaged=truncated` or `damaged=corrupt`. A JPEG
    that lacks only its end marker is read with a warning. Without simplejpeg, damage to JPEGs is
    not recognised.
    """
    conversion = _Conversion(background, hdr, keep_alpha)
    with _open_checked(data, max_pixels, hdr) as source:
        opened = source.opened
        pixels = decode_jpeg(data, opened.size) if _is_plain_jpeg(opened) else None
        soundness = SOUND
        if opened.format in ("JPEG", "MPO"):
            soundness = check_jpeg(data, is_decoded=pixels is not None)
        soundness.require(damaged)
        if is_fax(opened):
            return _read_fax(source, conversion, damaged)
        if not soundness.lacks_end:
            return _convert(source, pixels, conversion, soundness)
    with _open_checked(data + END_OF_IMAGE, max_pixels, hdr) as source:
        return _convert(source, None, conversion, soundness)


class _Conversion(NamedTuple):
    """The options of `read_image` that decide the pixels and the mask."""

    background: tuple[int, int, int]
    hdr: str
    keep_alpha: bool


class _Source(NamedTuple):
    """An opened image whose size and colours were checked, and the bytes of its file."""

    data: bytes
    opened: ImageFile.ImageFile
    declared: Declared


@contextmanager
def _open_checked(data: bytes, max_pixels: int, hdr: str) -> Iterator[_Source]:
    file = io.BytesIO(data)
    with open_image(file) as opened:
        check_size(opened, max_pixels)
        _refuse_thumbnail(opened)
        declared = read_declared(file, opened)
        refuse_hdr(declared.space, hdr)
        yield _Source(data, opened, declared)


def _read_fax(source: _Source, conversion: _Conversion, damaged: DamageChoice) -> SourceImage:
    """Reads a TIFF of a fax compression. Its damage is known only after it is decoded."""
    image, soundness = _watch_fax(source, lambda: _convert(source, None, conversion, SOUND))
    if soundness is SOUND:
        return image
    soundness.require(damaged)
    return replace(
        image,
        description=f"{image.description};damaged={Damage.CORRUPT.value}",
        warnings=(*image.warnings, *soundness.warn()),
        soundness=soundness,
    )


def _watch_fax(source: _Source, decode: Callable[[], T]) -> tuple[T, Soundness]:
    """Returns what `decode` makes of a fax, and whether the fax is damaged."""
    is_zeroed = holds_zeroed_strip(source.data, source.opened)
    reason = "zeros overwrite coded data" if is_zeroed else ""
    with watch_libtiff() as log:
        decoded = decode()
    reason = "bad code words" if log.complained else reason
    return decoded, Soundness(Damage.CORRUPT, reason, title="TIFF") if reason else SOUND


def _convert(
    source: _Source, pixels: Pixels | None, conversion: _Conversion, soundness: Soundness
) -> SourceImage:
    """Returns the image. `pixels` are its upright sRGB pixels, or None if Pillow must decode it."""
    data, opened, declared = source
    revision = describe_revision(opened, data)
    steps, alpha = {"orientation": "none", "color": color.SRGB, "alpha": "none"}, None
    if pixels is None:
        pixels, alpha, steps = _decode_pixels(data, opened, declared, conversion)
    frames = getattr(opened, "n_frames", 1)
    warnings = (*_warn(opened, frames, steps["color"]), *soundness.warn())
    steps["frame"] = f"1/{frames}"
    if soundness.damage is not None:
        steps["damaged"] = soundness.damage.value
    description = format_description({**steps, **revision})
    mask = alpha if conversion.keep_alpha else None
    return SourceImage(pixels, description, warnings, soundness=soundness, mask=mask)


def _is_plain_jpeg(opened: ImageFile.ImageFile) -> bool:
    """True if the image is an upright RGB JPEG without profile, so that it needs no conversion."""
    # The format is checked first, because other formats may decode the pixels to read the EXIF.
    if opened.format != "JPEG" or opened.mode != "RGB":
        return False
    return _find_profile(opened) is None and _read_orientation(opened) not in _UPRIGHT


def _decode_pixels(
    data: bytes,
    opened: ImageFile.ImageFile,
    declared: Declared,
    conversion: _Conversion,
) -> tuple[Pixels, Mask | None, dict[str, str]]:
    """Returns upright sRGB pixels [H, W, 3], their alpha [H, W], and the conversions.

    The alpha is None if the image is opaque. The conversions are keys and values.
    """
    needs_depth = declared.space is not None and not declared.space.is_srgb and is_deep(opened)
    levels = read_levels(data) if needs_depth else None
    upright, method = _load_upright(opened, declared)
    profile = _find_profile(opened)  # that of a JPEG XL comes with its pixels
    opaque, alpha = color.split_alpha(upright)
    if declared.space is not None:
        levels = None if levels is None else _turn_levels(levels, method)
        rgb, colors = color.convert_declared(
            opaque, declared.space, hdr=conversion.hdr, levels=levels
        )
    else:
        rgb, colors = color.convert_to_srgb(opaque, profile)
        colors = color.ASSUMED_SRGB if declared.is_unusable else colors
    pixels = np.array(rgb)  # a writable copy, [H, W, 3]
    turned = "none" if method is None else "applied"
    orientation = "decoder" if is_optional(opened) else turned
    steps = {"orientation": orientation, "color": colors, "alpha": "none"}
    if alpha is not None:
        pixels = color.composite(pixels, alpha, conversion.background)
        steps["alpha"] = f"composited-#{bytes(conversion.background).hex()}"
    return pixels, alpha, steps


def has_alpha(description: str) -> bool:
    """True if the image with this description is partly transparent."""
    return parse_description(description).get("alpha", "none") != "none"


def read_mask(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Mask:
    """Decodes the bytes of an image file to an upright mask [H, W]: its levels of gray.

    White counts wholly, black and transparent parts do not. Levels are not colours, so profiles and
    declared colours are ignored. Raises ImageError for the same files as `read_image`, and for a
    mask of the levels 0 and 1, whose writer took 1 for white; also if it has 16 bits.
    """
    with _open_checked(data, max_pixels, CLIP) as source:
        opened = source.opened
        is_jpeg = opened.format in ("JPEG", "MPO")
        soundness = check_jpeg(data, is_decoded=False) if is_jpeg else SOUND
        soundness.require("fail")
        if soundness.lacks_end:
            return read_mask(data + END_OF_IMAGE, max_pixels=max_pixels)
        if is_fax(opened):
            upright, soundness = _watch_fax(source, lambda: _load_upright(opened, source.declared))
            soundness.require("fail")
        else:
            upright = _load_upright(opened, source.declared)
        peak = int(np.asarray(opened).max()) if opened.mode.startswith("I") else 0
    levels = _measure_levels(upright[0])
    if levels.max() == 1:
        raise ImageError("holds only the levels 0 and 1; make what counts 255, which is white")
    if levels.max() == 0 and 0 < peak <= FULL:
        raise ImageError(f"holds no level above {peak} of 65535; make what counts 65535")
    return levels


def _measure_levels(image: Image.Image) -> Mask:
    opaque, alpha = color.split_alpha(image)
    is_gray = opaque.mode in ("1", "L")
    levels = np.array((opaque if is_gray else opaque.convert("RGB")).convert("L"))
    if alpha is None:
        return levels
    return ((levels.astype(np.uint16) * alpha + FULL // 2) // FULL).astype(np.uint8)


@dataclass(frozen=True)
class MaskFile:
    """The bytes of a mask file, and its name in messages."""

    data: bytes = field(repr=False)
    label: str

    def count_bytes(self) -> int:
        """Returns how much memory the file and its pixels need, in bytes. Raises ImageError."""
        with self._name_errors():
            return len(self.data) + 3 * math.prod(measure_image(self.data))

    def read(self, width: int, height: int, max_pixels: int) -> Mask:
        """Reads the mask for an image of this size; see `read_mask` and `fit_mask`."""
        with self._name_errors():
            return fit_mask(read_mask(self.data, max_pixels=max_pixels), width, height)

    @contextmanager
    def _name_errors(self) -> Iterator[None]:
        try:
            yield
        except ImageError as exc:
            raise ImageError(f"its mask {self.label}: {exc}", exc.details) from exc


def measure_image(data: bytes) -> tuple[int, int]:
    """Returns (width, height) from the header of an image file, before the image is turned.

    Raises ImageError if the format is not supported or the header is damaged.
    """
    file = io.BytesIO(data)
    with open_image(file) as opened:
        return _measure_kept(opened, read_declared(file, opened))


def _measure_kept(opened: ImageFile.ImageFile, declared: Declared) -> tuple[int, int]:
    """Returns (width, height) of the part of the image that the file says to keep."""
    if declared.crop is None:
        return opened.size
    left, top, right, bottom = declared.crop
    return right - left, bottom - top


def measure_file(
    path: str,
    *,
    max_pixels: int = MAX_PIXELS,
    upright: bool = False,
    hdr: str = REFUSE,
    check: Callable[[IO[bytes]], None] | None = None,
) -> tuple[int, int]:
    """Returns (width, height) of an image file. Reads no more of the file than necessary.

    If `upright` is true, returns the size after the image is turned upright. For a PNG, this means
    that the pixels must be decoded. `check` looks at the open file first, and may raise a
    DinacError. Raises ImageError for the same files as `read_image`, and
    OSError if the file cannot be opened.
    """
    with open(path, "rb") as file:
        if check is not None:
            check(file)
            file.seek(0)
        with open_image(file) as opened:
            check_size(opened, max_pixels)
            _refuse_thumbnail(opened)
            declared = read_declared(file, opened)
            refuse_hdr(declared.space, hdr)
            width, height = _measure_kept(opened, declared)
            # For a TIFF, Pillow already reports the size of the upright image.
            is_tiff = isinstance(opened, TiffImagePlugin.TiffImageFile)
            if upright and not is_tiff and _read_orientation(opened) in _TURNED:
                return height, width
            return width, height


def _load_upright(
    opened: ImageFile.ImageFile, declared: Declared
) -> tuple[Image.Image, Transpose | None]:
    """Decodes an image, crops it as the file says, and turns it upright.

    Returns the image, and how it was turned; None if it was upright.
    """
    if isinstance(opened, TiffImagePlugin.TiffImageFile):
        # When Pillow decodes a TIFF, it turns the image upright and removes the orientation tag.
        method = _UPRIGHT.get(_read_orientation(opened))
        load_image(opened)
        return color.reduce_depth(opened), method
    size = opened.size
    load_image(opened)
    if is_optional(opened) and opened.size != size:
        raise ValueError(f"decoded {opened.size} instead of {size}")  # `size` was checked
    image = color.reduce_depth(opened)
    if declared.crop is not None:
        image = image.crop(declared.crop)
    method = _UPRIGHT.get(_read_orientation(opened))
    return (image if method is None else image.transpose(method)), method


def _turn_levels(levels: NDArray[np.uint16], method: Transpose | None) -> NDArray[np.uint16]:
    """Turns [H, W, 3] as `Image.transpose` does."""
    if method in (Transpose.TRANSPOSE, Transpose.ROTATE_270, Transpose.ROTATE_90):
        levels = levels.swapaxes(0, 1)
    elif method is Transpose.TRANSVERSE:
        levels = levels.swapaxes(0, 1)[::-1, ::-1]
    if method in (Transpose.FLIP_LEFT_RIGHT, Transpose.ROTATE_180, Transpose.ROTATE_270):
        levels = levels[:, ::-1]
    if method in (Transpose.FLIP_TOP_BOTTOM, Transpose.ROTATE_180, Transpose.ROTATE_90):
        levels = levels[::-1]
    return levels


def _read_orientation(opened: ImageFile.ImageFile) -> object:
    if is_optional(opened):  # the decoder has turned the image as its container says
        return None
    try:
        if opened.format == "AVIF":
            # AVIF turns images by irot and imir only. Pillow writes them into the EXIF, but
            # `getexif` would also look into the XMP.
            exif = Image.Exif()
            exif.load(opened.info.get("exif", b""))
            return exif.get(ExifTags.Base.Orientation)
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


def _find_profile(opened: ImageFile.ImageFile) -> bytes | None:
    """Returns the ICC profile, None if there is no profile, or b"" if Pillow cannot unpack it."""
    return (opened.info["icc_profile"] or b"") if "icc_profile" in opened.info else None


def _warn(opened: ImageFile.ImageFile, frames: int, colors: str) -> Iterator[str]:
    # A JPEG from a phone (MPO) can also hold previews and depth maps. They do not count as frames.
    if frames > 1 and not isinstance(opened, MpoImagePlugin.MpoImageFile):
        if is_optional(opened):
            yield f"holds {frames} images: only the main one encoded"
        elif isinstance(opened, TiffImagePlugin.TiffImageFile):
            yield f"multi-page: only page 1 of {frames} encoded"
        else:
            yield f"animated: only frame 1 of {frames} encoded"
    if is_optional(opened) and getattr(opened, "is_animated", False):
        yield "animated: only the first frame encoded"
    if colors == color.ASSUMED_SRGB:
        kind = "colour description" if _find_profile(opened) is None else "ICC profile"
        yield f"unusable {kind} ignored; colours taken as sRGB"


def read_shaped(
    data: bytes,
    hold: Callable[[int], None],
    *,
    background: tuple[int, int, int],
    max_pixels: int,
    geometry: Geometry = NO_GEOMETRY,
    hdr: str = REFUSE,
    damaged: DamageChoice = "fail",
    keep_alpha: bool = False,
    mask: MaskFile | None = None,
) -> SourceImage:
    """Reads an image with `read_image` and applies `geometry` to it and to its mask.

    `mask` is a file with the mask of the image. `hold(size_bytes)` waits until the image and its
    files together may use `size_bytes` of memory. `hold` is called before the image is decoded.
    After that, it is called again with the final, smaller size. See `read_image` for `damaged` and
    `keep_alpha`. Raises ImageError.
    """
    plain = find_plain_jpeg(data)
    width, height = measure_image(data) if plain is None else plain.size
    scaled = math.prod(geometry.scale(width, height)) if geometry.changes_pixels else 0
    channels = 4 if keep_alpha or mask is not None else 3
    mask_bytes = 0 if mask is None else mask.count_bytes()
    hold(len(data) + channels * (width * height + scaled) + mask_bytes)
    image = None
    if plain is not None and width * height <= max_pixels:
        image = _read_plain_jpeg(data, plain)
    if image is None:
        image = read_image(
            data,
            background=background,
            max_pixels=max_pixels,
            hdr=hdr,
            damaged=damaged,
            keep_alpha=keep_alpha,
        )
    if mask is not None:
        height, width, _ = image.pixels.shape
        image = replace(image, mask=mask.read(width, height, max_pixels))
    if geometry.text:
        image = replace(
            image,
            pixels=geometry.apply(image.pixels),
            description=geometry.describe(image.description),
            upscaled=geometry.upscales(image.pixels.shape[1], image.pixels.shape[0]),
            mask=None if image.mask is None else geometry.apply_to_mask(image.mask),
        )
    hold(len(data) + image.pixels.nbytes + (0 if image.mask is None else image.mask.nbytes))
    return image


def _read_plain_jpeg(data: bytes, plain: PlainJpeg) -> SourceImage | None:
    """Reads a sound, plain JPEG. Returns None if `read_image` must decide.

    Takes half the time of `read_image`, because Pillow does not open the file.
    """
    pixels = decode_jpeg(data, plain.size)
    if pixels is None:
        return None
    is_whole = plain.has_one_scan and not holds_zero_run(data)
    if not is_whole and check_jpeg(data, is_decoded=True) is not SOUND:
        return None
    return SourceImage(pixels, _UNCONVERTED, ())


def hold_beside(hold: Callable[[int], None], kept_bytes: int) -> Callable[[int], None]:
    """Returns a `hold` function that adds `kept_bytes` to each size, for data already in memory."""
    return lambda size: hold(kept_bytes + size)
