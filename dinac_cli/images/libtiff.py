"""Uses libtiff, the library that Pillow contains, for two tasks that Pillow has no function for."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

from PIL import _imaging


@functools.cache
def silence_libtiff() -> bool:
    """Stops libtiff from writing to standard error. Returns false if libtiff cannot be found.

    libtiff accepts a null pointer as its error handler and as its warning handler. Thus libtiff
    never calls Python, and this function is safe with threads. It applies to the whole process.
    """
    setters = [_find_function(name) for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler")]
    if None in setters:
        return False
    for setter in setters:
        assert setter is not None
        setter(None)
    return True


def has_codec(compression: int) -> bool | None:
    """True if libtiff can decode this value of the tag Compression. None if that is unknown."""
    ask = _find_function("TIFFIsCODECConfigured")
    return None if ask is None or not 0 <= compression <= 0xFFFF else bool(ask(compression))


_SIGNATURES: dict[str, tuple[type, type]] = {  # result, argument
    "TIFFSetErrorHandler": (ctypes.c_void_p, ctypes.c_void_p),
    "TIFFSetWarningHandler": (ctypes.c_void_p, ctypes.c_void_p),
    "TIFFIsCODECConfigured": (ctypes.c_int, ctypes.c_uint16),
}


@functools.cache
def _find_function(name: str) -> Callable[[int | None], int | None] | None:
    """Returns a function of the libtiff that Pillow uses, or None if the function is hidden.

    On Linux and macOS, the search covers the libraries that Pillow's extension module is linked
    with, and nothing else is loaded. On Windows, libtiff is a hidden part of the extension module.
    """
    try:
        function = getattr(ctypes.CDLL(_imaging.__file__), name)
    except (OSError, AttributeError, TypeError):
        return None
    function.restype, argument = _SIGNATURES[name]
    function.argtypes = [argument]
    found: Callable[[int | None], int | None] = function
    return found
