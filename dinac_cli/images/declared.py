"""Finds the colours that an image file declares outside an ICC profile."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import IO

from PIL import ImageFile

from dinac_cli.images.avif import CropBox, find_aperture, read_properties
from dinac_cli.images.color_space import ColorSpace, find_coded_space, make_space
from dinac_cli.images.heic import HeicImageFile
from dinac_cli.images.optional_formats import JxlImageFile

_MAX_CHUNKS = 10_000
_SIGNATURE_BYTES = 8


@dataclass(frozen=True)
class Declared:
    """What a file declares beside its pixels.

    `space` is set only if it overrules the ICC profile, or if the file has no profile.
    `is_unusable` is true if a declaration is invalid and nothing else says what the colours are.
    `crop` is the part of the image to keep (AVIF).
    """

    space: ColorSpace | None = None
    is_unusable: bool = False
    crop: CropBox | None = None


def read_declared(file: IO[bytes], opened: ImageFile.ImageFile) -> Declared:
    """Reads the declarations of an image file that Pillow has opened, but not decoded.

    Restores the position of `file`. Raises ImageError for an invalid clean aperture.
    """
    if isinstance(opened, (HeicImageFile, JxlImageFile)):
        return _read_optional(opened)
    if opened.format not in ("PNG", "AVIF"):
        return Declared()
    position = file.tell()
    try:
        return _read_png(file, opened) if opened.format == "PNG" else _read_avif(file, opened)
    finally:
        file.seek(position)


def _read_optional(opened: HeicImageFile | JxlImageFile) -> Declared:
    try:
        return Declared(opened.find_space())
    except ValueError:
        return Declared(is_unusable=True)


def _read_avif(file: IO[bytes], opened: ImageFile.ImageFile) -> Declared:
    """An ICC profile comes before nclx."""
    properties = read_properties(file)
    clap = properties.clap
    crop = None if clap is None else find_aperture(clap, *opened.size)
    if properties.nclx is None or "icc_profile" in opened.info:
        return Declared(crop=crop)
    try:
        return Declared(find_coded_space(*properties.nclx), crop=crop)
    except ValueError:
        return Declared(is_unusable=True, crop=crop)


def _read_png(file: IO[bytes], opened: ImageFile.ImageFile) -> Declared:
    """Precedence: cICP, iCCP, sRGB, then gAMA and cHRM. Skips an unknown cICP, as PNG requires."""
    chunks = _read_color_chunks(file)
    is_unusable = False
    if (cicp := chunks.get(b"cICP")) is not None:
        try:
            primaries, transfer, matrix, full_range = struct.unpack("4B", cicp)
            if matrix or full_range > 1:
                raise ValueError("PNG has no such images")
            return Declared(find_coded_space(primaries, transfer, full_range=bool(full_range)))
        except (struct.error, ValueError):
            is_unusable = True
    if "icc_profile" in opened.info or b"sRGB" in chunks:
        return Declared()
    if not chunks.keys() & {b"gAMA", b"cHRM"}:
        return Declared(is_unusable=is_unusable)
    try:
        return Declared(make_space(_parse_chrm(chunks), _parse_gama(chunks)))
    except (struct.error, ValueError):
        return Declared(is_unusable=True)


def _parse_chrm(chunks: dict[bytes, bytes]) -> tuple[float, ...] | None:
    if b"cHRM" not in chunks:
        return None
    return tuple(value / 100_000 for value in struct.unpack(">8I", chunks[b"cHRM"]))


def _parse_gama(chunks: dict[bytes, bytes]) -> float | None:
    if b"gAMA" not in chunks:
        return None
    return float(struct.unpack(">I", chunks[b"gAMA"])[0] / 100_000)


def _read_color_chunks(file: IO[bytes]) -> dict[bytes, bytes]:
    """Returns the first chunk of each kind before the pixels. Pillow has checked the CRCs."""
    found: dict[bytes, bytes] = {}
    at = _SIGNATURE_BYTES
    for _ in range(_MAX_CHUNKS):
        file.seek(at)
        head = file.read(8)
        kind = head[4:]
        if len(head) < 8 or kind == b"IDAT":
            break
        size = int.from_bytes(head[:4], "big")
        if kind in (b"cICP", b"sRGB", b"gAMA", b"cHRM"):
            found.setdefault(kind, file.read(min(size, 64)))
        at += size + 12
    return found
