"""Opens untrusted image files with Pillow.

This module opens only the formats of `_OPENERS`. It has its own size limit, and raises only
ImageError.
"""

from __future__ import annotations

import io
import logging
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    QoiImagePlugin,
    WebPImagePlugin,
)

from dinac_cli.errors import ImageError, quote_error
from dinac_cli.images.formats import (
    HEAD_BYTES,
    MAX_PIXELS,
    detect_format,
    detect_optional,
    detect_unreadable,
)
from dinac_cli.images.optional_formats import HEIC, JPEG_XL, open_heic, open_jxl
from dinac_cli.images.pfm import PpmFile
from dinac_cli.images.png import PngFile
from dinac_cli.images.tiff import open_tiff


def _open_webp(file: IO[bytes]) -> ImageFile.ImageFile:
    """Opens a WebP. Raises EOFError if it is truncated; libwebp would only report damage."""
    declared = int.from_bytes(file.read(12)[4:8], "little") + 8
    if file.seek(0, io.SEEK_END) < declared:
        raise EOFError
    file.seek(0)
    return WebPImagePlugin.WebPImageFile(file)


# Image.open is not used, because it applies a process-wide limit and tries every registered plugin.
_OPENERS: Mapping[str, Callable[[IO[bytes]], ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.jpeg_factory,
    "PNG": PngFile,
    "WEBP": _open_webp,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "TIFF": open_tiff,
    "BMP": BmpImagePlugin.BmpImageFile,
    "PPM": PpmFile,
    "JPEG2000": Jpeg2KImagePlugin.Jpeg2KImageFile,
    "QOI": QoiImagePlugin.QoiImageFile,
    HEIC: open_heic,
    JPEG_XL: open_jxl,
}

_TITLES = {"WEBP": "WebP", "JPEG2000": "JPEG 2000"}

# Pillow has no classes for the reasons of a failure, so its messages are matched. The first match
# decides. The patterns also match the class: a KeyError, for example, is a value of a TIFF tag that
# Pillow does not know.
_EXPLANATIONS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), explanation)
    for pattern, explanation in (
        (
            r"\.MemoryError|out of memory",
            "not enough memory to decode this {} file; use fewer --workers",
        ),
        (
            r"\.DecompressionBomb|security limit",
            "this {} file holds a frame of too many pixels; scale it down, or save it as PNG",
        ),
        (
            r"\.(EOFError|IndexError)|struct\.error|truncated|not enough|reached EOF|only got"
            r"|incomplete|unexpected end of file|insufficient input",
            "truncated {} file; copy or download it again",
        ),
        (
            r"\.(KeyError|NotImplementedError)|unsupported|not (yet )?(supported|implemented)"
            r"|no codec|cannot handle|unknown (pixel mode|raw mode|compression|NCLX)"
            r"|unable to determine",
            "this kind of {} file is not supported; convert the image to PNG or JPEG",
        ),
        # libtiff reports every failure as this number, for example an unknown compression.
        (
            r"decoder error -",
            "damaged {} file, or its compression is not supported; "
            "copy it again, or convert it to PNG",
        ),
    )
)

_PILLOW_MODULES = re.compile(r"PIL\.")

_filters_lock = threading.Lock()
_limit_lock = threading.Lock()


@contextmanager
def open_image(file: IO[bytes]) -> Iterator[ImageFile.ImageFile]:
    """Opens an image file of any supported format. Does not decode the pixels.

    Every error becomes an ImageError with a one-line message; its details quote Pillow. This
    includes errors in the `with` block. For damaged files, Pillow raises OSError, SyntaxError,
    ValueError, struct.error, KeyError, MemoryError and other errors. Only Exception covers all of
    them.
    """
    kind = _identify(file.read(HEAD_BYTES))
    file.seek(0)
    _quiet_pillow()
    try:
        yield _OPENERS[kind](file)
    except ImageError:
        raise
    except Exception as exc:
        chain = [error for error in (exc, exc.__cause__) if error is not None]
        raise ImageError(_explain(kind, chain), [quote_error(error) for error in chain]) from exc


def _identify(head: bytes) -> str:
    if not head:
        raise ImageError("empty file (0 bytes); copy or download it again")
    if kind := detect_format(head) or detect_optional(head):
        return kind
    if foreign := detect_unreadable(head):
        raise ImageError(f"{foreign} is not supported; convert the image to PNG or JPEG")
    raise ImageError("not an image (no known image format); see 'dinac man images'")


def check_size(image: Image.Image, max_pixels: int) -> None:
    """Raises ImageError if the header declares more than `max_pixels` pixels."""
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            f"{width}x{height} is {width * height} pixels, more than the limit of {max_pixels}"
            " (raise it with --max-pixels)"
        )


def load_image(image: ImageFile.ImageFile) -> None:
    """Decodes the pixels of the first frame into `image`.

    Pillow's TIFF and GIF decoders check Pillow's global limit again, so this function removes that
    limit while it decodes a large image. Only one large image is decoded at a time, because a
    thread must not restore the limit while another thread still decodes.
    """
    if image.width * image.height <= MAX_PIXELS:
        image.load()
        return
    with _limit_lock:
        kept, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image.load()
        finally:
            Image.MAX_IMAGE_PIXELS = kept


def _explain(kind: str, chain: list[BaseException]) -> str:
    """Says in plain words what Pillow's error means, and what the user can do about it.

    `chain` is the error and its cause: Pillow often wraps the first error in a SyntaxError.
    """
    title = _TITLES.get(kind, kind)
    for pattern, explanation in _EXPLANATIONS:
        if any(pattern.search(_show(error)) for error in chain):
            return explanation.format(title)
    return f"damaged {title} file; copy or download it again"


def _show(exc: BaseException) -> str:
    return f"{type(exc).__module__}.{type(exc).__qualname__}: {exc}"


def _quiet_pillow() -> None:
    """Silences Pillow's warnings and log messages about odd metadata.

    The filter is permanent, because many threads read images and warnings.catch_warnings is not
    thread-safe. The filter does not hide DecompressionBombWarning, because that is not a
    UserWarning.
    """
    with _filters_lock:
        if ("ignore", None, UserWarning, _PILLOW_MODULES, 0) not in warnings.filters:
            warnings.filterwarnings("ignore", "", UserWarning, _PILLOW_MODULES.pattern)
        logger = logging.getLogger("PIL")
        if not logger.handlers:  # without a handler, Python would print Pillow's errors
            logger.addHandler(logging.NullHandler())
