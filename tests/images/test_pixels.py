"""Padding repeats the right and bottom edges; cropping undoes it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinac_cli.images.pixels import crop_pixels, pad_pixels

from .hand_made import make_pixels


def test_padding_is_at_the_right_and_bottom() -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    padded = pad_pixels(pixels, 3)
    assert padded[..., 0].tolist() == [[0, 3, 3], [6, 9, 9], [6, 9, 9]]
    assert padded.dtype == np.uint8


def test_whole_patches_are_not_padded() -> None:
    pixels = make_pixels(32, 48)
    assert pad_pixels(pixels, 16) is pixels


@given(st.integers(2, 40), st.integers(2, 40), st.sampled_from([1, 8, 16]))
def test_crop_undoes_pad(height: int, width: int, multiple: int) -> None:
    pixels = make_pixels(height, width)
    padded = pad_pixels(pixels, multiple)
    assert 0 <= padded.shape[0] - height < multiple
    assert 0 <= padded.shape[1] - width < multiple
    assert padded.shape[0] % multiple == padded.shape[1] % multiple == 0
    np.testing.assert_array_equal(crop_pixels(padded, height, width), pixels)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 20), st.integers(0, 99))
def test_padding_repeats_the_edges(height: int, width: int, multiple: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    padded = pad_pixels(pixels, multiple)
    rows = np.minimum(np.arange(padded.shape[0]), height - 1)
    columns = np.minimum(np.arange(padded.shape[1]), width - 1)
    np.testing.assert_array_equal(padded, pixels[rows][:, columns])
    np.testing.assert_array_equal(crop_pixels(padded, height, width), pixels)


@pytest.mark.parametrize("size", [(5, 7), (16, 16)])
def test_cropped_pixels_are_contiguous(size: tuple[int, int]) -> None:
    assert crop_pixels(make_pixels(16, 16), *size).flags.c_contiguous
