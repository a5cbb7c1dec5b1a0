"""Sizes match exact arithmetic, pixels match Pillow, and descriptions are parsed back."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dinac_cli.errors import ImageError, UsageError
from dinac_cli.images.formats import MAX_PIXELS
from dinac_cli.images.geometry import (
    MAX_SIDE,
    NO_GEOMETRY,
    Geometry,
    GeometryChoice,
    allows_upscaling,
    choose_geometry,
    find_geometry,
    parse_size,
    read_geometry,
)
from dinac_cli.images.pixels import mirror_pixels

from .hand_made import make_pixels

READING = "orientation=applied;color=srgb;alpha=none;frame=1/1"

sides = st.integers(1, 5000)
wanted = st.integers(1, 3000)
geometries = st.builds(
    Geometry, resize=st.none() | st.integers(1, MAX_SIDE), flip=st.booleans(),
    crop=st.none() | st.tuples(st.integers(1, MAX_SIDE), st.integers(1, MAX_SIDE)),
) | st.builds(
    Geometry, resize=st.integers(1, MAX_SIDE), upscale=st.just(False), flip=st.booleans()
) | st.builds(Geometry, max_side=st.integers(1, MAX_SIDE), flip=st.booleans())  # fmt: skip


def round_half_up(value: Fraction) -> int:
    return max(1, math.floor(value + Fraction(1, 2)))


@given(width=sides, height=sides, side=wanted)
def test_resize_sets_the_short_side_and_keeps_the_aspect(
    width: int, height: int, side: int
) -> None:
    factor = Fraction(side, min(width, height))
    expected = round_half_up(width * factor), round_half_up(height * factor)
    if expected[0] * expected[1] > max(MAX_PIXELS, width * height):
        with pytest.raises(ImageError, match=rf"^{width}x{height} would be scaled to "):
            Geometry(resize=side).scale(width, height)
        return
    assert Geometry(resize=side).measure(width, height) == expected
    assert min(expected) == side
    assert Geometry(resize=side).measure(height, width) == expected[::-1]


@given(width=sides, height=sides, side=wanted)
def test_max_side_bounds_the_long_side_and_never_enlarges(
    width: int, height: int, side: int
) -> None:
    factor = min(Fraction(1), Fraction(side, max(width, height)))
    expected = round_half_up(width * factor), round_half_up(height * factor)
    assert Geometry(max_side=side).measure(width, height) == expected
    assert max(expected) == min(side, max(width, height))


@given(width=sides, height=sides, side=wanted)
def test_resize_without_upscale_only_reduces(width: int, height: int, side: int) -> None:
    geometry = Geometry(resize=side, upscale=False)
    if min(width, height) <= side:
        assert geometry.measure(width, height) == (width, height)
    else:
        assert geometry.measure(width, height) == Geometry(resize=side).measure(width, height)
    assert not geometry.upscales(width, height)
    assert Geometry(resize=side).upscales(width, height) == (min(width, height) < side)


@given(geometries)
def test_description_is_parsed_back(geometry: Geometry) -> None:
    description = geometry.describe(READING)
    assert read_geometry(description) == geometry
    assert find_geometry(description) == geometry.text
    assert description == (f"{READING};{geometry.text}" if geometry.text else READING)


def test_text_lists_what_is_requested() -> None:
    assert NO_GEOMETRY.text == ""
    assert Geometry(256, None, (256, 128), True).text == "resize=256;crop=256x128;flip=twin"
    assert Geometry(max_side=1024).text == "max_side=1024"
    assert Geometry(resize=256, upscale=False).text == "resize=256-down"


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ("rotate=90", "unknown key 'rotate'"),
        ("resize=0256", "'0256' is not a number of pixels"),
        ("resize=", "'' is not a number of pixels"),
        ("resize=-down", "'' is not a number of pixels"),
        ("resize=8-up", "'8-up' is not a number of pixels"),
        ("max_side=8-down", "'8-down' is not a number of pixels"),
        ("resize=-1", "'-1' is not a number of pixels"),
        ("resize=9999999", f"sides must be 1 to {MAX_SIDE} pixels long"),
        ("resize=8;max_side=8", "resize and max_side cannot be used together; leave one out"),
        ("resize=8;resize=8", "'resize=8' is not a key=value pair, or repeats a key"),
        ("crop=8", "'8' is not a size"),
        ("crop=8x08", "8x08 is not a size"),
        ("crop=8x8x8", "8x8x8 is not a size"),
        ("flip=both", "unknown flip 'both'"),
        ("flip", "'flip' is not a key=value pair, or repeats a key"),
    ],
)
def test_malformed_field_is_refused(field: str, reason: str) -> None:
    with pytest.raises(ImageError) as caught:
        read_geometry(f"{READING};{field}")
    assert str(caught.value) == f"{reason} in the record's image field; update dinac-cli"


@pytest.mark.parametrize("side", [0, -1, MAX_SIDE + 1])
def test_option_that_is_out_of_range_is_named(side: int) -> None:
    for option, values in (
        ("--resize", (side, None, (8, 8))),
        ("--max-side", (None, side, (8, 8))),
        ("--crop", (8, None, (8, side))),
        ("--crop", (None, 8, (side, 8))),
    ):
        with pytest.raises(UsageError) as caught:
            choose_geometry(*values)
        assert str(caught.value) == f"{option} {side}: expected 1 to {MAX_SIDE} pixels"


def test_options_make_a_geometry() -> None:
    assert choose_geometry(None, None, None) == NO_GEOMETRY
    assert choose_geometry(1, None, (8, MAX_SIDE), flip=True) == Geometry(
        1, None, (8, MAX_SIDE), True
    )
    with pytest.raises(UsageError, match="cannot be used together; leave one out"):
        choose_geometry(8, 8, None)
    with pytest.raises(UsageError, match=r"^--no-upscale needs --resize; "):
        choose_geometry(None, 8, None, upscale=False)


@pytest.mark.parametrize(
    ("description", "allowed"),
    [("", False), ("max_side=8", False), ("resize=8", True), ("resize=8-down", False)],
)
def test_description_says_whether_images_may_be_scaled_up(description: str, allowed: bool) -> None:
    assert allows_upscaling(description) is allowed


class TestChoice:
    HELD = Geometry(resize=64, crop=(48, 32), flip=True)

    @given(geometries)
    def test_a_choice_of_nothing_follows_everything(self, geometry: Geometry) -> None:
        assert GeometryChoice().follow(geometry) == geometry

    @given(geometries)
    def test_a_choice_of_defaults_follows_nothing(self, geometry: Geometry) -> None:
        choice = GeometryChoice(resize="none", max_side="none", crop="none", flip=False)
        assert choice.follow(geometry) == NO_GEOMETRY

    def test_a_given_option_wins_and_the_others_follow(self) -> None:
        held = self.HELD
        assert GeometryChoice(resize=9).follow(held) == Geometry(9, None, (48, 32), True)
        assert GeometryChoice(resize="none").follow(held) == Geometry(crop=(48, 32), flip=True)
        assert GeometryChoice(max_side="none").follow(held) == held
        assert GeometryChoice(crop="none", flip=False).follow(held) == Geometry(resize=64)

    def test_upscaling_follows_together_with_resize(self) -> None:
        held = Geometry(resize=64, upscale=False)
        assert GeometryChoice().follow(held) == held
        assert GeometryChoice(upscale=True).follow(held) == Geometry(resize=64)
        assert GeometryChoice(resize="none").follow(held) == NO_GEOMETRY
        assert GeometryChoice(max_side=9).follow(held) == Geometry(max_side=9)
        assert GeometryChoice(upscale=False).follow(Geometry(resize=64)) == held
        assert GeometryChoice(resize=64).follow(held) == held
        with pytest.raises(UsageError, match=r"^--no-upscale needs --resize; "):
            GeometryChoice(upscale=False).follow(NO_GEOMETRY)

    def test_a_choice_is_filled_with_defaults(self) -> None:
        assert GeometryChoice(upscale=False).fill() == NO_GEOMETRY
        assert GeometryChoice(resize=9, upscale=False).fill() == Geometry(resize=9, upscale=False)

    def test_resize_and_max_side_replace_each_other(self) -> None:
        assert GeometryChoice(max_side=9).follow(Geometry(resize=64)) == Geometry(max_side=9)
        assert GeometryChoice(resize=9).follow(Geometry(max_side=64)) == Geometry(resize=9)
        with pytest.raises(UsageError, match="cannot be used together; leave one out"):
            GeometryChoice(resize=9, max_side=9)

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ({"resize": 0}, f"--resize 0: expected 1 to {MAX_SIDE} pixels"),
            ({"resize": "off"}, f"--resize off: expected 1 to {MAX_SIDE} pixels, or none"),
            ({"max_side": ""}, f"--max-side : expected 1 to {MAX_SIDE} pixels, or none"),
            ({"crop": "8x8"}, "--crop 8x8: expected (width, height) or none"),
        ],
    )
    def test_an_invalid_option_is_named(self, option: dict[str, Any], message: str) -> None:
        with pytest.raises(UsageError) as caught:
            GeometryChoice(**option)
        assert str(caught.value) == message


@pytest.mark.parametrize(
    ("own", "other", "options"),
    [
        (NO_GEOMETRY, NO_GEOMETRY, []),
        (Geometry(8, None, (4, 2), True), NO_GEOMETRY, ["--resize 8", "--crop 4x2", "--flip"]),
        (
            NO_GEOMETRY,
            Geometry(8, None, (4, 2), True),
            ["--resize none", "--crop none", "--no-flip"],
        ),
        (NO_GEOMETRY, Geometry(max_side=8), ["--max-side none"]),
        (Geometry(max_side=8), Geometry(resize=8), ["--max-side 8"]),
        (Geometry(resize=8, flip=True), Geometry(resize=8), ["--flip"]),
        (Geometry(8, upscale=False), Geometry(resize=8), ["--no-upscale"]),
        (Geometry(resize=8), Geometry(8, upscale=False), ["--upscale"]),
        (Geometry(8, upscale=False), NO_GEOMETRY, ["--resize 8 --no-upscale"]),
        (NO_GEOMETRY, Geometry(8, upscale=False), ["--resize none"]),
    ],
)
def test_differing_options_are_listed(own: Geometry, other: Geometry, options: list[str]) -> None:
    assert own.list_options(other) == options


def test_unknown_fields_are_ignored_in_a_comparison() -> None:
    assert read_geometry("") == read_geometry(READING) == NO_GEOMETRY
    assert find_geometry("invented=later;crop=8x8") == "crop=8x8"


@pytest.mark.parametrize("text", ["", "x", "8x", "x8", "0", "0x8", "-8", "8.5", "8X8", " 8", "٨"])
def test_malformed_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


def test_size_is_parsed() -> None:
    assert (parse_size("256"), parse_size("256x128")) == ((256, 256), (256, 128))


@pytest.mark.parametrize(
    ("geometry", "size"),
    [
        (Geometry(resize=16), (27, 16)),
        (Geometry(resize=48), (80, 48)),
        (Geometry(max_side=20), (20, 12)),
        (Geometry(resize=24), (40, 24)),
        (Geometry(max_side=99), (40, 24)),
    ],
)
def test_scaled_pixels_equal_those_of_pillow(geometry: Geometry, size: tuple[int, int]) -> None:
    pixels = make_pixels(24, 40)
    expected = Image.fromarray(pixels)
    if size != expected.size:
        expected = expected.resize(size, Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(geometry.apply(pixels), np.asarray(expected))


def test_crop_keeps_the_centre_after_scaling() -> None:
    pixels = make_pixels(24, 41)
    np.testing.assert_array_equal(
        Geometry(crop=(8, 7)).apply(pixels), pixels[8 : 8 + 7, 16 : 16 + 8]
    )
    scaled = Geometry(resize=12).apply(pixels)  # 21 x 12
    both = Geometry(resize=12, crop=(12, 12)).apply(pixels)
    np.testing.assert_array_equal(both, scaled[:, 4:16])
    assert both.flags.owndata
    assert both.flags.writeable


def test_unchanged_pixels_are_not_copied() -> None:
    pixels = make_pixels()
    assert Geometry(flip=True).apply(pixels) is pixels
    assert Geometry(max_side=40, crop=(40, 24)).apply(pixels) is pixels


def test_pixels_are_mirrored() -> None:
    pixels = make_pixels()
    np.testing.assert_array_equal(mirror_pixels(pixels), pixels[:, ::-1])
    assert mirror_pixels(pixels).flags.c_contiguous


@pytest.mark.parametrize(
    ("geometry", "line"),
    [
        (
            Geometry(crop=(64, 20)),
            "40x24 is smaller than the crop of 64x20; crop less, or scale with --resize first",
        ),
        (
            Geometry(resize=12, crop=(16, 16)),
            "40x24, scaled to 20x12, is smaller than the crop of 16x16; "
            "crop less, or choose a larger --resize",
        ),
        (
            Geometry(max_side=20, crop=(16, 16)),
            "40x24, scaled to 20x12, is smaller than the crop of 16x16; "
            "crop less, or choose a larger --max-side",
        ),
        (
            Geometry(resize=32, crop=(32, 32), upscale=False),
            "40x24 is smaller than the crop of 32x32; crop less, or leave out --no-upscale, or add "
            "--skip-small",
        ),
        (
            Geometry(resize=400_000),
            "40x24 would be scaled to 666667x400000, 266666800000 pixels, more than the limit of "
            f"{MAX_PIXELS}; choose a smaller --resize",
        ),
    ],
)
def test_image_of_unsuitable_size_is_refused(geometry: Geometry, line: str) -> None:
    with pytest.raises(ImageError) as caught:
        geometry.apply(make_pixels(24, 40))
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"resize": 8, "max_side": 8}, "cannot be used together; leave one out"),
        ({"max_side": 8, "upscale": False}, "upscale=False needs resize"),
        ({"resize": 0}, "sides must be 1 to"),
        ({"crop": (8, MAX_SIDE + 1)}, "sides must be 1 to"),
    ],
)
def test_impossible_geometry_is_refused(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Geometry(**fields)
