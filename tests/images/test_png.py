"""PNG files: metadata above Pillow's limits, and transparent colours of every depth and value."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import PngImagePlugin

from dinac_cli.images import png
from dinac_cli.images.reading import read_image

from .hand_made import Pixels, chunk, make_adobe_profile, make_exif, make_pixels, make_png

GRAY, RGB = 0, 2
LARGE = 5 << 19  # bytes of text or profile, above Pillow's limit of 1 MiB
BACKGROUND = (10, 200, 90)


def pack_text(kind: bytes, text: bytes, key: bytes = b"Comment") -> bytes:
    """A chunk of kind zTXt, iTXt (compressed) or tEXt."""
    if kind == b"tEXt":
        return chunk(kind, key + b"\x00" + text)
    flags = b"\x00\x01\x00\x00\x00" if kind == b"iTXt" else b"\x00\x00"
    return chunk(kind, key + flags + zlib.compress(text))


def pack_profile(profile: bytes) -> bytes:
    return chunk(b"iCCP", b"profile\x00\x00" + zlib.compress(profile))


def make_rgb_png(*chunks: bytes, last: bytes = b"") -> bytes:
    """A PNG with `chunks` before the pixels, and `last` after them."""
    pixels = make_pixels()
    rows = [row.tobytes() for row in pixels]
    data = make_png((pixels.shape[1], pixels.shape[0]), 8, RGB, rows, *chunks)
    return data[:-12] + last + data[-12:]


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"tEXt"])
@pytest.mark.parametrize("is_last", [False, True])
def test_large_text_is_skipped(kind: bytes, is_last: bool) -> None:
    text = pack_text(kind, b"a" * LARGE)
    exif = chunk(b"eXIf", make_exif(3).removeprefix(b"Exif\x00\x00"))
    data = make_rgb_png(last=text + exif) if is_last else make_rgb_png(text, exif)
    source = read_image(data)
    np.testing.assert_array_equal(source.pixels, make_pixels()[::-1, ::-1])
    assert source.description.startswith("orientation=applied;color=srgb;")


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"tEXt"])
def test_many_texts_are_skipped(kind: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_MEMORY", 1000)
    texts = [pack_text(kind, b"a" * 400, b"key%d" % number) for number in range(9)]
    np.testing.assert_array_equal(read_image(make_rgb_png(*texts)).pixels, make_pixels())


def test_large_profile_is_applied() -> None:
    profile = make_adobe_profile()
    padded = struct.pack(">I", LARGE) + profile[4:].ljust(LARGE - 4, b"\x00")
    small, large = (read_image(make_rgb_png(pack_profile(p))) for p in (profile, padded))
    np.testing.assert_array_equal(large.pixels, small.pixels)
    assert large.description == small.description
    assert "color=converted" in large.description


@pytest.mark.parametrize("size_bytes", [png.MAX_PROFILE_BYTES + 1, 4 * png.MAX_PROFILE_BYTES])
def test_huge_profile_is_ignored_with_a_warning(size_bytes: int) -> None:
    source = read_image(make_rgb_png(pack_profile(bytes(size_bytes))))
    np.testing.assert_array_equal(source.pixels, make_pixels())
    assert "color=assumed-srgb" in source.description
    assert source.warnings == ("unusable ICC profile ignored; colours taken as sRGB",)


def pack_gray(values: NDArray[np.uint16], depth: int) -> bytes:
    """A row of gray values as PNG stores it."""
    if depth == 16:
        return values.astype(">u2").tobytes()
    bits = "".join(f"{value:0{depth}b}" for value in values)
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))


def read_clear(data: bytes) -> NDArray[np.bool_]:
    """Whether each pixel [H, W] has the colour of the background."""
    pixels: Pixels = read_image(data, background=BACKGROUND).pixels
    is_clear: NDArray[np.bool_] = (pixels == BACKGROUND).all(axis=-1)
    return is_clear


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_every_transparent_gray_is_found(depth: int) -> None:
    values = np.arange(1 << depth, dtype=np.uint16)
    row = pack_gray(values, depth)
    for value in values:
        for unused in (0, 1 << depth):  # bits above the depth do not count
            key = chunk(b"tRNS", struct.pack(">H", value | unused))
            data = make_png((len(values), 1), depth, GRAY, [row], key)
            pixels = read_image(data, background=BACKGROUND).pixels[0]
            expected = np.repeat((values * (255 // values[-1]))[:, None], 3, axis=1)
            expected[value] = BACKGROUND
            np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("value", [0, 1, 255, 256, 257, 0x1234, 0x12FF, 0xFF00, 0xFFFE, 0xFFFF])
def test_transparent_gray_of_16_bits_is_exact(value: int) -> None:
    values = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)
    rows = [pack_gray(row, 16) for row in values]
    data = make_png((256, 256), 16, GRAY, rows, chunk(b"tRNS", struct.pack(">H", value)))
    np.testing.assert_array_equal(read_clear(data), values == value)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("high", [(0, 0, 0), (255, 255, 255), (1, 2, 3), (200, 0, 7)])
@pytest.mark.parametrize("low", [(0, 0, 0), (255, 255, 255), (4, 5, 6)])
def test_transparent_rgb_is_exact(
    depth: int, high: tuple[int, int, int], low: tuple[int, int, int]
) -> None:
    key = [upper * (depth > 8) * 256 + lower for upper, lower in zip(high, low, strict=True)]
    near = np.array([key] * 13, dtype=np.int64)
    for column in range(3):  # one bit differs, in the low byte or in the high byte
        for place, bit in enumerate((0, 3, 7, depth - 1)):
            near[1 + 4 * column + place, column] ^= 1 << bit
    content = near.astype(">u2" if depth == 16 else "u1").tobytes()
    stored = struct.pack(">3H", *key)
    data = make_png((13, 1), depth, RGB, [content], chunk(b"tRNS", stored))
    np.testing.assert_array_equal(read_clear(data)[0], [True] + [False] * 12)


def test_transparent_palette_entries_are_found() -> None:
    colors = make_pixels(4, 4).reshape(16, 3)
    alphas = bytes([0, 255, 128, 0])
    row = pack_gray(np.arange(16, dtype=np.uint16), 4)
    palette = chunk(b"PLTE", colors.tobytes())
    source = read_image(make_png((16, 1), 4, 3, [row], palette, chunk(b"tRNS", alphas)))
    weight = np.array([*alphas, *[255] * 12])[:, None] / 255
    expected = colors * weight + 255 * (1 - weight)
    assert np.abs(source.pixels[0] - expected).max() <= 1
