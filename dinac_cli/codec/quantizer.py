"""Chooses the steps of q8 to q3, one per channel, so that each channel changes the image equally.

Whitened channels must not share one step. One unit of the first principal component changes the
image by hundreds of grey levels. One unit of the last component changes the image by less than one
level.

A checkpoint may list the sensitivity of each channel. The sensitivity is the change of the image,
in 8-bit levels (root mean square), if all values of the whitened channel change by one unit. If a
checkpoint has the list, each step is inversely proportional to the sensitivity. If not, all steps
are equal.
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

    Returns None if the configuration has none. Raises ModelError if the value is not a
    list of `channels` positive, finite numbers.
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
    """Returns the steps, float32 [C], in units of whitened latents, or None for bf16 and f32."""
    if precision not in QUANTIZED:
        return None
    if sensitivity is None:
        return np.full(channels, _PLAIN_STEPS[precision], dtype=np.float32)
    return (_PICTURE_STEPS[precision] / sensitivity).astype(np.float32)


def _is_valid(value: object) -> bool:
    # With these bounds, the float32 division gives finite steps. For huge integers, `math.isfinite`
    # raises OverflowError, but a comparison does not.
    return isinstance(value, int | float) and value is not True and 1e-30 < value < 1e30
