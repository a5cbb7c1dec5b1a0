"""SSIM matches scikit-image and pytorch-msssim, MS-SSIM matches pytorch-msssim; at any size."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import pytorch_msssim
import torch
from skimage.metrics import structural_similarity

from dinac_cli.errors import ImageError
from dinac_cli.images.pixels import Pixels
from dinac_cli.images.structural_similarity import measure_ms_ssim, measure_ssim

Measure = Callable[[Pixels, Pixels], float | None]

SMALL = [(11, 11), (11, 300), (300, 11), (12, 47), (63, 64), (64, 65), (75, 266), (129, 277)]
"""Sizes around 11 pixels, bands of 64 rows, tiles of 256 columns and four times as wide as high."""

LARGE = [(161, 161), (161, 700), (700, 161), (176, 192), (177, 207), (191, 208), (200, 322)]
"""Sizes with even and odd sides at each of the five scales."""


def draw_pair(height: int, width: int, noise: float = 12.0) -> tuple[Pixels, Pixels]:
    """A picture of waves of three colours with grain, and the picture with noise."""
    rng = np.random.default_rng(height * 1000 + width)
    y, x = np.mgrid[:height, :width]
    waves = np.sin(x / 17)[..., None] * np.cos(y / 11)[..., None] * np.array([110, 60, -90])
    picture = 120 + waves + rng.normal(0, 6, (height, width, 3))
    noisy = picture + rng.normal(0, noise, picture.shape)
    first, second = (np.clip(image, 0, 255).astype(np.uint8) for image in (picture, noisy))
    return first, second


def as_tensor(pixels: Pixels) -> torch.Tensor:
    """Float64 [1, 3, H, W]: in float32 the reference itself is off by more than the tolerance."""
    return torch.from_numpy(pixels.astype(np.float64)).permute(2, 0, 1)[None]


def measure_with_skimage(first: Pixels, second: Pixels) -> float:
    """The mean that scikit-image reports, which leaves out a border of 5 pixels."""
    value: float = structural_similarity(  # type: ignore[no-untyped-call]
        first,
        second,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        channel_axis=-1,
    )
    return value


@pytest.mark.parametrize(("height", "width"), SMALL)
def test_ssim_matches_both_libraries(height: int, width: int) -> None:
    pair = draw_pair(height, width)
    theirs = pytorch_msssim.ssim(*map(as_tensor, pair), data_range=255).item()
    assert measure_ssim(*pair) == pytest.approx(theirs, abs=1e-5)
    assert measure_ssim(*pair) == pytest.approx(measure_with_skimage(*pair), abs=1e-6)
    assert 0.1 < theirs < 0.99


@pytest.mark.parametrize(("height", "width"), LARGE)
def test_ms_ssim_matches_pytorch_msssim(height: int, width: int) -> None:
    pair = draw_pair(height, width, noise=40)
    theirs = pytorch_msssim.ms_ssim(*map(as_tensor, pair), data_range=255).item()
    assert measure_ms_ssim(*pair) == pytest.approx(theirs, abs=1e-5)
    assert 0.1 < theirs < 0.99


def test_negative_structure_counts_as_zero() -> None:
    first, _ = draw_pair(180, 190)
    negative = 255 - first
    theirs = pytorch_msssim.ms_ssim(as_tensor(first), as_tensor(negative), data_range=255).item()
    assert measure_ms_ssim(first, negative) == theirs == 0.0
    assert measure_ssim(first, negative) == pytest.approx(measure_with_skimage(first, negative))
    assert measure_with_skimage(first, negative) < 0


@pytest.mark.parametrize("level", [0, 1, 128, 254, 255])
def test_flat_images_that_are_nearly_the_same(level: int) -> None:
    """Here the variances are zero, and rounding errors would be as large as the constants."""
    first = np.full((180, 170, 3), level, np.uint8)
    second = first.copy()
    second[60:120:7, 50:110:5] ^= 1
    theirs = [measure_with_skimage(first, second)]
    theirs += [pytorch_msssim.ms_ssim(as_tensor(first), as_tensor(second), data_range=255).item()]
    assert measure_ssim(first, second) == pytest.approx(theirs[0], abs=1e-6)
    assert measure_ms_ssim(first, second) == pytest.approx(theirs[1], abs=1e-5)


@pytest.mark.parametrize("measure", [measure_ssim, measure_ms_ssim])
def test_identical_images_have_exactly_one(measure: Measure) -> None:
    for height, width in [(161, 161), (190, 333)]:
        first, _ = draw_pair(height, width)
        assert measure(first, first.copy()) == 1.0


@pytest.mark.parametrize("measure", [measure_ssim, measure_ms_ssim])
def test_order_does_not_matter_and_pixels_need_not_be_contiguous(measure: Measure) -> None:
    first, second = draw_pair(170, 201)
    assert measure(first, second) == measure(second, first)
    mirrored = [np.ascontiguousarray(image[:, ::-1]) for image in (first, second)]
    assert measure(first[:, ::-1], second[:, ::-1]) == measure(*mirrored)


@pytest.mark.parametrize(
    ("measure", "smallest"), [(measure_ssim, 11), (measure_ms_ssim, 161)], ids=["ssim", "ms-ssim"]
)
def test_images_that_are_too_small_have_no_value(measure: Measure, smallest: int) -> None:
    enough, first = draw_pair(smallest, smallest)
    assert measure(enough, first) is not None
    for height, width in [(smallest - 1, 400), (400, smallest - 1), (1, 1)]:
        assert measure(*draw_pair(height, width)) is None


@pytest.mark.parametrize("measure", [measure_ssim, measure_ms_ssim])
def test_sizes_must_be_equal(measure: Measure) -> None:
    with pytest.raises(ImageError, match=r"^sizes differ: 640x427 and 8x6$"):
        measure(np.zeros((427, 640, 3), np.uint8), np.zeros((6, 8, 3), np.uint8))


@pytest.mark.parametrize("measure", [measure_ssim, measure_ms_ssim])
@pytest.mark.parametrize("shape", [(4000, 400, 3), (170, 9000, 3)], ids=["high", "wide"])
def test_memory_grows_with_the_shorter_side_only(
    measure: Measure, shape: tuple[int, int, int]
) -> None:
    """These images need 37 and 35 MiB as two float32 arrays; the bands need less."""
    first = np.zeros(shape, np.uint8)
    second = first + np.uint8(1)
    tracemalloc.start()
    try:
        assert measure(first, second) is not None
        assert tracemalloc.get_traced_memory()[1] < 12 * 2**20
    finally:
        tracemalloc.stop()
