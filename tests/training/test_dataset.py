"""The survey, the held-out images, and crops that depend only on seed and step."""

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
    ReadOptions,
    TrainImage,
    hash_images,
    hold_out,
    load_image,
    shrink_pixels,
    survey_images,
)


def test_survey_skips_small_and_broken_images(photo_paths: list[str], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    survey = survey_images([*photo_paths, str(broken)], crop=32)
    images, skipped = survey.images, survey.skipped
    assert [Path(image.path).name for image in images] == [
        "clouds.png",
        "leaves.png",
        "rings.png",
        "wide.png",
    ]
    assert (images[0].height, images[0].width) == (80, 112)
    assert len(skipped) == 2
    assert "64x24 is smaller than a crop of 32" in skipped[0]
    assert "not an image" in skipped[1]


def test_images_that_are_all_too_small_are_refused(photo_paths: list[str]) -> None:
    with pytest.raises(UsageError, match="no image has at least 4096 pixels"):
        survey_images(photo_paths, crop=4096)


def test_options_say_how_images_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(path)
    for background in ((255, 255, 255), (10, 20, 30)):
        options = ReadOptions(background=background)
        [image] = survey_images([str(path)], 32, options).images
        assert (load_image(image) == background).all()
    with pytest.raises(UsageError, match="no image is readable, 1 failed"):
        survey_images([str(path)], 32, ReadOptions(max_pixels=100))
    with pytest.raises(UsageError, match="--hdr x: choose one of"):
        ReadOptions(hdr="x")


def test_damaged_images_are_skipped_or_read_with_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("simplejpeg")
    whole, cut = tmp_path / "whole.jpg", tmp_path / "cut.jpg"
    noise = np.random.default_rng(3).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(whole)
    data = whole.read_bytes()
    cut.write_bytes(data[: len(data) // 2] + data[-2:])
    survey = survey_images([str(whole), str(cut)], 32)
    assert [image.path for image in survey.images] == [str(whole)]
    [line] = survey.skipped
    assert line.startswith(f"{cut}: damaged JPEG file (")
    survey = survey_images([str(whole), str(cut)], 32, ReadOptions(damaged="warn"))
    assert [image.path for image in survey.images] == [str(whole), str(cut)]
    assert load_image(survey.images[1]).shape == (48, 64, 3)
    [line] = survey.damaged
    assert line.startswith(f"{cut}: damaged JPEG file: ")
    assert (survey.skipped, survey.unchecked) == ([], 0)
    with pytest.raises(UsageError, match="no image is readable, 1 failed"):
        survey_images([str(cut)], 32)


def _make_images(count: int) -> list[TrainImage]:
    """Returns images with random features, as of a survey."""
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


def test_held_out_images_do_not_depend_on_the_order() -> None:
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


def test_1_to_64_images_are_held_out() -> None:
    assert len(hold_out(_make_images(2))[1]) == 1
    many = [
        replace(image, sha256=hashlib.sha256(image.sha256.encode() + bytes([copy])).hexdigest())
        for copy in range(3)
        for image in _make_images(256)
    ]
    assert len(hold_out(many)[1]) == 64


def test_single_image_is_trained_on_and_held_out() -> None:
    only = TrainImage("a.png", 64, 64, "1" * 64, (0.0,))
    assert hold_out([only]) == ([only], [only])


def test_hash_depends_on_every_image() -> None:
    images = [TrainImage("a.png", 64, 64, digit * 64, (0.0,)) for digit in "123"]
    assert hash_images(images) != hash_images(images[:2])
    assert len(hash_images(images)) == 64


def test_crops_depend_only_on_seed_and_step(photo_paths: list[str]) -> None:
    images = survey_images(photo_paths, crop=32).images
    source = CropSource(images, 32, (1.0, 0.5), seed=3)
    crops = source.draw(5, 8)
    assert crops.shape == (8, 3, 32, 32)
    assert crops.dtype == np.uint8
    source.draw(6, 8)  # earlier draws make no difference
    np.testing.assert_array_equal(source.draw(5, 8), crops)
    again = CropSource(images, 32, (1.0, 0.5), seed=3, cache_bytes=1)  # nor does the cache
    np.testing.assert_array_equal(again.draw(5, 8), crops)
    assert not np.array_equal(source.draw(6, 8), crops)
    assert not np.array_equal(CropSource(images, 32, (1.0,), seed=4).draw(5, 8), crops)


def test_crop_is_a_part_of_its_image_in_one_of_8_orientations(photo_paths: list[str]) -> None:
    images = survey_images(photo_paths, crop=64).images
    only = [image for image in images if image.path.endswith("rings.png")]
    whole = draw_rings(64, 64).transpose(2, 0, 1)
    oriented = {
        np.ascontiguousarray(t[:, ::a, ::b]).tobytes()
        for t in (whole, whole.transpose(0, 2, 1))
        for a in (1, -1)
        for b in (1, -1)
    }
    crops = CropSource(only, 64, (1.0,), seed=0).draw(0, 16)
    assert {np.ascontiguousarray(crop).tobytes() for crop in crops} <= oriented


def test_images_are_shrunk() -> None:
    pixels = draw_rings(64, 96)
    assert shrink_pixels(pixels, 0.5).shape == (32, 48, 3)
    assert shrink_pixels(pixels, 1.0) is pixels


def test_crops_of_a_group_come_from_one_image(tmp_path: Path) -> None:
    paths = []
    for level in (40, 120, 200):
        path = tmp_path / f"{level}.png"
        Image.fromarray(np.full((48, 48, 3), level, np.uint8)).save(path)
        paths.append(str(path))
    images = survey_images(paths, 32).images
    crops = CropSource(images, 32, (1.0,), seed=0).draw(0, 24, group=4)
    levels = crops[:, 0, 0, 0].reshape(6, 4)
    assert (levels == levels[:, :1]).all()
    assert len(np.unique(levels)) > 1
