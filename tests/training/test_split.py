"""The held-out images represent the whole set."""

from __future__ import annotations

import numpy as np
import pytest

from dinac_cli.training.split import choose_representatives, measure_features


def _measure_distance(features: np.ndarray, chosen: list[int]) -> float:
    spread = features.std(axis=0)
    return float(np.square((features[chosen].mean(axis=0) - features.mean(axis=0)) / spread).sum())


def test_chosen_rows_represent_all_rows() -> None:
    rng = np.random.default_rng(3)
    features = rng.lognormal(sigma=1.5, size=(300, 12)).astype(np.float32)
    chosen = choose_representatives(features, 30)
    assert len(set(chosen)) == 30
    random_choices = [
        _measure_distance(features, list(rng.choice(300, 30, replace=False))) for _ in range(50)
    ]
    assert _measure_distance(features, chosen) < min(random_choices) / 10


def test_first_of_equal_rows_are_chosen() -> None:
    assert choose_representatives(np.ones((9, 4), np.float32), 3) == [0, 1, 2]


def test_only_the_first_rows_are_candidates() -> None:
    features = np.zeros((5000, 1), np.float32)
    features[:4096] = 1  # the mean is nearer to the other rows, which are no candidates
    features[4096:] = -9
    assert max(choose_representatives(features, 5)) < 4096


def test_features_of_a_flat_image() -> None:
    features = measure_features(np.full((20, 40, 3), 200, np.uint8))
    assert features.shape == (33,)
    # The DC cosine of a flat block is 16 times its value. Cb and Cr of grey are exactly 0.
    np.testing.assert_allclose(features[:3], [16 * (200 - 128), 0, 0], atol=1e-2)
    assert features[3] == pytest.approx((16 * 72) ** 2, rel=1e-4)
    np.testing.assert_allclose(np.delete(features, 3), [16 * 72, *[0] * 31], atol=1e-2)


def test_features_distinguish_directions() -> None:
    rng = np.random.default_rng(0)
    stripes = np.repeat(rng.integers(0, 256, (1, 64, 1), np.uint8), 3, axis=2).repeat(64, axis=0)
    horizontal, vertical = measure_features(stripes), measure_features(stripes.transpose(1, 0, 2))
    assert not np.allclose(horizontal, vertical)
    np.testing.assert_allclose(np.sort(horizontal), np.sort(vertical), rtol=1e-3, atol=0.1)


def test_only_the_first_1024_rows_of_an_image_are_measured() -> None:
    pixels = np.zeros((1100, 1040, 3), np.uint8)
    whole = measure_features(pixels)
    pixels[1024:] = 255
    np.testing.assert_array_equal(measure_features(pixels), whole)
