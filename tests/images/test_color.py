"""Conversion to sRGB with ICC profiles of every colour space, and exact alpha blending."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from dinac_cli.errors import UsageError
from dinac_cli.images.color import composite, name_color, parse_color
from dinac_cli.images.description import parse_description
from dinac_cli.images.reading import SourceImage, read_image

from .hand_made import (
    ADOBE_GAMMA,
    ADOBE_TO_XYZ,
    Pixels,
    chunk,
    make_adobe_profile,
    make_cmyk_profile,
    make_linear_gray_profile,
    make_pixels,
    make_png,
    save,
)

XYZ_TO_SRGB = np.linalg.inv(  # D50, as in ICC profiles
    [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
)


def encode_srgb(linear: NDArray[np.float64]) -> Pixels:
    linear = np.clip(linear, 0, 1)
    curve = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    levels: Pixels = np.rint(255 * curve).astype(np.uint8)
    return levels


def read(image: Image.Image, profile: bytes, name: str = "TIFF") -> SourceImage:
    return read_image(save(image, name, icc_profile=profile))


def assert_close(actual: Pixels, expected: object, tolerance: int = 2) -> None:
    assert np.abs(actual.astype(int) - np.asarray(expected, dtype=int)).max() <= tolerance


def color_of(source: SourceImage) -> str:
    return parse_description(source.description)["color"]


@pytest.mark.parametrize("name", ["PNG", "TIFF"])
def test_wide_gamut_rgb_is_converted(name: str) -> None:
    pixels = make_pixels() // 2 + 60  # inside the gamut of sRGB
    source = read(Image.fromarray(pixels), make_adobe_profile(), name)
    linear = (pixels / 255) ** ADOBE_GAMMA @ ADOBE_TO_XYZ.T @ XYZ_TO_SRGB.T
    inside = ((linear > 0) & (linear < 1)).all(axis=-1)
    assert inside.mean() > 0.8
    assert_close(source.pixels[inside], encode_srgb(linear)[inside])
    assert np.abs(source.pixels.astype(int) - pixels).max() > 20
    assert (color_of(source), source.warnings) == ("converted", ())


def test_gray_profile_is_applied() -> None:
    ramp = np.arange(256, dtype=np.uint8)[None]
    source = read(Image.fromarray(ramp), make_linear_gray_profile())
    assert_close(source.pixels[0, :, 1], encode_srgb(ramp[0] / 255))
    assert color_of(source) == "converted"


def test_cmyk_profile_is_applied() -> None:
    inks = Image.new("CMYK", (3, 1), (0, 0, 0, 0))
    inks.putpixel((1, 0), (255, 0, 0, 0))
    inks.putpixel((2, 0), (0, 0, 0, 255))
    source = read(inks, make_cmyk_profile())
    assert_close(source.pixels, [[[255] * 3, [119] * 3, [0] * 3]])
    assert color_of(source) == "converted"


def test_rgb_profile_is_applied_to_gray_pixels() -> None:
    ramp = np.arange(256, dtype=np.uint8)[None]
    source = read(Image.fromarray(ramp), make_adobe_profile())
    assert_close(source.pixels[0, :, 0], encode_srgb((ramp[0] / 255) ** ADOBE_GAMMA))
    assert color_of(source) == "converted"


def test_colours_are_converted_before_compositing() -> None:
    image = Image.new("RGBA", (2, 1), (200, 100, 50, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    source = read(image, make_adobe_profile(), "PNG")
    opaque = read(Image.new("RGB", (1, 1), (200, 100, 50)), make_adobe_profile(), "PNG")
    assert source.pixels[0].tolist() == [opaque.pixels[0, 0].tolist(), [255, 255, 255]]


def test_srgb_profile_changes_no_pixel() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = make_pixels()
    source = read(Image.fromarray(pixels), profile)
    np.testing.assert_array_equal(source.pixels, pixels)
    assert (color_of(source), source.warnings) == ("srgb", ())


@pytest.mark.parametrize(
    "profile",
    [
        b"not a profile",
        make_adobe_profile()[:200],
        make_linear_gray_profile(),
        make_cmyk_profile(),
    ],
    ids=["garbage", "truncated", "gray", "cmyk"],
)
def test_unusable_profile_is_ignored_with_a_warning(profile: bytes) -> None:
    pixels = make_pixels()
    source = read(Image.fromarray(pixels), profile)
    np.testing.assert_array_equal(source.pixels, pixels)
    assert color_of(source) == "assumed-srgb"
    assert source.warnings == ("unusable ICC profile ignored; colours taken as sRGB",)


def test_corrupt_compressed_profile_gives_a_warning() -> None:
    broken = chunk(b"iCCP", b"name\x00\x00not zlib at all")
    source = read_image(make_png((1, 1), 8, 2, [b"\x01\x02\x03"], broken))
    assert source.pixels.tolist() == [[[1, 2, 3]]]
    assert source.warnings == ("unusable ICC profile ignored; colours taken as sRGB",)


@pytest.mark.parametrize("level", [0, 1, 127, 255])
def test_compositing_is_exact_for_all_values(level: int) -> None:
    value, alpha = np.mgrid[0:256, 0:256]
    rgb = np.repeat(value[..., None], 3, axis=-1).astype(np.uint8)
    blended = composite(rgb, alpha.astype(np.uint8), (level, 0, 255))
    exact = (value * alpha + level * (255 - alpha)) / 255
    np.testing.assert_array_equal(blended[..., 0], np.floor(exact + 0.5))
    assert blended[:, 0].tolist() == [[level, 0, 255]] * 256
    np.testing.assert_array_equal(blended[:, 255], rgb[:, 255])


@pytest.mark.parametrize(
    ("text", "color"),
    [
        ("white", (255, 255, 255)),
        ("Black", (0, 0, 0)),
        ("gray", (128, 128, 128)),
        ("grey", (128, 128, 128)),
        ("#0aff80", (10, 255, 128)),
        ("0AFF80", (10, 255, 128)),
    ],
)
def test_background_color(text: str, color: tuple[int, int, int]) -> None:
    assert parse_color(text) == color


@pytest.mark.parametrize("name", ["white", "black", "gray", "#0aff80"])
def test_a_color_has_one_name(name: str) -> None:
    assert name_color(parse_color(name)) == name


@pytest.mark.parametrize("text", ["", "#", "red", "#fff", "#0aff8", "#0aff8000", "#gggggg", "ü"])
def test_malformed_background_color_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected white, black, gray or #rrggbb"):
        parse_color(text)
