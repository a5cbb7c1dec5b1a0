"""Open hostile image bytes with Pillow: listed formats alone, our own limit, one kind of error."""

from __future__ import annotations

import io
import logging
import re
import struct
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
    PngImagePlugin,
    PpmImagePlugin,
    QoiImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from dinac_cli.errors import ImageError
from dinac_cli.images.formats import (
    HEAD_BYTES,
    MAX_PIXELS,
    detect_format,
    detect_unreadable,
)


def _open_webp(file: IO[bytes]) -> ImageFile.ImageFile:
    """Tell a cut file from a damaged one, which libwebp does not."""
    declared = int.from_bytes(file.read(12)[4:8], "little") + 8
    if file.seek(0, io.SEEK_END) < declared:
        raise EOFError
    file.seek(0)
    return WebPImagePlugin.WebPImageFile(file)


# Called directly and not through Image.open: that one applies a limit which is one global of the
# process, and asks every plugin that somebody has registered.
_OPENERS: Mapping[str, Callable[[IO[bytes]], ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.jpeg_factory,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": _open_webp,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
    "JPEG2000": Jpeg2KImagePlugin.Jpeg2KImageFile,
    "QOI": QoiImagePlugin.QoiImageFile,
}

_PILLOW_MODULES = re.compile(r"PIL\.")

_filters_lock = threading.Lock()
_limit_lock = threading.Lock()


def identify_image(head: bytes) -> str:
    """Name the format that a file's first bytes belong to; ImageError if none that is read."""
    if not head:
        raise ImageError("empty file (0 bytes)")
    if kind := detect_format(head[:HEAD_BYTES]):
        return kind
    if foreign := detect_unreadable(head[:HEAD_BYTES]):
        raise ImageError(f"{foreign} images are not supported: convert it to PNG or JPEG first")
    raise ImageError("not an image (no known image format)")


def open_image(kind: str, file: IO[bytes]) -> ImageFile.ImageFile:
    """Parse the header of a file of the named format; its pixels are not decoded yet.

    To be called, like everything done with the result, inside `image_errors`.
    """
    return _OPENERS[kind](file)


def check_size(image: Image.Image, max_pixels: int) -> None:
    """Refuse an image whose header declares more than `max_pixels` pixels."""
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            f"{width}x{height} is {width * height} pixels, more than the limit of {max_pixels}"
            " (raise it with --max-pixels)"
        )


def load_image(image: ImageFile.ImageFile) -> None:
    """Decode the pixels of the first frame, in place."""
    with _pillow_limit_lifted(image.width * image.height):
        image.load()


@contextmanager
def _pillow_limit_lifted(pixels: int) -> Iterator[None]:
    """Let Pillow's TIFF and GIF decoders, which check its global limit again, pass a large image.

    One large image at a time, so that two threads cannot restore each other's limit.
    """
    if pixels <= MAX_PIXELS:
        yield
        return
    with _limit_lock:
        kept, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = kept


@contextmanager
def image_errors(kind: str) -> Iterator[None]:
    """Turn whatever Pillow raises on a bad file into an ImageError of one line.

    Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, KeyError, MemoryError
    and more, as the damage has it; nothing narrower than Exception covers them.
    """
    _quiet_pillow()
    try:
        yield
    except ImageError:
        raise
    except Exception as exc:
        raise ImageError(_describe(kind, exc)) from exc


def _describe(kind: str, exc: Exception) -> str:
    if isinstance(exc, MemoryError):
        return f"not enough memory to decode this {kind} file"
    if _means_truncated(exc) or (exc.__cause__ and _means_truncated(exc.__cause__)):
        return f"truncated {kind} file"
    words = " ".join((str(exc) or type(exc).__name__).split())
    if words.isdigit():  # the missing key of a KeyError
        words = f"unknown value {words}"
    detail = "".join(c if c.isprintable() else "?" for c in words)[:160]
    return f"cannot decode this {kind} file ({detail})"


def _means_truncated(exc: BaseException) -> bool:
    message = str(exc).lower()
    return isinstance(exc, (EOFError, IndexError, struct.error)) or any(
        phrase in message for phrase in ("truncated", "not enough image data", "reached eof")
    )


def _quiet_pillow() -> None:
    """Keep what Pillow says about odd metadata off the screen.

    warnings.catch_warnings is not thread-safe, and images are read by many threads; a filter that
    stays is. It leaves DecompressionBombWarning, which is no UserWarning, as the program set it.
    """
    with _filters_lock:
        if ("ignore", None, UserWarning, _PILLOW_MODULES, 0) not in warnings.filters:
            warnings.filterwarnings("ignore", "", UserWarning, _PILLOW_MODULES.pattern)
        logger = logging.getLogger("PIL")
        if not logger.handlers:  # else Python prints the errors of a logger that nobody set up
            logger.addHandler(logging.NullHandler())
