"""Writes PNG files of computed pictures: several times faster than Pillow, and a fifth larger."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dinac_cli.images.pixels import Pixels

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_UP = 2  # each byte is stored as its difference from the byte above it
_ZLIB_HEADER = b"\x78\x01"
_RAW_DEFLATE, _MEMORY_LEVEL = -15, 9
_ADLER_BASE = 65521
_STRIP_BYTES = 2**20


def write_png(pixels: Pixels, text: Mapping[str, str], *, threads: int = 1) -> bytes:
    """Returns an RGB picture, uint8 [H, W, 3], as PNG. `text` holds ASCII texts by their keys.

    The bytes do not depend on the number of threads.
    """
    height, width, _ = pixels.shape
    rows = pixels.reshape(height, 3 * width)
    step = max(1, _STRIP_BYTES // (3 * width))
    starts = range(0, height, step)
    with ThreadPoolExecutor(threads, "png") as pool:
        strips = list(pool.map(lambda start: _pack_strip(rows, start, step), starts))
    checksum = 1
    for strip in strips:
        checksum = _join_checksums(checksum, strip)
    body = [_ZLIB_HEADER, *(strip.packed for strip in strips), struct.pack(">I", checksum)]
    head = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    chunks = [_pack_chunk(b"IHDR", head)]
    chunks += (
        _pack_chunk(b"tEXt", f"{key}\0{value}".encode("ascii")) for key, value in text.items()
    )
    chunks += (_pack_chunk(b"IDAT", part) for part in body)
    return b"".join([_SIGNATURE, *chunks, _pack_chunk(b"IEND", b"")])


class _Strip(NamedTuple):
    """Some rows: compressed, and the Adler-32 checksum and the size of what was compressed."""

    packed: bytes
    checksum: int
    size: int


def _pack_strip(rows: NDArray[np.uint8], start: int, step: int) -> _Strip:
    """Compresses `step` rows. All strips but the last end at a byte, so they can be joined."""
    filtered = _filter(rows, start, step)
    # Differences of smooth pictures hardly repeat, so only runs of equal bytes are worth a search.
    packer = zlib.compressobj(1, zlib.DEFLATED, _RAW_DEFLATE, _MEMORY_LEVEL, zlib.Z_RLE)
    packed = packer.compress(filtered.data)
    packed += packer.flush(zlib.Z_FINISH if start + step >= len(rows) else zlib.Z_FULL_FLUSH)
    return _Strip(packed, zlib.adler32(filtered.data), filtered.size)


def _join_checksums(checksum: int, strip: _Strip) -> int:
    """Returns the Adler-32 of bytes with this checksum and the strip after them."""
    first, last = checksum & 0xFFFF, strip.checksum & 0xFFFF
    low = (first + last - 1) % _ADLER_BASE
    high = (checksum >> 16) + (strip.checksum >> 16) + strip.size * (first - 1)
    return high % _ADLER_BASE << 16 | low


def _filter(rows: NDArray[np.uint8], start: int, step: int) -> NDArray[np.uint8]:
    strip = rows[start : start + step]
    filtered = np.empty((len(strip), strip.shape[1] + 1), np.uint8)
    filtered[:, 0] = _UP
    filtered[0, 1:] = strip[0] - (rows[start - 1] if start else 0)
    np.subtract(strip[1:], strip[:-1], out=filtered[1:, 1:])
    return filtered


def _pack_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
