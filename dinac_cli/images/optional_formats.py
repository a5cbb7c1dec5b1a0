"""Opens HEIC and JPEG XL with the packages of the extra `formats`, as Pillow images.

The packages are imported when the first such file is opened. Both decoders turn the image upright
as its container says. Like browsers, dinac ignores the EXIF orientation of these formats.
"""

from __future__ import annotations

from typing import IO, Any

import numpy as np
from PIL import Image, ImageFile

from dinac_cli.errors import ImageError
from dinac_cli.images.heic import HeicImageFile, has_decoder
from dinac_cli.images.jxl_header import JxlHeader, read_header

HEIC, JPEG_XL = "HEIC", "JPEG XL"

_CODES = "coded_colors"  # the key of Image.info
_UNSPECIFIED = 2

_SRGB_PRIMARIES = (1, _UNSPECIFIED)
# The curves of BT.709, BT.601 and BT.2020 describe cameras. Displays show such images as sRGB.
_SRGB_TRANSFERS = (1, _UNSPECIFIED, 6, 13, 14, 15)


def open_heic(file: IO[bytes]) -> ImageFile.ImageFile:
    """Opens a HEIC image with pi-heif. Does not decode the pixels.

    Raises ImageError if pi-heif is not installed.
    """
    if not has_decoder():
        raise _missing_package(HEIC)
    return HeicImageFile(file)


def open_jxl(file: IO[bytes]) -> ImageFile.ImageFile:
    """Opens a JPEG XL image with pylibjxl. Does not decode the pixels.

    Raises ImageError if pylibjxl is not installed, or if dinac does not know the colours.
    """
    try:
        import pylibjxl  # noqa: F401
    except ImportError as exc:
        raise _missing_package(JPEG_XL) from exc
    return JxlImageFile(file)


def is_optional(opened: Image.Image) -> bool:
    """True if the image is a HEIC or a JPEG XL."""
    return opened.format in (HeicImageFile.format, JxlImageFile.format)


def find_codes(opened: Image.Image) -> tuple[int, int] | None:
    """Returns the colours that a HEIC or JPEG XL declares without an ICC profile.

    They are the (primaries, transfer) of ITU-T H.273; None if the file declares none, or if it has
    an ICC profile, which comes first.
    """
    return None if "icc_profile" in opened.info else opened.info.get(_CODES)


def refuse_other_colors(opened: Image.Image) -> None:
    """Raises ImageError if the image declares other colours than sRGB without an ICC profile."""
    codes = find_codes(opened)
    if codes is None or (codes[0] in _SRGB_PRIMARIES and codes[1] in _SRGB_TRANSFERS):
        return
    raise ImageError(
        f"its colours (H.273 primaries {codes[0]}, curve {codes[1]}) are not supported; "
        "convert the image to sRGB, or add an ICC profile"
    )


def _missing_package(title: str) -> ImageError:
    return ImageError(
        f"{title} is not supported without an extra; pip install 'dinac-cli[formats]', "
        "or convert the image to PNG or JPEG"
    )


class JxlImageFile(ImageFile.ImageFile):
    """A JPEG XL image. Its size is that of the upright image."""

    format = "JXL"
    format_description = "JPEG XL"

    def _open(self) -> None:
        assert self.fp is not None, "Pillow sets the file"
        header = read_header(self.fp)
        _refuse_unknown_colors(header)
        self.is_animated = header.is_animated
        self._size = (header.width, header.height)
        self._mode = _choose_mode(header)
        self._has_profile = header.has_profile
        if header.codes is not None:
            self.info[_CODES] = header.codes
        self.tile = []

    def load(self) -> Any:
        if self._im is None and self.fp is not None:
            self.fp.seek(0)
            pixels, profile = _decode(self.fp.read())
            expected = (self.height, self.width, len(self.getbands()))
            if pixels.reshape(*pixels.shape[:2], -1).shape != expected:
                raise ValueError(f"decoded {pixels.shape} instead of {expected}")
            if self._has_profile:
                self.info["icc_profile"] = profile
            self.load_prepare()
            self.frombytes(pixels.tobytes())
        return super().load()


def _decode(data: bytes) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], bytes]:
    """Returns the upright pixels, [H, W] or [H, W, C], and the ICC profile (b"" without one)."""
    import pylibjxl

    pixels, metadata = pylibjxl.decode(data, metadata=True)
    return np.asarray(pixels, dtype=np.uint8), metadata.get("icc", b"")


def _choose_mode(header: JxlHeader) -> str:
    """Returns Pillow's mode. `La` and `RGBa` are premultiplied."""
    color = "L" if header.is_gray else "RGB"
    if not header.has_alpha:
        return color
    return color + ("a" if header.is_premultiplied else "A")


def _refuse_unknown_colors(header: JxlHeader) -> None:
    if header.has_black:
        raise ImageError("a CMYK JPEG XL is not supported; convert the image to PNG or JPEG")
    if header.codes is None and not header.has_profile:
        raise ImageError(
            "its own primaries or gamma are not supported; convert the image to sRGB as PNG"
        )
