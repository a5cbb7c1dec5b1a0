"""Image files and ICC profiles built byte by byte, because Pillow cannot write them."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def make_pixels(height: int = 24, width: int = 40) -> Pixels:
    """Smooth, asymmetric colours: every flip and rotation looks different."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [x * 255 // (width - 1), y * 255 // (height - 1), (x + 2 * y) * 3 % 256]
    return np.stack(channels, axis=-1).astype(np.uint8)


def save(image: Image.Image, name: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def make_png(
    size: tuple[int, int], depth: int, color_type: int, rows: list[bytes], *chunks: bytes
) -> bytes:
    """A PNG of unfiltered rows; `size` is (width, height), `chunks` precede the pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, color_type, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\x00" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels + chunk(b"IEND", b"")


def make_exif(orientation: int, *, gps: bool = False) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    if gps:
        exif.get_ifd(0x8825)[1] = "N"
        exif[0x010F] = "SecretCamera"
    return exif.tobytes()


def _make_profile(space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC version 2 profile of the given colour space."""
    table, body = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        content += b"\x00" * (-len(content) % 4)
        table += struct.pack(">4sII", name, start + len(body), len(content))
        body += content
    d50 = struct.pack(">iii", 63190, 65536, 54061)
    header = struct.pack(
        ">I4sI4s4s4s", start + len(body), b"", 0x02100000, b"scnr", space, connection
    )
    header += bytes(12) + b"acsp" + bytes(28) + d50
    return header.ljust(128, b"\x00") + struct.pack(">I", len(tags)) + table + body


def _xyz(*values: float) -> bytes:
    return b"XYZ \x00\x00\x00\x00" + struct.pack(">iii", *(round(v * 65536) for v in values))


def _gamma(value: float) -> bytes:
    return b"curv\x00\x00\x00\x00" + struct.pack(">IH", 1, round(value * 256))


ADOBE_GAMMA = 563 / 256
ADOBE_TO_XYZ = np.array(  # D50, one column per primary
    [[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]]
)


def make_adobe_profile() -> bytes:
    """A wide-gamut RGB profile with the primaries of Adobe RGB (1998)."""
    tags = {b"wtpt": _xyz(0.9642, 1.0, 0.8249)}
    for i, letter in enumerate(b"rgb"):
        tags[bytes([letter]) + b"XYZ"] = _xyz(*ADOBE_TO_XYZ[:, i])
        tags[bytes([letter]) + b"TRC"] = _gamma(ADOBE_GAMMA)
    return _make_profile(b"RGB ", b"XYZ ", tags)


def make_linear_gray_profile() -> bytes:
    return _make_profile(
        b"GRAY", b"XYZ ", {b"wtpt": _xyz(0.9642, 1.0, 0.8249), b"kTRC": _gamma(1.0)}
    )


def make_cmyk_profile() -> bytes:
    """A profile of gray inks: paper is L* 100, any of C, M, Y gives 50, K gives 0."""
    ramp = bytes(range(256))
    lab = b""
    for node in range(16):  # two levels of C, M, Y and K each; K varies fastest
        lightness = 0 if node & 1 else 128 if node else 255
        lab += bytes([lightness, 128, 128])
    table = struct.pack(">4s4xBBBx", b"mft1", 4, 3, 2)
    table += struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    table += ramp * 4 + lab + ramp * 3
    return _make_profile(b"CMYK", b"Lab ", {b"wtpt": _xyz(0.9642, 1.0, 0.8249), b"A2B0": table})


def add_avif_property(data: bytes, kind: bytes, body: bytes) -> bytes:
    """Adds a property to the first item of an AVIF, which must be as Pillow writes it."""
    ipco = data.index(b"ipco") - 4
    ipco_size = int.from_bytes(data[ipco : ipco + 4], "big")
    box = struct.pack(">I", len(body) + 8) + kind + body
    number, at = 0, ipco + 8
    while at < ipco + ipco_size:
        at += int.from_bytes(data[at : at + 4], "big")
        number += 1
    ipma = data.index(b"ipma") - 4
    count = ipma + 18  # after size, kind, flags, number of items and the first item
    added = bytearray(data)
    added[count] += 1
    added[count + 1 : count + 1] = bytes((0x80 | (number + 1),))
    added[at:at] = box
    grown = len(box) + 1
    for name, growth in ((b"meta", grown), (b"iprp", grown), (b"ipco", len(box)), (b"ipma", 1)):
        place = added.index(name) - 4
        size = int.from_bytes(added[place : place + 4], "big") + growth
        added[place : place + 4] = struct.pack(">I", size)
    iloc = added.index(b"iloc") + 8
    for item in range(int.from_bytes(added[iloc + 2 : iloc + 4], "big")):
        offset = iloc + 4 + 14 * item + 6
        moved = int.from_bytes(added[offset : offset + 4], "big") + grown
        added[offset : offset + 4] = struct.pack(">I", moved)
    return bytes(added)
