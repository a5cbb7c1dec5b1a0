"""Mutants of image files, and the checks on reading one."""

from __future__ import annotations

import functools
import io
import random
import zlib

import numpy as np
from PIL import Image

from dinac_cli.errors import ImageError
from dinac_cli.images.reading import measure_image, read_image
from tests.fuzzing.mutation import mutate_bytes

MAX_PIXELS = 4_000_000
"""The limit that mutants are read with: 12 MB of pixels, whatever their headers declare."""

_FORMATS: tuple[tuple[str, str, dict[str, object]], ...] = (
    ("JPEG", "RGB", {}),
    ("JPEG", "L", {"progressive": True}),
    ("JPEG", "CMYK", {}),
    ("PNG", "RGB", {}),
    ("PNG", "RGBA", {}),
    ("PNG", "P", {}),
    ("PNG", "1", {}),
    ("PNG", "I;16", {}),
    ("WEBP", "RGB", {}),
    ("WEBP", "RGBA", {"lossless": True}),
    ("AVIF", "RGB", {}),
    ("GIF", "P", {}),
    ("TIFF", "RGB", {}),
    ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    ("TIFF", "L", {"compression": "tiff_adobe_deflate"}),
    ("TIFF", "F", {}),
    ("BMP", "RGB", {}),
    ("BMP", "P", {}),
    ("PPM", "RGB", {}),
    ("JPEG2000", "RGB", {}),
    ("JPEG2000", "RGB", {"no_jp2": True}),
    ("QOI", "RGB", {}),
)


@functools.cache
def list_seeds() -> list[bytes]:
    """Returns small valid images of every format and many modes, some with metadata."""
    rng = np.random.default_rng(0)
    smooth = np.linspace(0, 200, 19 * 23 * 3).reshape(19, 23, 3)
    image = Image.fromarray((smooth + rng.integers(0, 40, smooth.shape)).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    seeds = []
    for name, mode, options in _FORMATS:
        shown = _convert(image, mode)
        for extra in ({}, {"exif": exif} if name in ("JPEG", "PNG", "WEBP") else None):
            if extra is not None:
                file = io.BytesIO()
                shown.save(file, name, **options, **extra)
                seeds.append(file.getvalue())
    return seeds


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if mode == "F":  # floating point pixels are 0 to 1
        return image.convert("L").convert("F").point(lambda value: value * (1 / 255))
    return image.convert("L").convert(mode) if mode == "I;16" else image.convert(mode)


def mutate_image(rng: random.Random, data: bytes, other: bytes) -> tuple[bytes, bool]:
    """Returns a mutant of an image file, and whether its checksums were repaired (PNG only)."""
    changed = mutate_bytes(rng, data, other)
    if data.startswith(b"\x89PNG") and rng.random() < 0.7:
        return _repair_checksums(changed), True
    return changed, False


def check_image(data: bytes) -> str:
    """Reads a mutant; returns "accepted" or the first word of the error.

    Any exception but ImageError is a bug in the reader.
    """
    try:
        measure_image(data)
        source = read_image(data, max_pixels=MAX_PIXELS)
    except ImageError as exc:
        return _require_one_line(exc).partition(" ")[0]
    height, width, channels = source.pixels.shape
    assert channels == 3
    assert 0 < height * width <= MAX_PIXELS
    assert source.pixels.dtype == np.uint8
    return "accepted"


def _require_one_line(exc: ImageError) -> str:
    assert "\n" not in str(exc)
    return str(exc)


def _repair_checksums(data: bytes) -> bytes:
    """Returns the chunks of a PNG with correct checksums."""
    pieces, at = [data[:8]], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        body = data[at + 4 : at + 8 + size]
        pieces.append(data[at : at + 4] + body + zlib.crc32(body).to_bytes(4, "big"))
        at += 12 + size
    return b"".join(pieces)
