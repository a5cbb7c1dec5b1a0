"""Plain JPEGs are read without Pillow, and give exactly what Pillow's way gives."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dinac_cli.errors import ImageError
from dinac_cli.images import reading
from dinac_cli.images.formats import MAX_PIXELS
from dinac_cli.images.jpeg_scans import find_plain_jpeg
from dinac_cli.images.reading import WHITE, SourceImage, read_image, read_shaped

pytest.importorskip("simplejpeg")


def save_jpeg(mode: str = "RGB", size: tuple[int, int] = (37, 21), **options: Any) -> bytes:
    rng = np.random.default_rng(sum(size))
    small = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    file = io.BytesIO()
    small.resize(size).convert(mode).save(file, "JPEG", **{"quality": 88, **options})
    return file.getvalue()


def orient() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


PLAIN: dict[str, bytes] = {
    "4:4:4": save_jpeg(subsampling="4:4:4"),
    "4:2:2": save_jpeg(subsampling="4:2:2"),
    "4:2:0": save_jpeg(subsampling="4:2:0"),
    "4:2:0, one pixel": save_jpeg(size=(1, 1)),
    "progressive": save_jpeg(progressive=True),
    "optimized": save_jpeg(optimize=True),
    "restart markers": save_jpeg(restart_marker_rows=1),
    "comment": save_jpeg(comment=b"a comment \xff\xda\xff\xc0"),
    "resolution": save_jpeg(dpi=(300, 300)),
    "trailing bytes": save_jpeg() + b"\0" * 500 + b"more",
}
OTHERS: dict[str, bytes] = {
    "gray": save_jpeg("L"),
    "CMYK": save_jpeg("CMYK"),
    "RGB": save_jpeg(keep_rgb=True),
    "turned": save_jpeg(exif=orient()),
    "profile": save_jpeg(icc_profile=b"x" * 200),
    "XMP": save_jpeg(xmp=b"<x:xmpmeta/>"),
    "PNG": b"\x89PNG\r\n\x1a\n" + bytes(40),
    "empty": b"",
    "headers alone": save_jpeg()[:200],
    "bytes between segments": save_jpeg().replace(b"\xff\xdb", b"\0\0\xff\xdb", 1),
}


def read(data: bytes) -> SourceImage:
    return read_shaped(data, lambda size: None, background=WHITE, max_pixels=MAX_PIXELS)


@pytest.mark.parametrize("data", PLAIN.values(), ids=PLAIN)
def test_plain_jpegs_give_the_pixels_of_pillow(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_plain_jpeg(data) is not None
    expected = read_image(data)
    monkeypatch.setattr(reading, "read_image", None)  # Pillow is not asked
    image = read(data)
    assert np.array_equal(image.pixels, expected.pixels)
    assert image.pixels.flags.c_contiguous
    assert (image.description, image.warnings, image.soundness) == (
        expected.description, expected.warnings, expected.soundness
    )  # fmt: skip


@pytest.mark.parametrize("data", OTHERS.values(), ids=OTHERS)
def test_other_files_are_not_plain(data: bytes) -> None:
    assert find_plain_jpeg(data) is None


@pytest.mark.parametrize("seed", range(60))
def test_a_damaged_jpeg_is_read_like_any_other(seed: int) -> None:
    """Cut, zeroed or changed at random: the same image or the same error as without this way."""
    rng = np.random.default_rng(seed)
    whole = list(PLAIN.values())[seed % 7]
    data = bytearray(whole)
    match seed % 3:
        case 0:
            del data[int(rng.integers(2, len(data))) :]
        case 1:
            start = int(rng.integers(2, len(data)))
            data[start : start + 80] = bytes(len(data[start : start + 80]))
        case _:
            for at in rng.integers(2, len(data), 3):
                data[at] ^= int(rng.integers(1, 256))
    results: list[tuple[object, ...]] = []
    for function in (read, read_image):
        try:
            image = function(bytes(data))
            results.append((image.pixels.tobytes(), image.description, image.warnings))
        except ImageError as exc:
            results.append((str(exc),))
    assert results[0] == results[1]


def test_too_many_pixels_are_refused() -> None:
    with pytest.raises(ImageError, match="more than the limit of 100"):
        read_shaped(save_jpeg(), lambda size: None, background=WHITE, max_pixels=100)
