"""Writes pixels as the bytes of an image file, with a stamp if the format can hold one."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dinac_cli.errors import ImageError
from dinac_cli.images.formats import OUTPUT_FORMATS, OutputFormat
from dinac_cli.images.stamp import insert_png_stamp, pack_xmp, seal_xmp

_XMP_TAG = 700


def write_image(
    pixels: NDArray[np.uint8], format_name: str, *, stamp: Mapping[str, str] | None = None
) -> bytes:
    """Encodes uint8 sRGB `pixels` [H, W, 3] in one of `OUTPUT_FORMATS`.

    Embeds `stamp` if the format can hold it (`OutputFormat.has_stamp`), and no other metadata.
    Raises ImageError if the format cannot hold an image of this size.
    """
    output = OUTPUT_FORMATS[format_name]
    if stamp is None or not output.has_stamp:
        return _save(pixels, output)
    if output.pillow == "PNG":
        return insert_png_stamp(_save(pixels, output), stamp)
    data = _save(pixels, output, **_xmp_option(output, pack_xmp(stamp)))
    return seal_xmp(data, stamp)


def _xmp_option(output: OutputFormat, packet: bytes) -> dict[str, object]:
    return {"tiffinfo": {_XMP_TAG: packet}} if output.pillow == "TIFF" else {"xmp": packet}


def _save(pixels: NDArray[np.uint8], output: OutputFormat, **options: object) -> bytes:
    file = io.BytesIO()
    try:
        Image.fromarray(pixels).save(file, output.pillow, **output.save_options, **options)
    except (OSError, ValueError, RuntimeError, MemoryError) as exc:
        height, width, _ = pixels.shape
        reason = " ".join(str(exc).split())
        raise ImageError(f"cannot write {width}x{height} as {output.name} ({reason})") from exc
    return file.getvalue()
