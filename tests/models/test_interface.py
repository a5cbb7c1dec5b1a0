"""The settings of a decode: defaults, and refused values."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from dinac_cli.errors import UsageError
from dinac_cli.models.interface import DinacAEInferenceConfig


def test_defaults() -> None:
    config = DinacAEInferenceConfig()
    assert dataclasses.astuple(config) == (1, "ddim", "linear", False, 2.0, 1.0, None)


def test_sampler_may_be_spelled_with_a_hyphen() -> None:
    assert DinacAEInferenceConfig(sampler="dpmpp-2m").sampler == "dpmpp_2m"


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("num_steps", 0, "an integer ≥ 1"),
        ("num_steps", 1.0, "an integer ≥ 1"),
        ("num_steps", True, "an integer ≥ 1"),
        ("sampler", "euler", "ddim or dpmpp_2m"),
        ("schedule", "karras", "linear or cosine"),
        ("pdg", 1, "True or False"),
        ("pdg_strength", float("inf"), "a finite number"),
        ("strength", 0.0, "a number in (0, 1]"),
        ("strength", 1.5, "a number in (0, 1]"),
        ("strength", float("nan"), "a number in (0, 1]"),
        ("seed", 2**64, "None or a 64-bit integer"),
        ("seed", "0", "None or a 64-bit integer"),
    ],
)
def test_values_out_of_range_are_refused(field: str, value: Any, wanted: str) -> None:
    message = f"{field} is {value!r}; it must be {wanted}"
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        DinacAEInferenceConfig(**{field: value})
