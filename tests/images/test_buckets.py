"""Buckets match a plain enumeration, images get the nearest one, and texts are parsed back."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinac_cli.errors import ImageError, SmallImageError, UsageError
from dinac_cli.images.buckets import Buckets, choose_buckets, parse_buckets
from dinac_cli.images.geometry import (
    NO_GEOMETRY,
    Geometry,
    GeometryChoice,
    allows_upscaling,
    choose_geometry,
    find_geometry,
    has_buckets,
    read_geometry,
)

# kohya-ss/sd-scripts: the buckets of 1024x1024 in steps of 64, with its limits of 256 and 1024.
SD_SCRIPTS = {
    (256, 1024), (320, 1024), (384, 1024), (448, 1024), (512, 1024), (576, 1024), (640, 1024),
    (704, 1024), (768, 1024), (832, 1024), (896, 1024), (960, 1024), (1024, 1024),
}  # fmt: skip

sides = st.integers(1, 5000)


@st.composite
def drawn_buckets(draw: st.DrawFn) -> Buckets:
    step = draw(st.sampled_from([8, 16, 32, 64]))
    area = draw(st.integers(step, 700)), draw(st.integers(step, 700))
    chosen = choose(f"{area[0]}x{area[1]}:{step}")
    longest = draw(st.integers(chosen.shortest // step, chosen.longest // step + 3)) * step
    return Buckets(area, step, chosen.shortest, longest)


def choose(text: str, shortest: int | None = None, longest: int | None = None) -> Buckets:
    chosen = choose_buckets(text, shortest, longest)
    assert isinstance(chosen, Buckets)
    return chosen


@given(buckets=drawn_buckets())
def test_sizes_are_all_that_fit_the_area_as_well_as_the_step_allows(buckets: Buckets) -> None:
    pixels, step = math.prod(buckets.area), buckets.step
    fits = {
        (width, height)
        for width in range(buckets.shortest, buckets.longest + 1, step)
        for height in range(buckets.shortest, buckets.longest + 1, step)
        if width * height <= pixels
        and (width * (height + step) > pixels or height == buckets.longest)
    }
    square = min(buckets.longest, math.isqrt(pixels) // step * step)
    expected = fits | {(height, width) for width, height in fits} | {(square, square)}
    assert set(buckets.sizes) == expected
    assert list(buckets.sizes) == sorted(expected)


def test_sizes_and_limits_of_well_known_areas() -> None:
    buckets = choose("1024x1024:64")
    assert buckets == choose("1024") == Buckets((1024, 1024), 64, 512, 2048)
    assert {(832, 1216), (1216, 832), (512, 2048), (1024, 1024)} <= set(buckets.sizes)
    of_sd_scripts = SD_SCRIPTS | {(height, width) for width, height in SD_SCRIPTS}
    assert set(choose("1024x1024:64", 256, 1024).sizes) == of_sd_scripts
    wide = choose("832x1216:16")
    assert (wide.shortest, wide.longest) == (496, 2016)  # 502.9 and 2011.7, rounded to 16


@given(buckets=drawn_buckets(), width=sides, height=sides)
def test_an_image_gets_its_own_size_or_the_nearest_ratio(
    buckets: Buckets, width: int, height: int
) -> None:
    chosen = buckets.choose(width, height)
    if (width, height) in buckets.sizes:
        assert chosen == (width, height)
        return
    distances = {
        size: abs(Fraction(size[0], size[1]) - Fraction(width, height)) for size in buckets.sizes
    }
    nearest = [size for size in buckets.sizes if distances[size] == min(distances.values())]
    assert chosen == max(nearest, key=lambda size: (size[0] * size[1], size[0]))


def test_ties_go_to_more_pixels() -> None:
    buckets = choose("64x64:16")
    assert {(64, 64), (80, 48)} <= set(buckets.sizes)
    assert buckets.choose(400, 300) == (64, 64)  # 4:3 is as far from 1 as from 5:3


@given(buckets=drawn_buckets(), width=sides, height=sides)
def test_a_scaled_image_covers_its_bucket_and_keeps_its_aspect(
    buckets: Buckets, width: int, height: int
) -> None:
    bucket, scaled = buckets.choose(width, height), buckets.cover(width, height)
    factor = max(Fraction(bucket[0], width), Fraction(bucket[1], height))
    rounded = [math.floor(side * factor + Fraction(1, 2)) for side in (width, height)]
    assert list(scaled) == rounded
    assert min(scaled[0] - bucket[0], scaled[1] - bucket[1]) == 0


@given(width=sides, height=sides)
def test_small_images_are_refused_or_enlarged(width: int, height: int) -> None:
    buckets = choose("256x256:16")
    bucket = buckets.choose(width, height)
    strict = Geometry(buckets=buckets, upscale=False)
    is_small = width < bucket[0] or height < bucket[1]
    assert Geometry(buckets=buckets).upscales(width, height) == is_small
    assert not strict.upscales(width, height)
    if is_small:
        with pytest.raises(SmallImageError, match=rf"^{width}x{height} is smaller than its bucket"):
            strict.measure(width, height)
    else:
        assert strict.measure(width, height) == bucket


def test_pixels_are_scaled_and_cut_at_both_sides() -> None:
    pixels = np.zeros((64, 200, 3), np.uint8)
    pixels[:, 100:] = 255
    shaped = Geometry(buckets=choose("64x64:16")).apply(pixels)
    assert shaped.shape == (32, 96, 3)  # 200x64 is scaled to 100x32
    assert shaped[16, 0, 0] == 0
    assert shaped[16, -1, 0] == 255
    assert int(np.argmax(shaped[16, :, 0] > 127)) == 48


def test_an_enlarged_strip_may_not_have_too_many_pixels() -> None:
    with pytest.raises(ImageError, match=r"choose a smaller area for --buckets$"):
        Geometry(buckets=choose("1024")).measure(1, 30_000_000)


@given(buckets=drawn_buckets(), upscale=st.booleans(), flip=st.booleans())
def test_descriptions_are_parsed_back(buckets: Buckets, upscale: bool, flip: bool) -> None:
    geometry = Geometry(buckets=buckets, upscale=upscale, flip=flip)
    described = geometry.describe("orientation=none;color=srgb;alpha=none;frame=1/1")
    assert read_geometry(described) == geometry
    assert find_geometry(described) == geometry.text
    assert has_buckets(described)
    assert allows_upscaling(described) == upscale
    assert parse_buckets(buckets.text) == buckets


def test_the_text_is_a_value_that_earlier_versions_refuse_to_mix() -> None:
    geometry = Geometry(buckets=choose("1024x1024:64"), upscale=False)
    assert geometry.text == "resize=buckets-1024x1024-64-512-2048"
    assert Geometry(buckets=geometry.buckets).text == f"{geometry.text}-up"
    assert not has_buckets("resize=256;crop=256x256")


@pytest.mark.parametrize(
    "value",
    ["buckets-", "buckets-64x64-16-32", "buckets-64x64-16-24-128", "buckets-64x64-16-32-128-down",
     "buckets-0x64-16-32-128", "buckets-64x64-16-80-128", "buckets-9999999x9999999-16-32-128"],
)  # fmt: skip
def test_records_with_impossible_buckets_are_refused(value: str) -> None:
    with pytest.raises(ImageError, match=r"in the record's image field; update dinac-cli$"):
        read_geometry(f"resize={value}")


@pytest.mark.parametrize(
    ("text", "limits", "message"),
    [
        ("big", (), "--buckets big: expected AREA or AREA:STEP, such as 1024x1024:64, or none"),
        ("64:128", (), "--buckets 64:128: the step 128 is longer than the sides; choose less"),
        ("64:16", (24,), "--buckets 64:16: a limit of 24 is not a multiple of the step 16"),
        ("64:16", (80,), "--buckets 64:16: no bucket of 64x64 has sides of 80 or more"),
        ("64:16", (32, 16), "--buckets 64:16: the maximum 16 is less than the minimum 32"),
        ("9000:1", (), "--buckets 9000:1: the maximum 18000 is more than 1024 steps"),
        ("900000", (), "--buckets 900000: an area of 900000x900000 has more than "),
        (None, (16,), "--bucket-min needs --buckets AREA; add it, or leave --bucket-min out"),
        ("none", (None, 16), "--bucket-max needs --buckets AREA; add it, or leave "),
    ],
)
def test_wrong_options_are_explained(
    text: str | None, limits: tuple[int | None, ...], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        choose_buckets(text, *limits)
    assert str(caught.value).startswith(message)


def test_buckets_exclude_the_other_geometry() -> None:
    buckets = choose("64:16")
    for option, values in (("resize", (32, None, None)), ("max-side", (None, 32, None)),
                           ("crop", (None, None, (32, 32)))):  # fmt: skip
        with pytest.raises(UsageError, match=f"cannot be used with --{option}; leave one out$"):
            choose_geometry(*values, buckets=buckets)
        with pytest.raises(ValueError, match="buckets excludes"):
            Geometry(values[0], values[1], values[2], buckets=buckets)
    assert choose_geometry(None, None, None, buckets="none") == NO_GEOMETRY


def test_a_run_follows_held_buckets_and_replaces_other_scaling() -> None:
    buckets, held = choose("64:16"), Geometry(buckets=choose("64:16"), flip=True)
    square = Geometry(resize=32, crop=(32, 32), upscale=True)
    assert GeometryChoice().follow(held) == held
    assert GeometryChoice(buckets=buckets).follow(held) == held
    assert GeometryChoice(buckets=buckets).fill() == Geometry(buckets=buckets, upscale=False)
    assert GeometryChoice(buckets=buckets).follow(square) == Geometry(
        buckets=buckets, upscale=False
    )
    strict = Geometry(buckets=buckets, upscale=False)
    assert GeometryChoice(resize=32, crop=(8, 8)).follow(strict) == Geometry(32, crop=(8, 8))
    assert GeometryChoice(crop=(8, 8)).follow(strict) == Geometry(crop=(8, 8))
    assert GeometryChoice(buckets="none").follow(strict) == NO_GEOMETRY
    assert GeometryChoice(upscale=True).follow(strict) == replace_upscale(strict)


def replace_upscale(geometry: Geometry) -> Geometry:
    return Geometry(buckets=geometry.buckets, flip=geometry.flip, upscale=True)


def test_differences_are_spelled_as_options() -> None:
    strict = Geometry(buckets=choose("64:16"), upscale=False)
    limited = Geometry(buckets=choose("64:16", 16, 64))
    assert strict.list_options(NO_GEOMETRY) == ["--buckets 64x64:16"]
    assert limited.list_options(strict) == [
        "--buckets 64x64:16 --bucket-min 16 --bucket-max 64 --upscale"
    ]
    assert strict.list_options(replace_upscale(strict)) == ["--no-upscale"]
    assert NO_GEOMETRY.list_options(strict) == ["--buckets none"]
    assert Geometry(resize=32).list_options(strict) == ["--resize 32"]
    assert strict.list_options(Geometry(resize=32)) == ["--buckets 64x64:16"]


def test_the_step_must_fit_the_patch() -> None:
    Geometry(buckets=choose("64:32")).require_patch(16)
    with pytest.raises(UsageError, match=r"multiple of its patch of 16 pixels; choose AREA:16$"):
        Geometry(buckets=choose("64:24")).require_patch(16)
