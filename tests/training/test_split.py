"""The images held out look like the whole."""

from __future__ import annotations

import numpy as np
import pytest

from dinac_cli.training.split import choose_representatives, measure_features


def _measure_distance(features: np.ndarray, chosen: list[int]) -> float:
    spread = features.std(axis=0)
    return float(np.square((features[chosen].mean(axis=0) - features.mean(axis=0)) / spread).sum())


def test_chosen_rows_stand_for_the_whole() -> None:
    rng = np.random.default_rng(3)
    features = rng.lognormal(sigma=1.5, size=(300, 12)).astype(np.float32)
    chosen = choose_representatives(features, 30)
    assert len(set(chosen)) == 30
    by_chance = [
        _measure_distance(features, list(rng.choice(300, 30, replace=False))) for _ in range(50)
    ]
    assert _measure_distance(features, chosen) < min(by_chance) / 10


def test_of_equal_rows_the_first_are_chosen() -> None:
    assert choose_representatives(np.ones((9, 4), np.float32), 3) == [0, 1, 2]


def test_only_the_first_rows_are_candidates() -> None:
    features = np.zeros((5000, 1), np.float32)
    features[:4096] = 1  # the mean of all lies nearer to the others, which are not tried
    features[4096:] = -9
    assert max(choose_representatives(features, 5)) < 4096


def test_features_of_a_flat_image() -> None:
    features = measure_features(np.full((20, 40, 3), 200, np.uint8))
    assert features.shape == (33,)
    # A flat block's cosine of frequency 0 is 16 times its value; 8 bits shift Cb and Cr not at all.
    np.testing.assert_allclose(features[:3], [16 * (200 - 128), 0, 0], atol=1e-2)
    assert features[3] == pytest.approx((16 * 72) ** 2, rel=1e-4)
    np.testing.assert_allclose(np.delete(features, 3), [16 * 72, *[0] * 31], atol=1e-2)


def test_features_tell_directions_apart() -> None:
    rng = np.random.default_rng(0)
    stripes = np.repeat(rng.integers(0, 256, (1, 64, 1), np.uint8), 3, axis=2).repeat(64, axis=0)
    across, upright = measure_features(stripes), measure_features(stripes.transpose(1, 0, 2))
    assert not np.allclose(across, upright)
    np.testing.assert_allclose(np.sort(across), np.sort(upright), rtol=1e-3, atol=0.1)


def test_large_images_are_looked_at_in_part() -> None:
    pixels = np.zeros((1100, 1040, 3), np.uint8)
    whole = measure_features(pixels)
    pixels[1024:] = 255
    np.testing.assert_array_equal(measure_features(pixels), whole)
