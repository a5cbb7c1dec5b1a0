"""Encodes pixels as an image file, with a stamp if the format can hold one."""

from __future__ import annotations

import io
from collections.abc import Mapping

from PIL import Image

from dinac_cli.errors import ImageError
from dinac_cli.images.formats import OUTPUT_FORMATS, OutputFormat
from dinac_cli.images.pixels import Pixels
from dinac_cli.images.stamp import insert_png_stamp, pack_xmp, seal_xmp


def write_image(
    pixels: Pixels, format_name: str, *, stamp: Mapping[str, str] | None = None
) -> bytes:
    """Encodes uint8 sRGB `pixels` [H, W, 3] in one of `OUTPUT_FORMATS`.

    Embeds `stamp` if the format can hold a stamp (`OutputFormat.has_stamp`). Embeds no other
    metadata. Raises ImageError if the format cannot hold an image of this size.
    """
    output = OUTPUT_FORMATS[format_name]
    if stamp is None or not output.has_stamp:
        return _save(pixels, output)
    if output.pillow == "PNG":
        return insert_png_stamp(_save(pixels, output), stamp)
    xmp = pack_xmp(stamp)
    if output.pillow == "TIFF":
        data = _save(pixels, output, tiffinfo={700: xmp})  # 700 is TIFF's tag for XMP
    else:
        data = _save(pixels, output, xmp=xmp)
    return seal_xmp(data, stamp)


def _save(pixels: Pixels, output: OutputFormat, **options: object) -> bytes:
    file = io.BytesIO()
    try:
        Image.fromarray(pixels).save(file, output.pillow, **output.save_options, **options)
    except (OSError, ValueError, RuntimeError, MemoryError) as exc:
        height, width, _ = pixels.shape
        reason = " ".join(str(exc).split())
        raise ImageError(f"cannot write {width}x{height} as {output.name} ({reason})") from exc
    return file.getvalue()
