"""Masks: exact means of patches, levels of mask files, and the geometry of the image."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dinac_cli.errors import ImageError
from dinac_cli.images.buckets import Buckets
from dinac_cli.images.geometry import NO_GEOMETRY, Geometry
from dinac_cli.images.masks import Mask, average_patches, drop_full, fit_mask, scale_mask
from dinac_cli.images.reading import (
    WHITE,
    MaskFile,
    SourceImage,
    read_image,
    read_mask,
    read_shaped,
)

from .hand_made import (
    add_avif_property,
    make_exif,
    make_linear_gray_profile,
    make_pixels,
    make_png,
    save,
)
from .test_damage import make_fax
from .test_declared import clap


def mask_of(rows: list[list[int]]) -> Mask:
    return np.array(rows, np.uint8)


class TestPatches:
    def test_means_are_rounded_half_up(self) -> None:
        mask = mask_of([[255, 0, 1, 0], [0, 0, 0, 0], [255, 255, 1, 0], [255, 254, 0, 1]])
        # 63.75, 0.25, 254.75, 0.5
        assert average_patches(mask, 2).tolist() == [[64, 0], [255, 1]]

    def test_padding_does_not_count(self) -> None:
        mask = mask_of([[255, 255, 100], [255, 255, 101], [10, 20, 7]])
        # The last patches hold 2 x 1, 1 x 2 and 1 x 1 pixels: 100.5, 15, 7
        means = average_patches(mask, 2)
        assert means.tolist() == [[255, 101], [15, 7]]
        assert means.dtype == np.uint8

    def test_the_mirrored_mask_has_other_patches(self) -> None:
        mask = mask_of([[255, 0, 0]])
        assert average_patches(mask, 2).tolist() == [[128, 0]]
        assert average_patches(mask[:, ::-1], 2).tolist() == [[0, 255]]

    @pytest.mark.parametrize("size", [(1, 1), (16, 16), (33, 40), (15, 257)])
    def test_means_are_those_of_plain_arithmetic(self, size: tuple[int, int]) -> None:
        mask = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
        means = average_patches(mask, 16)
        assert means.shape == (-(-size[0] // 16), -(-size[1] // 16))
        for (row, column), mean in np.ndenumerate(means):
            patch = mask[16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
            assert mean == int(patch.sum() / patch.size + 0.5)

    def test_a_large_white_patch_does_not_overflow(self) -> None:
        assert average_patches(np.full((1024, 2048), 255, np.uint8), 1024).tolist() == [[255, 255]]

    def test_a_full_mask_is_dropped(self) -> None:
        assert drop_full(mask_of([[255, 255]])) is None
        kept = mask_of([[255, 254]])
        assert drop_full(kept) is kept


class TestScaling:
    def test_scaling_takes_means_of_areas_and_never_rings(self) -> None:
        assert scale_mask(mask_of([[0, 255, 10, 20]]), 2, 1).tolist() == [[128, 15]]
        edge = np.repeat(mask_of([[0, 255]]), 40, axis=1)
        assert set(scale_mask(edge, 40, 1).ravel().tolist()) == {0, 255}
        assert scale_mask(mask_of([[0, 255]]), 4, 2).tolist() == [[0, 0, 255, 255]] * 2
        assert scale_mask(edge, 80, 1) is edge

    @pytest.mark.parametrize("size", [(5, 7), (20, 13), (1, 1), (33, 47), (34, 30), (33, 46)])
    def test_a_pixel_in_two_areas_counts_in_both(self, size: tuple[int, int]) -> None:
        """Compared with the mean over a mask that is repeated until all sizes divide it."""
        mask = np.random.default_rng(0).integers(0, 256, (33, 46), dtype=np.uint8)
        mask[:9], mask[:, 30:] = 0, 255
        height, width = size
        fine = mask.repeat(height, axis=0).repeat(width, axis=1)
        means = fine.reshape(height, 33, width, 46).mean(axis=(1, 3))
        scaled = scale_mask(mask, width, height)
        assert scaled.shape == size
        assert np.abs(scaled - means).max() <= 0.5 + 1e-4

    def test_a_full_and_an_empty_mask_stay_so(self) -> None:
        for level in (0, 255):
            mask = np.full((97, 61), level, np.uint8)
            for size in ((10, 16), (100, 163)):
                assert set(np.unique(scale_mask(mask, *size))) == {level}

    @pytest.mark.parametrize(
        ("mask", "image"),
        [((333, 500), (667, 1000)), ((334, 500), (667, 1000)), ((1334, 2000), (667, 1000)),
         ((667, 1000), (667, 1000)), ((50, 75), (667, 1000)), ((668, 1000), (667, 1000))],
    )  # fmt: skip
    def test_masks_of_the_same_aspect_ratio_fit(
        self, mask: tuple[int, int], image: tuple[int, int]
    ) -> None:
        assert fit_mask(np.zeros(mask, np.uint8), image[1], image[0]).shape == image

    @pytest.mark.parametrize("mask", [(1000, 667), (500, 500), (669, 1000), (664, 1000)])
    def test_other_masks_are_refused(self, mask: tuple[int, int]) -> None:
        with pytest.raises(ImageError, match=f"has {mask[1]}x{mask[0]} pixels, another aspect"):
            fit_mask(np.zeros(mask, np.uint8), 1000, 667)


class TestFiles:
    def test_levels_of_gray_are_the_values(self) -> None:
        levels = np.arange(256, dtype=np.uint8).reshape(8, 32)
        image = Image.fromarray(levels)
        for name in ("PNG", "BMP", "TIFF"):
            np.testing.assert_array_equal(read_mask(save(image, name)), levels)
            np.testing.assert_array_equal(read_mask(save(image.convert("RGB"), name)), levels)
        profile = make_linear_gray_profile()
        np.testing.assert_array_equal(read_mask(save(image, "PNG", icc_profile=profile)), levels)

    def test_one_bit_and_sixteen_bits(self) -> None:
        assert read_mask(make_png((9, 1), 1, 0, [b"\xaa\x80"])).tolist() == [[255, 0] * 4 + [255]]
        deep = read_mask(make_png((3, 1), 16, 0, [b"\x00\x00\x80\x80\xff\xff"]))
        assert deep.tolist() == [[0, 128, 255]]

    def test_transparent_parts_do_not_count(self) -> None:
        image = Image.fromarray(np.array([[[255, 255], [255, 0], [200, 128]]], np.uint8), "LA")
        assert read_mask(save(image, "PNG")).tolist() == [[255, 0, 100]]

    def test_colours_count_by_their_luma(self) -> None:
        palette = Image.fromarray(mask_of([[0, 1, 2]]), "P")
        palette.putpalette([0, 0, 0, 255, 255, 255, 255, 0, 0])
        assert read_mask(save(palette, "PNG")).tolist() == [[0, 255, 76]]

    @pytest.mark.parametrize("orientation", [3, 6, 8])
    def test_orientation_is_applied(self, orientation: int) -> None:
        levels = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
        turns = {3: 2, 6: -1, 8: 1}
        data = save(Image.fromarray(levels), "PNG", exif=make_exif(orientation))
        np.testing.assert_array_equal(read_mask(data), np.rot90(levels, turns[orientation]))

    def test_clean_aperture_is_applied(self) -> None:
        gray = Image.fromarray(make_pixels()[..., 0])
        whole = save(gray, "AVIF", quality=100, subsampling="4:4:4")
        box = clap((20, 1), (11, 1), (5, 1), (-1, 2))
        cut = read_mask(add_avif_property(whole, b"clap", box))
        np.testing.assert_array_equal(cut, read_mask(whole)[6:17, 15:35])

    def test_levels_0_and_1_are_refused(self) -> None:
        with pytest.raises(ImageError, match="holds only the levels 0 and 1"):
            read_mask(save(Image.fromarray(mask_of([[0, 1]])), "PNG"))
        assert read_mask(save(Image.fromarray(mask_of([[0, 0]])), "PNG")).tolist() == [[0, 0]]

    def test_sixteen_bits_of_low_levels_are_refused(self) -> None:
        for level, message in (
            (1, "holds no level above 1 of 65535; make what counts 65535"),
            (100, "holds no level above 100 of 65535"),
            (255, "holds only the levels 0 and 1"),
        ):
            for kind in (np.uint16, np.int32):
                image = Image.fromarray(np.array([[0, level, 0]], kind))
                with pytest.raises(ImageError, match=f"^{message}"):
                    read_mask(save(image, "TIFF"))
        black = Image.fromarray(np.zeros((2, 3), np.uint16))
        assert read_mask(save(black, "PNG")).max() == 0

    def test_damaged_files_are_refused(self) -> None:
        data = save(Image.fromarray(make_pixels()[..., 0]), "JPEG")
        assert read_mask(data[:-2]).shape == (24, 40)  # only the end marker is missing
        with pytest.raises(ImageError, match=r"^(damaged|truncated)"):
            read_mask(data[:-40])
        fax = make_fax("group4")
        assert set(np.unique(read_mask(fax))) == {0, 255}
        with pytest.raises(ImageError):
            read_mask(b"text")
        with pytest.raises(ImageError, match="limit"):
            read_mask(fax, max_pixels=10)


def read(data: bytes, geometry: Geometry = NO_GEOMETRY, **options: Any) -> SourceImage:
    return read_shaped(
        data, lambda _: None, background=WHITE, max_pixels=10**6, geometry=geometry, **options
    )


ALPHA = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
OPAQUE = save(Image.fromarray(np.zeros((4, 6, 3), np.uint8)), "PNG")
CLEAR = save(Image.fromarray(np.dstack([np.zeros((4, 6, 3), np.uint8), ALPHA])), "PNG")
MASK = MaskFile(save(Image.fromarray(ALPHA), "PNG"), "m/a.png")
SQUARES = Buckets((4, 4), 2, 2, 8)


class TestImages:
    def test_alpha_is_kept_only_on_request(self) -> None:
        assert read_image(CLEAR).mask is None
        kept = read_image(CLEAR, keep_alpha=True)
        np.testing.assert_array_equal(kept.mask, ALPHA)
        np.testing.assert_array_equal(kept.pixels, read_image(CLEAR).pixels)
        assert read_image(OPAQUE, keep_alpha=True).mask is None
        opaque = Image.open(io.BytesIO(OPAQUE)).convert("RGBA")
        assert read_image(save(opaque, "PNG"), keep_alpha=True).mask is None

    def test_alpha_is_turned_upright(self) -> None:
        turned = save(Image.open(io.BytesIO(CLEAR)), "PNG", exif=make_exif(6))
        mask = read_image(turned, keep_alpha=True).mask
        np.testing.assert_array_equal(mask, np.rot90(ALPHA, -1))

    @pytest.mark.parametrize(
        ("geometry", "expected"),
        [
            (NO_GEOMETRY, ALPHA),
            (Geometry(crop=(3, 2)), ALPHA[1:3, 1:4]),
            (Geometry(resize=2), [[35, 55, 75], [155, 175, 195]]),
            (Geometry(max_side=3), [[35, 55, 75], [155, 175, 195]]),
            (Geometry(resize=2, crop=(1, 2)), [[55], [175]]),
            (Geometry(buckets=SQUARES, upscale=False), ALPHA[:, 1:5]),
            (Geometry(resize=8), ALPHA.repeat(2, 0).repeat(2, 1)),
        ],
    )
    def test_a_mask_goes_through_the_geometry(self, geometry: Geometry, expected: Any) -> None:
        if geometry.buckets is not None:
            assert geometry.measure(6, 4) == (4, 4)
        for image in (read(CLEAR, geometry, keep_alpha=True), read(OPAQUE, geometry, mask=MASK)):
            np.testing.assert_array_equal(image.mask, expected)
            assert image.mask is not None
            assert image.mask.shape == image.pixels.shape[:2]

    def test_a_smaller_mask_file_is_scaled_to_the_image_first(self) -> None:
        small = MaskFile(save(Image.fromarray(mask_of([[0, 100, 255], [7, 8, 9]])), "PNG"), "m")
        mask = read(OPAQUE, Geometry(crop=(2, 4)), mask=small).mask
        assert mask is not None
        assert mask.tolist() == [[100, 100]] * 2 + [[8, 8]] * 2

    def test_memory_of_the_mask_is_held(self) -> None:
        holds: dict[str, list[int]] = {}
        for name, data, options in (
            ("plain", OPAQUE, {}), ("alpha", CLEAR, {"keep_alpha": True}),
            ("file", OPAQUE, {"mask": MASK}),
        ):  # fmt: skip
            sizes: list[int] = []
            read_shaped(data, sizes.append, background=WHITE, max_pixels=10**6, **options)
            holds[name] = [size - len(data) for size in sizes]
        assert holds == {
            "plain": [72, 72],
            "alpha": [96, 96],
            "file": [96 + len(MASK.data) + 72, 96],
        }

    def test_errors_name_the_mask(self) -> None:
        for data, message in (
            (save(Image.fromarray(ALPHA.T.copy()), "PNG"), "its mask m/b.png: has 4x6 pixels"),
            (b"text", "its mask m/b.png: "),
        ):
            with pytest.raises(ImageError, match=message):
                read(OPAQUE, mask=MaskFile(data, "m/b.png"))
