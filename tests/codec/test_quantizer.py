"""Steps of q8 to q3, one per channel."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest

from dinac_cli.codec.quantizer import (
    QUANTIZED,
    SENSITIVITY_KEY,
    choose_steps,
    read_sensitivity,
)
from dinac_cli.container.header import PRECISIONS
from dinac_cli.errors import ModelError


def test_precisions_match_the_format() -> None:
    assert {"f32", "bf16", *QUANTIZED} == set(PRECISIONS)


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_exact_precisions_have_no_steps(precision: str) -> None:
    assert choose_steps(precision, 4, None) is None
    assert choose_steps(precision, 4, np.ones(4, np.float32)) is None


@pytest.mark.parametrize("precision", QUANTIZED)
def test_steps_without_calibration_are_equal(precision: str) -> None:
    steps = choose_steps(precision, 5, None)
    assert steps is not None
    assert steps.dtype == np.float32
    assert steps.shape == (5,)
    assert len(set(steps.tolist())) == 1


@pytest.mark.parametrize("precision", QUANTIZED)
def test_steps_are_inverse_to_the_sensitivity(precision: str) -> None:
    sensitivity = np.array([100.0, 10.0, 0.5], np.float32)
    steps = choose_steps(precision, 3, sensitivity)
    assert steps is not None
    assert steps.dtype == np.float32
    assert np.ptp(steps * sensitivity) < 1e-4 * steps[0] * 100


@pytest.mark.parametrize("sensitivity", [None, np.array([2.0], np.float32)])
def test_fewer_bits_mean_larger_steps(sensitivity: np.ndarray | None) -> None:
    steps = [choose_steps(precision, 1, sensitivity) for precision in QUANTIZED]
    values = [step[0] for step in steps if step is not None]
    assert len(values) == len(QUANTIZED)
    assert values == sorted(values)
    assert len(set(values)) == len(values)


def test_calibration_is_read() -> None:
    read = read_sensitivity({SENSITIVITY_KEY: [1, 0.5]}, 2)
    assert read is not None
    assert read.dtype == np.float32
    assert read.tolist() == [1.0, 0.5]


@pytest.mark.parametrize("settings", [{}, {SENSITIVITY_KEY: None}])
def test_missing_calibration_is_none(settings: Mapping[str, object]) -> None:
    assert read_sensitivity(settings, 2) is None


@pytest.mark.parametrize(
    "listed",
    [
        [],
        [1.0],
        [1.0, 1.0, 1.0],
        "12",
        {"0": 1, "1": 2},
        [1.0, 0],
        [1.0, -1.0],
        [1.0, math.inf],
        [1.0, math.nan],
        [1.0, 10**400],
        [1.0, 1e-40],
        [1.0, True],
        [1.0, "1"],
        [1.0, None],
        [1.0, [1.0]],
    ],
)
def test_malformed_calibration_is_refused(listed: object) -> None:
    with pytest.raises(ModelError, match="latent_sensitivity must be 2 positive numbers"):
        read_sensitivity({SENSITIVITY_KEY: listed}, 2)
