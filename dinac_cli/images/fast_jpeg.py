"""JPEG pixels by simplejpeg (the extra `fast`), where they are the same as Pillow's."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

# 4:4:4, 4:2:2 and 4:2:0 (by Pillow's numbers): what an encoder may have done to the colours.
_SUBSAMPLINGS = (0, 1, 2)

Decode = Callable[[bytes], NDArray[np.uint8]]


def decode_jpeg(data: bytes, opened: ImageFile.ImageFile) -> NDArray[np.uint8] | None:
    """The pixels [H, W, 3] of an RGB JPEG; None where Pillow has to decode it.

    `opened` is the same file as Pillow sees it, not decoded yet. None without simplejpeg, where
    its pixels are not Pillow's, and for anything that it refuses: what is wrong with a damaged
    file, Pillow then says.
    """
    decode = _find_decoder()
    if decode is None:
        return None
    try:
        pixels = decode(data)
    except Exception:  # whatever it has against this file, Pillow has the last word
        return None
    return pixels if pixels.shape == (opened.height, opened.width, 3) else None


@functools.cache
def _find_decoder() -> Decode | None:
    """simplejpeg's decoder, if it is installed and agrees with Pillow to the last bit here.

    The two bring a JPEG library each. An image's bytes must not depend on which one read it, so
    both decode a few small images first.
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
    except Exception:  # a decoder that fails on a sound file is of no use
        return False


def _draw_samples() -> list[bytes]:
    """Small JPEGs of odd sizes in each subsampling, baseline and progressive."""
    pixels = np.random.default_rng(0).integers(0, 256, (45, 61, 3), dtype=np.uint8)
    samples = []
    for subsampling in _SUBSAMPLINGS:
        for progressive in (False, True):
            file = io.BytesIO()
            image = Image.fromarray(pixels)
            image.save(file, "JPEG", subsampling=subsampling, progressive=progressive, quality=90)
            samples.append(file.getvalue())
    return samples
