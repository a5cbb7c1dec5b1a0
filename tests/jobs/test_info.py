"""The sums over latents give each channel's mean and standard deviation."""

from __future__ import annotations

import numpy as np

from dinac_cli.jobs.info import measure_moments


def test_moments_are_right_for_images_of_several_sizes() -> None:
    rng = np.random.default_rng(0)
    images = [rng.normal(3.0, 2.0, (5, *size)).astype(np.float32) for size in ((2, 3), (7, 1))]
    total = measure_moments(images[0]) + measure_moments(images[1])
    values = np.concatenate([image.reshape(5, -1) for image in images], axis=1).astype(np.float64)
    assert total.count == 13
    np.testing.assert_allclose(total.mean, values.mean(axis=1))
    np.testing.assert_allclose(total.std, values.std(axis=1))


def test_a_constant_channel_has_no_deviation() -> None:
    moments = measure_moments(np.full((2, 3, 3), 0.1, np.float32))
    np.testing.assert_allclose(moments.mean, 0.1, rtol=1e-6)
    np.testing.assert_allclose(moments.std, 0.0, atol=1e-7)
