"""Colours of latents: one mapping for a whole set, the same in every run."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from dinac_cli.report.latents import find_colors


def draw(seed: int, shape: tuple[int, int, int] = (8, 5, 7)) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    deviations = np.array([9.0, 4.0, 2.0] + [0.1] * (shape[0] - 3))
    values: npt.NDArray[np.float64] = rng.standard_normal(shape) * deviations[:, None, None]
    return values.astype(np.float32)


def test_largest_components_become_red_green_and_blue() -> None:
    images = [draw(seed) for seed in range(20)]
    colors = find_colors(images)
    assert colors is not None
    painted = colors.paint(images[0])
    assert painted.shape == (5, 7, 3)
    assert painted.dtype == np.uint8
    for channel in range(3):
        correlation = np.corrcoef(images[0][channel].ravel(), painted[..., channel].ravel())
        assert correlation[0, 1] > 0.95


def test_colors_do_not_depend_on_the_order_of_the_set() -> None:
    images = [draw(seed) for seed in range(6)]
    one, other = find_colors(images), find_colors(images[::-1])
    assert one is not None
    assert other is not None
    difference = one.paint(images[2]).astype(int) - other.paint(images[2])
    assert np.abs(difference).max() <= 1


def test_two_channels_have_no_third_color() -> None:
    latents = draw(0)[:2]
    colors = find_colors([latents])
    assert colors is not None
    assert np.ptp(colors.paint(latents)[..., 2]) == 0


def test_empty_and_mixed_sets() -> None:
    assert find_colors([]) is None
    assert find_colors([draw(0), draw(1, (4, 2, 2))]) is not None


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_constant_latents_are_gray(value: float) -> None:
    latents = np.full((4, 2, 2), value, np.float32)
    colors = find_colors([latents])
    assert colors is not None
    assert set(colors.paint(latents).ravel()) <= {127, 128}
