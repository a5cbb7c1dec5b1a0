"""Which kinds of image files earlier versions read with other pixels."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from PIL import Image

from dinac_cli.images.reading import read_image
from dinac_cli.images.revisions import current_revision, read_revision


def make_png(depth: int, color_type: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """Returns a black PNG of 1 x 1 pixel with `chunks` before its pixels."""
    channels = {0: 1, 2: 3}[color_type]
    row = b"\x00" * (1 + -(-depth * channels // 8))
    header = struct.pack(">IIBBBBB", 1, 1, depth, color_type, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(row)), (b"IEND", b"")]
    packed = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def make_jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    return file.getvalue()


LINEAR = (b"gAMA", struct.pack(">I", 100_000))
SRGB_GAMMA = (b"gAMA", struct.pack(">I", 45_455))


@pytest.mark.parametrize(
    ("data", "revision"),
    [
        (make_png(8, 2), 0),
        (make_png(8, 2, SRGB_GAMMA), 0),
        (make_png(8, 2, LINEAR), 1),
        (make_png(2, 0), 0),
        (make_png(2, 0, (b"tRNS", b"\x00\x01")), 1),
        (make_png(16, 2, (b"tRNS", b"\x00\x01" * 3)), 1),
        (make_jpeg(), 0),
    ],
)
def test_records_of_such_files_hold_the_revision(data: bytes, revision: int) -> None:
    assert read_revision(read_image(data).description) == revision


def test_the_revision_is_that_of_the_rules() -> None:
    assert current_revision() == 1
