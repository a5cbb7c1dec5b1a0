"""Decodes JPEGs with simplejpeg (the extra `fast`) if it gives the same pixels as Pillow."""

from __future__ import annotations

import functools
import io
import itertools
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from dinac_cli.images.pixels import Pixels

Decode = Callable[[bytes], Pixels]


def decode_jpeg(data: bytes, size: tuple[int, int]) -> Pixels | None:
    """Returns the pixels [H, W, 3] of an RGB JPEG, or None if Pillow must decode the file.

    `size` is the (width, height) that the header declares. Returns None if simplejpeg is not
    installed, if it does not give the pixels of Pillow, or if it refuses this file.
    """
    decode = find_decoder()
    if decode is None:
        return None
    try:
        pixels = decode(data)
    except Exception:  # Pillow then decides whether the file is damaged
        return None
    return pixels if pixels.shape == (size[1], size[0], 3) else None


@functools.cache
def find_decoder() -> Decode | None:
    """Returns simplejpeg's decoder if it is installed and gives exactly the pixels of Pillow.

    simplejpeg and Pillow contain different JPEG libraries, but the pixels of an image must not
    depend on the library. Therefore this function decodes a few small images with both, and
    compares the pixels.
    """
    try:
        import simplejpeg
    except ImportError:
        return None
    decode: Decode = functools.partial(
        simplejpeg.decode_jpeg, colorspace="RGB", fastdct=False, fastupsample=False
    )
    try:
        for data in _draw_samples():
            if not np.array_equal(decode(data), np.asarray(Image.open(io.BytesIO(data)))):
                return None
    except Exception:  # simplejpeg could not decode a valid sample, so dinac does not use it
        return None
    return decode


def _draw_samples() -> Iterator[bytes]:
    """Yields small JPEGs of odd size: one baseline and one progressive JPEG per subsampling."""
    pixels = np.random.default_rng(0).integers(0, 256, (45, 61, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    for subsampling, progressive in itertools.product(("4:4:4", "4:2:2", "4:2:0"), (False, True)):
        file = io.BytesIO()
        image.save(file, "JPEG", subsampling=subsampling, progressive=progressive, quality=90)
        yield file.getvalue()
