"""Opens HEIC and JPEG XL with the packages of the extra `formats`, as Pillow images.

The packages are imported when the first such file is opened. Both decoders turn the image upright
as its container says. Like browsers, dinac ignores the EXIF orientation of these formats.
"""

from __future__ import annotations

from typing import IO, Any

import numpy as np
from PIL import Image, ImageFile

from dinac_cli.errors import ImageError
from dinac_cli.images.color_space import ColorSpace
from dinac_cli.images.heic import HeicImageFile, has_decoder
from dinac_cli.images.jxl_header import JxlHeader, read_header

HEIC, JPEG_XL = "HEIC", "JPEG XL"


def open_heic(file: IO[bytes]) -> ImageFile.ImageFile:
    """Opens a HEIC image with pi-heif. Does not decode the pixels.

    Raises ImageError if pi-heif is not installed.
    """
    if not has_decoder():
        raise _missing_package(HEIC)
    return HeicImageFile(file)


def open_jxl(file: IO[bytes]) -> ImageFile.ImageFile:
    """Opens a JPEG XL image with pylibjxl. Does not decode the pixels.

    Raises ImageError if pylibjxl is not installed, or if it cannot give the colours.
    """
    try:
        import pylibjxl  # noqa: F401
    except ImportError as exc:
        raise _missing_package(JPEG_XL) from exc
    return JxlImageFile(file)


def is_optional(opened: Image.Image) -> bool:
    """True if the image is a HEIC or a JPEG XL."""
    return opened.format in (HeicImageFile.format, JxlImageFile.format)


def list_missing_packages() -> dict[str, str]:
    """Returns the packages that are not installed, and the format that each of them reads."""
    missing = {} if has_decoder() else {"pi-heif": HEIC}
    try:
        import pylibjxl  # noqa: F401
    except ImportError:
        missing["pylibjxl"] = JPEG_XL
    return missing


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
        _refuse_colors(header)
        self.is_animated = header.is_animated
        self._size = (header.width, header.height)
        self._mode = _choose_mode(header)
        self._header = header
        self.tile = []

    def find_space(self) -> ColorSpace | None:
        """Returns the colours that the file declares, or None if it has an ICC profile."""
        return self._header.space

    def load(self) -> Any:
        if self._im is None and self.fp is not None:
            self.fp.seek(0)
            pixels, profile = _decode(self.fp.read())
            expected = (self.height, self.width, len(self.getbands()))
            if pixels.reshape(*pixels.shape[:2], -1).shape != expected:
                raise ValueError(f"decoded {pixels.shape} instead of {expected}")
            if self._header.has_profile:
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


def _refuse_colors(header: JxlHeader) -> None:
    if header.has_black:
        reason = "a CMYK JPEG XL"
    elif header.has_profile and header.is_xyb:  # the decoder gives 8 bits of linear light
        reason = "a lossy JPEG XL with an ICC profile"
    elif not header.has_profile and header.space is None:
        reason = "a JPEG XL of unknown colours"
    else:
        return
    raise ImageError(f"{reason} is not supported; convert the image to PNG or JPEG")
