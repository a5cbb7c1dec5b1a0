"""Encodes pixels as an image file, with a stamp that identifies its record."""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import partial

from PIL import Image

from dinac_cli.errors import ImageError, quote_error
from dinac_cli.images.formats import OUTPUT_FORMATS, OutputFormat
from dinac_cli.images.pixels import Pixels
from dinac_cli.images.stamp import INSERTED_FORMATS, insert_stamp, pack_xmp, seal_xmp


def write_image(
    pixels: Pixels,
    format_name: str,
    *,
    quality: int | None = None,
    stamp: Mapping[str, str] | None = None,
) -> bytes:
    """Encodes uint8 sRGB `pixels` [H, W, 3] in one of `OUTPUT_FORMATS`.

    `quality` is 1 to 100; None means the default of the format, and is the only value for formats
    without `lossy_options`. Embeds `stamp` and no other metadata. Raises ImageError if the format
    cannot hold an image of this size.
    """
    output = OUTPUT_FORMATS[format_name]
    _check_size(pixels, output)
    save = partial(_save, pixels, output, **output.choose_options(quality))
    if stamp is None:
        return save()
    if output.pillow in INSERTED_FORMATS:
        return insert_stamp(save(), output.pillow, stamp)
    xmp = pack_xmp(stamp)
    # 700 is TIFF's tag for XMP
    data = save(tiffinfo={700: xmp}) if output.pillow == "TIFF" else save(xmp=xmp)
    return seal_xmp(data, stamp)


def _check_size(pixels: Pixels, output: OutputFormat) -> None:
    height, width, _ = pixels.shape
    if output.max_side is not None and max(height, width) > output.max_side:
        raise ImageError(
            f"{width}x{height} is too large for {output.name}, whose sides have at most "
            f"{output.max_side} pixels; choose another --format"
        )


def _save(pixels: Pixels, output: OutputFormat, **options: object) -> bytes:
    file = io.BytesIO()
    try:
        Image.fromarray(pixels).save(file, output.pillow, **options)
    except (OSError, ValueError, RuntimeError, MemoryError) as exc:
        height, width, _ = pixels.shape
        raise ImageError(
            f"cannot write {width}x{height} as {output.name}; choose another --format",
            [quote_error(exc)],
        ) from exc
    return file.getvalue()
