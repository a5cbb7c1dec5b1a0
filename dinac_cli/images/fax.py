"""Finds damage in TIFFs of the fax compressions, which libtiff only reports."""

from __future__ import annotations

import ctypes
import functools
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from PIL import ImageFile, TiffImagePlugin

_COMPRESSION, _STRIP_OFFSETS, _STRIP_SIZES = 259, 273, 279
_GROUP_3 = 3
_FAX = (2, _GROUP_3, 4, 32771)

# A code starts with 11 zero bits at most. Group 3 also allows zeros before the end of a line, which
# gave fax machines the time to print it. At the end of a strip, zeros are padding.
_ZEROED = re.compile(rb"\x00{16}[^\x00]", re.DOTALL)
_ZEROED_GROUP_3 = re.compile(rb"\x00{128}[^\x00]", re.DOTALL)

_Handler = ctypes.CFUNCTYPE(  # (client data, function, format of the message, its values)
    None, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p
)
_COMPLAINTS = (b"Bad code word", b"Premature EOF", b"Uncompressed data")


class _Log(threading.local):
    """Whether libtiff has complained in this thread since `complained` was set to false."""

    complained = False


_log = _Log()


def is_fax(opened: ImageFile.ImageFile) -> bool:
    """True if the image is a TIFF of a fax compression."""
    if not isinstance(opened, TiffImagePlugin.TiffImageFile):
        return False
    return opened.tag_v2.get(_COMPRESSION) in _FAX


def holds_zeroed_strip(data: bytes, opened: ImageFile.ImageFile) -> bool:
    """True if zeros overwrite coded data of a fax TIFF. `data` is the file."""
    assert isinstance(opened, TiffImagePlugin.TiffImageFile)
    tags = opened.tag_v2
    zeroed = _ZEROED_GROUP_3 if tags.get(_COMPRESSION) == _GROUP_3 else _ZEROED
    strips = zip(tags.get(_STRIP_OFFSETS, ()), tags.get(_STRIP_SIZES, ()), strict=False)
    return any(zeroed.search(data, start, start + size) is not None for start, size in strips)


@contextmanager
def watch_libtiff() -> Iterator[_Log]:
    """Notes whether libtiff complains of bad code words in this thread, in the `with` block.

    If libtiff cannot be found, as on Windows, notes nothing.
    """
    _install_handler()
    _log.complained = False
    yield _log


@functools.cache
def _install_handler() -> object:
    """Adds a handler to those of libtiff; it stays. Returns the handler, or None.

    libtiff calls it in the thread that decodes, beside the handler that prints.
    """
    handler = _Handler(_note)
    try:
        library = ctypes.CDLL(import_module("PIL._imaging").__file__)
        setters = [library.TIFFSetErrorHandlerExt, library.TIFFSetWarningHandlerExt]
    except (OSError, AttributeError, TypeError):
        return None
    for setter in setters:
        setter.argtypes, setter.restype = [_Handler], ctypes.c_void_p
        setter(handler)
    return handler


def _note(_data: object, function: bytes | None, text: bytes | None, _values: object) -> None:
    if (function or b"").startswith(b"Fax") and (text or b"").startswith(_COMPLAINTS):
        _log.complained = True
