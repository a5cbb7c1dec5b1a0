"""PNG files that are packed in strips, read back by Pillow and by zlib."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dinac_cli.images import fast_png
from dinac_cli.images.fast_png import write_png


def unpack(data: bytes) -> bytes:
    """Returns the filtered rows. zlib checks their checksum, which Pillow ignores."""
    stream, place = b"", 8
    while place < len(data):
        (size,) = struct.unpack(">I", data[place : place + 4])
        kind, content = data[place + 4 : place + 8], data[place + 8 : place + 8 + size]
        assert struct.unpack(">I", data[place + 8 + size :][:4]) == (zlib.crc32(kind + content),)
        stream += content if kind == b"IDAT" else b""
        place += 12 + size
    return zlib.decompress(stream)


@pytest.mark.parametrize("strip_bytes", [1, 500, 1 << 20])
@pytest.mark.parametrize("size", [(1, 1), (37, 50)])
def test_pixels_and_text_are_read_back(
    monkeypatch: pytest.MonkeyPatch, strip_bytes: int, size: tuple[int, int]
) -> None:
    monkeypatch.setattr(fast_png, "_STRIP_BYTES", strip_bytes)
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    pixels[size[0] // 2 :] = 200
    data = write_png(pixels, {"dinac": "preview"}, threads=3)
    assert write_png(pixels, {"dinac": "preview"}) == data
    with Image.open(io.BytesIO(data)) as image:
        assert (image.mode, image.info) == ("RGB", {"dinac": "preview"})
        np.testing.assert_array_equal(np.asarray(image), pixels)
    assert len(unpack(data)) == size[0] * (3 * size[1] + 1)


def test_flat_areas_need_few_bytes() -> None:
    assert len(write_png(np.full((500, 500, 3), 24, np.uint8), {})) < 10_000
