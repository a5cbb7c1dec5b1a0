"""Crops: which images, which places, and the same ones again."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinac_cli.errors import UsageError
from dinac_cli.images.samples import draw_rings
from dinac_cli.training.dataset import (
    CropSource,
    TrainImage,
    hash_images,
    hold_out,
    scale_pixels,
    survey_images,
)


def test_survey_leaves_out_what_cannot_be_cropped(photo_paths: list[str], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    images, left_out = survey_images([*photo_paths, str(broken)], crop=32)
    assert [Path(image.path).name for image in images] == [
        "clouds.png",
        "leaves.png",
        "rings.png",
        "wide.png",
    ]
    assert (images[0].height, images[0].width) == (80, 112)
    assert len(left_out) == 2
    assert "64x24 is smaller than a crop of 32" in left_out[0]
    assert "not an image" in left_out[1]


def test_survey_refuses_a_set_without_large_images(photo_paths: list[str]) -> None:
    with pytest.raises(UsageError, match="no image of at least 4096 pixels"):
        survey_images(photo_paths, crop=4096)


def _make_images(count: int) -> list[TrainImage]:
    """Images of random looks, as a survey describes them."""
    rng = np.random.default_rng(7)
    return [
        TrainImage(f"{i}.png", 64, 64, hashlib.sha256(bytes([i])).hexdigest(), tuple(features))
        for i, features in enumerate(rng.lognormal(size=(count, 6)).tolist())
    ]


def test_held_out_images_are_not_trained_on() -> None:
    images = _make_images(200)
    kept, held = hold_out(images)
    assert len(held) == 25
    assert len(kept) == 175
    assert not {image.path for image in kept} & {image.path for image in held}
    assert hold_out(images) == (kept, held)


def test_what_is_held_out_does_not_depend_on_the_order() -> None:
    images = _make_images(40)
    assert {image.path for image in hold_out(images)[1]} == {
        image.path for image in hold_out(images[::-1])[1]
    }


def test_copies_of_a_file_are_held_out_together() -> None:
    images = _make_images(40)
    _, held = hold_out(images)
    copy = replace(held[0], path="copy.png")
    kept, held_again = hold_out([*images, copy])
    assert {image.path for image in held_again} == {image.path for image in [*held, copy]}
    assert not {image.sha256 for image in kept} & {image.sha256 for image in held_again}


def test_at_least_one_image_is_held_out_and_at_most_64() -> None:
    assert len(hold_out(_make_images(2))[1]) == 1
    many = [
        replace(image, sha256=hashlib.sha256(image.sha256.encode() + bytes([turn])).hexdigest())
        for turn in range(3)
        for image in _make_images(256)
    ]
    assert len(hold_out(many)[1]) == 64


def test_one_image_is_both_trained_on_and_watched() -> None:
    only = TrainImage("a.png", 64, 64, "1" * 64, (0.0,))
    assert hold_out([only]) == ([only], [only])


def test_the_data_hash_depends_on_every_image() -> None:
    images = [TrainImage("a.png", 64, 64, digit * 64, (0.0,)) for digit in "123"]
    assert hash_images(images) != hash_images(images[:2])
    assert len(hash_images(images)) == 64


def test_crops_depend_on_seed_and_step_alone(photo_paths: list[str]) -> None:
    images, _ = survey_images(photo_paths, crop=32)
    source = CropSource(images, 32, (1.0, 0.5), seed=3)
    crops = source.draw(5, 8)
    assert crops.shape == (8, 3, 32, 32)
    assert crops.dtype == np.uint8
    source.draw(6, 8)  # what was drawn before makes no difference
    np.testing.assert_array_equal(source.draw(5, 8), crops)
    again = CropSource(images, 32, (1.0, 0.5), seed=3, cache_bytes=1)  # nor what is kept
    np.testing.assert_array_equal(again.draw(5, 8), crops)
    assert not np.array_equal(source.draw(6, 8), crops)
    assert not np.array_equal(CropSource(images, 32, (1.0,), seed=4).draw(5, 8), crops)


def test_a_crop_is_a_part_of_its_image_turned_or_mirrored(photo_paths: list[str]) -> None:
    images, _ = survey_images(photo_paths, crop=64)
    only = [image for image in images if image.path.endswith("rings.png")]
    whole = draw_rings(64, 64).transpose(2, 0, 1)
    turned = {
        np.ascontiguousarray(t[:, ::a, ::b]).tobytes()
        for t in (whole, whole.transpose(0, 2, 1))
        for a in (1, -1)
        for b in (1, -1)
    }
    crops = CropSource(only, 64, (1.0,), seed=0).draw(0, 16)
    assert {np.ascontiguousarray(crop).tobytes() for crop in crops} <= turned


def test_scaling_shrinks_and_never_grows() -> None:
    pixels = draw_rings(64, 96)
    assert scale_pixels(pixels, 0.5).shape == (32, 48, 3)
    assert scale_pixels(pixels, 1.0) is pixels


def test_a_group_of_crops_is_of_one_image(tmp_path: Path) -> None:
    paths = []
    for level in (40, 120, 200):
        path = tmp_path / f"{level}.png"
        Image.fromarray(np.full((48, 48, 3), level, np.uint8)).save(path)
        paths.append(str(path))
    images, _ = survey_images(paths, 32)
    crops = CropSource(images, 32, (1.0,), seed=0).draw(0, 24, group=4)
    levels = crops[:, 0, 0, 0].reshape(6, 4)
    assert (levels == levels[:, :1]).all()
    assert len(np.unique(levels)) > 1
