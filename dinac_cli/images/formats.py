"""Detects image formats by the first bytes or by the suffix. Defines the output formats.

This module does not import Pillow or numpy, so that help, completion and folder scans start fast.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath

MAX_PIXELS = 178_956_970
"""The default limit of width x height. Pillow also refuses larger images by default."""

HEAD_BYTES = 64
"""The number of bytes at the start of a file that are read to detect its format."""

_JPEG_LS = rb"\xff\xd8\xff(\xf7|\xe8\x00\x20SPIFF\x00.{14}\x06)"  # 6 is the compression in a SPIFF

# Only raster formats are supported. For safety, dinac excludes EPS and PDF (Pillow runs Ghostscript
# for them), WMF and FITS. ICO is not supported, because its header does not declare the decoded
# size. TGA is not supported, because it has no signature.
_SIGNATURES: Mapping[str, re.Pattern[bytes]] = {
    "JPEG": re.compile(rb"(?!%b)\xff\xd8\xff" % _JPEG_LS, re.DOTALL),
    "PNG": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "WEBP": re.compile(rb"RIFF.{4}WEBPVP8[ LX]", re.DOTALL),
    "AVIF": re.compile(rb".{4}ftyp(avi[fs]|m(if|sf)1.{4}(.{4})*?avi[fs])", re.DOTALL),
    "GIF": re.compile(rb"GIF8[79]a"),
    "TIFF": re.compile(rb"(?!.{8}CR)(II[*+]\x00|MM\x00[*+])", re.DOTALL),
    # "BM" alone is not enough: the reserved zeros and the size of a known header must follow.
    "BMP": re.compile(rb"BM.{4}\x00{4}.{4}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\x00{3}", re.DOTALL),
    "PPM": re.compile(rb"P[1-6fF]\s+(#|-?[0-9])"),
    "JPEG2000": re.compile(rb"\xff\x4f\xff\x51|\x00{3}\x0cjP  \r\n\x87\n"),
    "QOI": re.compile(rb"qoif"),
}
INPUT_FORMATS = tuple(_SIGNATURES)
"""The supported input formats, by their names in Pillow."""

# Images that dinac reads only with the extra `formats`.
_OPTIONAL: Mapping[str, re.Pattern[bytes]] = {
    "HEIC": re.compile(
        rb".{4}ftyp(he(i[cxms]|v[cxms])|avc[is]|vvi[cs]|ev[bm]i|j2ki|m(if|sf)[12])", re.DOTALL
    ),
    "JPEG XL": re.compile(rb"\xff\x0a|\x00{3}\x0cJXL \r\n\x87\n"),
}

# Images that dinac cannot read. A batch must name these files, and not count them among files that
# are no images. Raw files in a TIFF (NEF, ARW, DNG) are detected as TIFF.
_UNREADABLE: Mapping[str, re.Pattern[bytes]] = {
    "Canon raw": re.compile(rb"II\*\x00.{4}CR|.{4}ftypcrx |II\x1a\x00{3}HEAPCCDR", re.DOTALL),
    "Fujifilm raw": re.compile(rb"FUJIFILMCCD-RAW"),
    "Olympus raw": re.compile(rb"IIR[OS]|MMOR"),
    "Panasonic raw": re.compile(rb"IIU\x00"),
    "Sigma raw": re.compile(rb"FOVb"),
    "JPEG-LS": re.compile(_JPEG_LS, re.DOTALL),
    "PAM": re.compile(rb"P7\s"),
    "Photoshop": re.compile(rb"8BPS\x00[\x01\x02]"),
}

_SUFFIXES = (
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".qoi"}
    | {".avif", ".avifs", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm"}
    | {".jp2", ".j2k", ".jpx"}
)
_OTHER_SUFFIXES = {".heic", ".heics", ".heif", ".heifs", ".hif", ".jxl", ".psd", ".psb", ".pam"} | {
    ".cr2",
    ".cr3",
    ".crw",
    ".raf",
    ".orf",
    ".rw2",
    ".x3f",
    ".nef",
    ".arw",
    ".dng",
    ".pef",
}


def detect_format(head: bytes) -> str | None:
    """Returns the input format of a file that begins with `head`, or None."""
    return _match(_SIGNATURES, head)


def detect_optional(head: bytes) -> str | None:
    """Returns HEIC or JPEG XL for a file that needs the extra `formats`, or None."""
    return _match(_OPTIONAL, head)


def detect_unreadable(head: bytes) -> str | None:
    """Returns the image format of a file that dinac recognises but cannot read, or None."""
    return _match(_UNREADABLE, head)


def _match(signatures: Mapping[str, re.Pattern[bytes]], head: bytes) -> str | None:
    found = (name for name, pattern in signatures.items() if pattern.match(head, 0, HEAD_BYTES))
    return next(found, None)


def looks_like_image(head: bytes) -> bool:
    """True if a file that begins with `head` is an image, even if dinac cannot read its format."""
    return any(_match(known, head) for known in (_SIGNATURES, _OPTIONAL, _UNREADABLE))


def is_image_name(name: str | PurePath) -> bool:
    """True if a file name has the suffix of an image format, even if dinac cannot read the format.

    The suffix may be in upper or lower case.
    """
    suffix = os.path.splitext(name)[1].lower()
    return suffix in _SUFFIXES or suffix in _OTHER_SUFFIXES


@dataclass(frozen=True)
class OutputFormat:
    """A format of decoded images.

    `suffixes` are its file name suffixes; if a name has none of them, dinac appends the first
    suffix. `pillow` is the format's name in Pillow. `save_options` are arguments of `Image.save`.
    If the user can choose a quality (1 to 100), `lossy_options` replace them; otherwise
    `lossy_options` is None. `quality` is the default quality, or None if files are lossless by
    default. `max_side` is the largest width and height in pixels; None means that no image is too
    large.
    """

    name: str
    suffixes: tuple[str, ...]
    pillow: str
    save_options: Mapping[str, int | str | bool] = field(default_factory=dict)
    lossy_options: Mapping[str, int | str | bool] | None = None
    quality: int | None = None
    max_side: int | None = None

    def accepts_quality(self, quality: int) -> bool:
        """True if the user can choose this quality."""
        return self.lossy_options is not None and 1 <= quality <= 100

    def choose_options(self, quality: int | None) -> Mapping[str, int | str | bool]:
        """Returns the arguments of `Image.save` for a quality; None means the default quality."""
        chosen = self.quality if quality is None else quality
        if chosen is None:
            return self.save_options
        assert self.lossy_options is not None, "the caller refuses a quality for lossless formats"
        return {**self.lossy_options, "quality": chosen}


# Users view and measure decoded images. Therefore dinac writes lossless files if the format allows
# them, and writes lossy formats at full colour resolution.
OUTPUT_FORMATS: Mapping[str, OutputFormat] = {
    output.name: output
    for output in (
        # In a photograph, byte sequences repeat only by chance, so zlib searches for runs (Z_RLE)
        # instead of matches. On average over 300 decoded images, the search for runs takes 11.6 ms
        # and gives 263 kB. The search for matches takes 13.1 ms and gives 286 kB at level 1, and
        # it takes 30 ms and gives 266 kB at the default level 6.
        OutputFormat("png", (".png",), "PNG", {"compress_level": 1, "compress_type": zlib.Z_RLE}),
        OutputFormat(
            "jpg",
            (".jpg", ".jpeg", ".jpe", ".jfif"),
            "JPEG",
            lossy_options={"subsampling": "4:4:4"},
            quality=95,
            max_side=65_500,
        ),
        # For lossless WebP, `quality` and `method` change only the time and the file size. Even
        # with these fastest settings, a WebP is smaller than a PNG. Lossy WebP is always 4:2:0.
        OutputFormat(
            "webp",
            (".webp",),
            "WEBP",
            {"lossless": True, "quality": 0, "method": 0},
            lossy_options={},
            max_side=16_383,
        ),
        OutputFormat("tiff", (".tiff", ".tif"), "TIFF", {"compression": "tiff_adobe_deflate"}),
        # At speed 8 (of 10), encoding is twice as fast as at the default speed 6, and the file size
        # and the error are the same.
        OutputFormat(
            "avif",
            (".avif",),
            "AVIF",
            lossy_options={"subsampling": "4:4:4", "speed": 8},
            quality=90,
            max_side=32_768,  # libavif writes larger images, but neither it nor Pillow reads them
        ),
        OutputFormat("bmp", (".bmp",), "BMP"),
        OutputFormat("ppm", (".ppm",), "PPM"),
    )
}

OUTPUT_SUFFIXES = tuple(suffix for form in OUTPUT_FORMATS.values() for suffix in form.suffixes)
"""The suffixes of all output formats, in lower case."""


def format_of_suffix(path: str | PurePath) -> OutputFormat | None:
    """Returns the output format for a path's suffix (in upper or lower case), or None."""
    suffix = PurePath(path).suffix.lower()
    return next((f for f in OUTPUT_FORMATS.values() if suffix in f.suffixes), None)
