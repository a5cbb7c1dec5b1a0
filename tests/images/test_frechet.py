"""The Fréchet distance matches its definition with the matrix root of scipy."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import sqrtm

from dinac_cli.images.frechet import Moments, measure_frechet

Values = NDArray[np.float64]


def draw(count: int, size: int, seed: int) -> Values:
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(size, size))
    vectors: Values = rng.normal(size=(count, size)) @ mixing + rng.normal(size=size) + 3
    return vectors


def collect(vectors: Values) -> Moments:
    moments = Moments(vectors.shape[1])
    for vector in vectors:
        moments.add(vector)
    return moments


@pytest.mark.parametrize("count", [2, 63, 64, 65, 200])
def test_moments_match_numpy(count: int) -> None:
    vectors = draw(count, 5, count)
    mean, covariance = collect(vectors).summarise()
    np.testing.assert_allclose(mean, vectors.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(vectors, rowvar=False), rtol=1e-9, atol=1e-11)


def test_moments_may_be_summarised_before_the_end() -> None:
    vectors = draw(100, 4, 0)
    moments = collect(vectors[:70])
    moments.summarise()
    for vector in vectors[70:]:
        moments.add(vector)
    np.testing.assert_allclose(moments.summarise()[1], np.cov(vectors, rowvar=False), rtol=1e-9)
    assert moments.count == 100


def test_distance_matches_the_definition() -> None:
    first, second = draw(150, 20, 1), draw(170, 20, 2)
    covariances = [np.cov(vectors, rowvar=False) for vectors in (first, second)]
    shift = first.mean(axis=0) - second.mean(axis=0)
    root = np.real(sqrtm(covariances[0] @ covariances[1]))
    expected = shift @ shift + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert expected > 1
    assert measure_frechet(collect(first), collect(second)) == pytest.approx(expected, rel=1e-8)


def test_distance_is_zero_for_the_same_vectors_and_symmetric() -> None:
    first, second = draw(150, 20, 1), draw(170, 20, 2)
    scale = np.trace(np.cov(first, rowvar=False))
    assert 0 <= measure_frechet(collect(first), collect(first)) < 1e-9 * scale
    forth = measure_frechet(collect(first), collect(second))
    assert measure_frechet(collect(second), collect(first)) == pytest.approx(forth, rel=1e-9)


def test_singular_covariance_gives_no_complex_number() -> None:
    """Fewer vectors than features: rounding makes some eigenvalues negative."""
    first, second = draw(8, 20, 3), draw(9, 20, 4)
    both = measure_frechet(collect(first), collect(second))
    assert np.isfinite(both)
    assert both > 0
