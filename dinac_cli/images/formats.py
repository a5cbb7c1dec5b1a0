"""Which files are images, told by first bytes or by suffix, and the formats that are written.

Nothing here imports Pillow or numpy, so that help, completion and folder scans start at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath

MAX_PIXELS = 178_956_970
"""Default limit of an image's width x height; what Pillow itself takes for a decompression bomb."""

HEAD_BYTES = 32
"""How many first bytes of a file `detect_format` wants to see."""

# Raster formats only. EPS and PDF (which would run Ghostscript), WMF, FITS and the like are left
# out for safety; ICO because its header does not tell the size of what it unpacks to; TGA because
# it has no first bytes to know it by.
_SIGNATURES: Mapping[str, re.Pattern[bytes]] = {
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "PNG": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "WEBP": re.compile(rb"RIFF.{4}WEBPVP8[ LX]", re.DOTALL),
    "AVIF": re.compile(rb".{4}ftyp(avi[fs]|m(if|sf)1.{4}(.{4})*?avi[fs])", re.DOTALL),
    "GIF": re.compile(rb"GIF8[79]a"),
    "TIFF": re.compile(rb"(?!.{8}CR)(II[*+]\x00|MM\x00[*+])", re.DOTALL),
    # Two letters are not enough: reserved zeros and the size of a known header must follow.
    "BMP": re.compile(rb"BM.{4}\x00{4}.{4}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\x00{3}", re.DOTALL),
    "PPM": re.compile(rb"P([1-6]|f)\s+(#|-?[0-9])"),
    "JPEG2000": re.compile(rb"\xff\x4f\xff\x51|\x00{3}\x0cjP  \r\n\x87\n"),
    "QOI": re.compile(rb"qoif"),
}
INPUT_FORMATS = tuple(_SIGNATURES)
"""Names of the formats that are read, as Pillow spells them."""

_UNREADABLE: Mapping[str, re.Pattern[bytes]] = {
    "HEIC": re.compile(rb".{4}ftyp(he(ic|ix|vc|vx|im|is)|m(if|sf)1)", re.DOTALL),
    "JPEG XL": re.compile(rb"\xff\x0a|\x00{3}\x0cJXL "),
    "Canon raw": re.compile(rb"II\*\x00.{4}CR", re.DOTALL),
    "Photoshop": re.compile(rb"8BPS"),
}

_SUFFIXES = frozenset(
    f".{suffix}"
    for suffixes in (
        ("jpg", "jpeg", "jpe", "jfif", "mpo"),
        ("png", "apng", "webp", "gif", "bmp", "qoi"),
        ("avif", "avifs"),
        ("tif", "tiff"),
        ("ppm", "pgm", "pbm", "pnm", "pfm"),
        ("jp2", "j2k", "jpx"),
    )
    for suffix in suffixes
)


def detect_format(head: bytes) -> str | None:
    """Name the readable format that a file's first `HEAD_BYTES` bytes belong to, or None."""
    return _match(_SIGNATURES, head)


def detect_unreadable(head: bytes) -> str | None:
    """Name the image format, known but not read, that `head` belongs to, or None."""
    return _match(_UNREADABLE, head)


def _match(signatures: Mapping[str, re.Pattern[bytes]], head: bytes) -> str | None:
    return next((name for name, pattern in signatures.items() if pattern.match(head)), None)


def looks_like_image(head: bytes) -> bool:
    """Tell whether a file's first `HEAD_BYTES` bytes are those of a readable image."""
    return detect_format(head[:HEAD_BYTES]) is not None


def is_image_name(name: str | PurePath) -> bool:
    """Tell whether a file name has the suffix of a readable image, in either case."""
    return PurePath(name).suffix.lower() in _SUFFIXES


@dataclass(frozen=True)
class OutputFormat:
    """One format that images are written in.

    `suffixes` are the file name endings, the first one is what dinac appends; `pillow` is Pillow's
    name; `save_options` go to `Image.save`; `has_stamp` tells whether a stamp can be embedded.
    """

    name: str
    suffixes: tuple[str, ...]
    pillow: str
    save_options: Mapping[str, int | str | bool]
    has_stamp: bool


_ZLIB_RUNS = 3

# A reconstruction is written to be looked at and measured, so no format adds a loss of its own
# where it has the choice, and the lossy ones keep the full colour resolution.
OUTPUT_FORMATS: Mapping[str, OutputFormat] = {
    output.name: output
    for output in (
        # A photograph's bytes repeat by chance alone, so zlib looks for runs (its strategy Z_RLE)
        # and not for matches. 300 reconstructions: 11.6 ms and 263 kB each; with matches 13.1 ms
        # and 286 kB at level 1, 30 ms and 266 kB at the default level 6.
        OutputFormat(
            "png",
            (".png",),
            "PNG",
            {"compress_level": 1, "compress_type": _ZLIB_RUNS},
            has_stamp=True,
        ),
        OutputFormat(
            "jpg",
            (".jpg", ".jpeg", ".jpe", ".jfif"),
            "JPEG",
            {"quality": 95, "subsampling": "4:4:4"},
            has_stamp=True,
        ),
        # For lossless WebP, quality and method are effort: the least is already below PNG's size.
        OutputFormat(
            "webp",
            (".webp",),
            "WEBP",
            {"lossless": True, "quality": 0, "method": 0},
            has_stamp=True,
        ),
        OutputFormat(
            "tiff",
            (".tiff", ".tif"),
            "TIFF",
            {"compression": "tiff_adobe_deflate"},
            has_stamp=True,
        ),
        # Speed 8 of 10: twice as fast as the default 6, for the same size and error.
        OutputFormat(
            "avif",
            (".avif",),
            "AVIF",
            {"quality": 90, "subsampling": "4:4:4", "speed": 8},
            has_stamp=True,
        ),
        OutputFormat("bmp", (".bmp",), "BMP", {}, has_stamp=False),
        OutputFormat("ppm", (".ppm",), "PPM", {}, has_stamp=False),
    )
}

OUTPUT_SUFFIXES = tuple(suffix for form in OUTPUT_FORMATS.values() for suffix in form.suffixes)
"""File name endings of everything that is written, in lower case."""


def format_of_suffix(path: str | PurePath) -> OutputFormat | None:
    """Find the output format whose suffix a path carries, in either case; None if there is none."""
    suffix = PurePath(path).suffix.lower()
    return next((f for f in OUTPUT_FORMATS.values() if suffix in f.suffixes), None)
