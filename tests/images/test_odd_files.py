"""A collection of unusual files from the wild; skipped if it is not beside the repository."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dinac_cli.errors import ImageError
from dinac_cli.images.description import parse_description
from dinac_cli.images.formats import is_image_name, looks_like_image
from dinac_cli.images.reading import SourceImage, read_image

ODD = Path(__file__).parents[2].parent / "shared" / "images" / "odd"

pytestmark = pytest.mark.skipif(not ODD.is_dir(), reason=f"no collection at {ODD.name}/")

PORTRAITS = [f"exif_orientation_{i}.jpg" for i in range(1, 9)]
SIZES = dict.fromkeys(PORTRAITS, (1200, 1800)) | {
    "exif_orientation_6.webp": (128, 128),
    "cmyk_adobe_transform0.jpg": (600, 397),
    "ycck_adobe_transform2.jpg": (100, 100),
    "gray.jpg": (128, 128),
    "gray8.png": (510, 532),
    "gray16.png": (32, 32),
    "rgb16.png": (32, 32),
    "palette_trns.png": (32, 32),
    "bilevel_1bit.png": (32, 32),
    "rgba.png": (200, 150),
    "animated.gif": (1000, 1000),
    "animated.webp": (200, 200),
    "animated_apng.png": (100, 100),
    "lossless.webp": (300, 300),
    "lzw.tif": (128, 128),
    "rgb16.tif": (157, 151),
    "rgb24.bmp": (127, 64),
    "avif_444_odd.avif": (1203, 799),
    "progressive.jpg": (320, 240),
    "bad_exif.jpg": (200, 200),
    "tiny_1x1.png": (1, 1),
    "odd_17x31.jpg": (17, 31),
    "wide_2001x7.png": (2001, 7),
    "tall_5x1999.jpg": (5, 1999),
    "adobergb.jpg": (450, 300),
    "displayp3.jpg": (450, 300),
    "png_named.jpg": (32, 32),
    "UPPER CASE naïve 図 #1 (copy).JPG": (192, 128),
}
REFUSED = {
    "truncated.jpg": "truncated JPEG file; copy or download it again",
    "zero_bytes.jpg": "empty file (0 bytes); copy or download it again",
    "text_not_image.jpg": "not an image (no known image format); see 'dinac man images'",
}
HIDDEN = {"._photo.jpg"}
FRAMES = {"animated.gif": 2, "animated.webp": 6, "animated_apng.png": 20}


def read(name: str) -> SourceImage:
    return read_image((ODD / name).read_bytes())


def test_every_file_of_the_collection_is_tested() -> None:
    present = {path.name for path in ODD.iterdir()} - {"SOURCES.md"}
    assert present == SIZES.keys() | REFUSED.keys() | HIDDEN


@pytest.mark.parametrize("name", SIZES)
def test_file_is_read(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    source = read(name)
    width, height = SIZES[name]
    assert source.pixels.shape == (height, width, 3)
    assert source.pixels.dtype == np.uint8
    assert source.pixels.flags.c_contiguous
    frames = FRAMES.get(name, 1)
    assert source.warnings == (
        (f"animated: only frame 1 of {frames} encoded",) if frames > 1 else ()
    )
    assert parse_description(source.description)["frame"] == f"1/{frames}"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", REFUSED)
def test_file_is_refused(name: str) -> None:
    with pytest.raises(ImageError) as caught:
        read(name)
    assert str(caught.value) == REFUSED[name]


@pytest.mark.parametrize("name", SIZES)
def test_image_is_recognised_by_name_and_by_content(name: str) -> None:
    assert is_image_name(name)
    assert looks_like_image((ODD / name).read_bytes()[:32])


def test_sidecar_is_not_an_image_by_content() -> None:
    assert not looks_like_image((ODD / "._photo.jpg").read_bytes()[:32])


@pytest.mark.parametrize("name", PORTRAITS[1:])
def test_portraits_of_all_orientations_are_equal(name: str) -> None:
    # They differ in compression and in the digit drawn in the middle.
    difference = np.abs(read(name).pixels.astype(int) - read(PORTRAITS[0]).pixels)
    assert difference.mean() < 4
    assert read(name).description.startswith("orientation=applied")


def test_wide_gamut_profiles_give_the_same_colours() -> None:
    adobe, p3 = read("adobergb.jpg"), read("displayp3.jpg")
    for source in (adobe, p3):
        assert parse_description(source.description)["color"] == "converted"
    assert np.abs(adobe.pixels.astype(int) - p3.pixels).mean() < 2


def test_inverted_cmyk_gives_a_blue_sky() -> None:
    red, green, blue = read("cmyk_adobe_transform0.jpg").pixels[10, 10].tolist()
    assert red < green < blue
    assert blue > 150


def test_ycck_gives_red_on_black() -> None:
    pixels = read("ycck_adobe_transform2.jpg").pixels
    assert pixels[1, 5, 0] > 200
    assert pixels[1, 5, 1:].max() < 80
    assert pixels[90, 50].max() < 30


def test_16_bit_gray_is_scaled_and_not_clipped() -> None:
    levels = np.unique(read("gray16.png").pixels)
    assert levels.size > 100
    assert (levels.min(), levels.max()) == (0, 255)


def test_transparency_becomes_white() -> None:
    for name in (
        "palette_trns.png",
        "rgba.png",
        "animated.webp",
        "animated_apng.png",
        "tiny_1x1.png",
    ):
        source = read(name)
        assert source.pixels[0, 0].tolist() == [255, 255, 255]
        assert ";alpha=composited-#ffffff;" in source.description
