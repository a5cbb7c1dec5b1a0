"""JPEG decoding by simplejpeg (the extra `fast`), used only if its pixels equal Pillow's."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

# Pillow's numbers for the chroma subsamplings 4:4:4, 4:2:2 and 4:2:0.
_SUBSAMPLINGS = (0, 1, 2)

Decode = Callable[[bytes], NDArray[np.uint8]]


def decode_jpeg(data: bytes, opened: ImageFile.ImageFile) -> NDArray[np.uint8] | None:
    """Returns the pixels [H, W, 3] of an RGB JPEG, or None if Pillow has to decode it.

    `opened` is the same file, opened by Pillow and not yet decoded. Returns None if simplejpeg is
    not installed, if its pixels differ from Pillow's, and for any file that it refuses: Pillow
    then reports the error.
    """
    decode = _find_decoder()
    if decode is None:
        return None
    try:
        pixels = decode(data)
    except Exception:  # Pillow decides whether the file is damaged
        return None
    return pixels if pixels.shape == (opened.height, opened.width, 3) else None


@functools.cache
def _find_decoder() -> Decode | None:
    """Returns simplejpeg's decoder if it is installed and agrees with Pillow to the last bit.

    Each brings its own JPEG library, and the pixels of an image must not depend on the library.
    Both therefore decode a few small images first.
    """
    try:
        import simplejpeg
    except ImportError:
        return None

    def decode(data: bytes) -> NDArray[np.uint8]:
        pixels: Any = simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False)
        return np.asarray(pixels, dtype=np.uint8)

    return decode if all(map(functools.partial(_agrees, decode), _draw_samples())) else None


def _agrees(decode: Decode, data: bytes) -> bool:
    try:
        return np.array_equal(decode(data), np.asarray(Image.open(io.BytesIO(data))))
    except Exception:  # a decoder that fails on a valid file is not used
        return False


def _draw_samples() -> list[bytes]:
    """Returns small JPEGs of an odd size in each subsampling, baseline and progressive."""
    pixels = np.random.default_rng(0).integers(0, 256, (45, 61, 3), dtype=np.uint8)
    samples = []
    for subsampling in _SUBSAMPLINGS:
        for progressive in (False, True):
            file = io.BytesIO()
            image = Image.fromarray(pixels)
            image.save(file, "JPEG", subsampling=subsampling, progressive=progressive, quality=90)
            samples.append(file.getvalue())
    return samples
