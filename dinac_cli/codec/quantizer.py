"""Quantiser steps for q8 to q3: one per channel, so that each channel changes the image equally.

Whitened channels must not share one step. One unit of the first principal component changes the
image by hundreds of grey levels. One unit of the last component changes it by less than one level.
A checkpoint may list the sensitivity of each channel. This is the root-mean-square change of all
samples of the image, in 8-bit levels, per unit of the whitened latent. With this list, each step is
inversely proportional to the channel's sensitivity. Without it, all steps are equal.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from dinac_cli.errors import ModelError

QUANTIZED = ("q8", "q7", "q6", "q5", "q4", "q3")

SENSITIVITY_KEY = "latent_sensitivity"
"""The key in a checkpoint's `config.json` whose value is a list of C positive numbers."""

_PICTURE_STEPS = {"q8": 0.086, "q7": 0.135, "q6": 0.188, "q5": 0.27, "q4": 0.455, "q3": 0.7}
_PLAIN_STEPS = {"q8": 1 / 32, "q7": 1 / 16, "q6": 1 / 8, "q5": 1 / 4, "q4": 1 / 2, "q3": 1.0}


def read_sensitivity(values: Mapping[str, object], channels: int) -> npt.NDArray[np.float32] | None:
    """Reads the sensitivities, float32 [C], from a checkpoint's configuration.

    Returns None if the configuration has none. Raises ModelError if they are not a list of
    `channels` positive, finite numbers.
    """
    listed = values.get(SENSITIVITY_KEY)
    if listed is None:
        return None
    if not isinstance(listed, list) or len(listed) != channels or not all(map(_is_valid, listed)):
        raise ModelError(
            f"the configuration's {SENSITIVITY_KEY} must be {channels} positive numbers"
        )
    return np.array(listed, dtype=np.float32)


def choose_steps(
    precision: str, channels: int, sensitivity: npt.NDArray[np.float32] | None
) -> npt.NDArray[np.float32] | None:
    """Returns steps, float32 [C], in units of the whitened latent, or None for bf16 and f32."""
    if precision not in QUANTIZED:
        return None
    if sensitivity is None:
        return np.full(channels, _PLAIN_STEPS[precision], dtype=np.float32)
    return (_PICTURE_STEPS[precision] / sensitivity).astype(np.float32)


def _is_valid(value: object) -> bool:
    # Within these bounds, float32 division stays finite. math.isfinite fails for huge integers, but
    # a comparison does not.
    return isinstance(value, int | float) and value is not True and 1e-30 < value < 1e30
