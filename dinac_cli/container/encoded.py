"""What encoding gives beside the latents, and the tensors of a record that hold all of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dinac_cli.container.layout import TensorEntry
from dinac_cli.container.planes import Latents, Planes, split_planes
from dinac_cli.errors import FormatError, Rejection

LOGSNR, CLASS_TOKEN = "posterior.logsnr", "class_token"

COMPANIONS = (LOGSNR, CLASS_TOKEN)
"""Tensors that a record may hold beside its latents, and a reader may ask for."""

MAX_TOKEN_WIDTH = 1 << 16


class Encoded(NamedTuple):
    """One image encoded: float32 whitened `latents` [C, h, w] and, where they were asked for,
    `logsnr` [C, h, w] of the posterior, unwhitened, and the DINO `class_token` [D]."""

    latents: Latents
    logsnr: Latents | None = None
    class_token: npt.NDArray[np.float32] | None = None


def split_encoded(
    encoded: Encoded, precision: str, steps: npt.NDArray[np.float32] | None, prefix: str = ""
) -> Planes:
    """Return the tensors that hold one encoded image, their names behind `prefix`.

    `steps` [C] are the quantiser's, for q8 to q3. Errors: FormatError SHAPE, VALUE, STEP.
    """
    latents = np.ascontiguousarray(encoded.latents, np.float32)
    tensors = split_planes(latents, precision, steps)
    companions = {LOGSNR: encoded.logsnr, CLASS_TOKEN: encoded.class_token}
    for name, values in companions.items():
        if values is not None:
            _check_shape(name, values.shape, latents.shape, prefix)
            _check_finite(prefix + name, values, "the model overflowed")
            tensors[name] = np.ascontiguousarray(values, "<f4")
    return {prefix + name: tensor for name, tensor in tensors.items()}


def find_companions(
    tensors: Mapping[str, TensorEntry],
    shape: tuple[int, int, int],
    wanted: Collection[str],
    prefix: str = "",
) -> dict[str, TensorEntry]:
    """Return those of a record's tensors that are `wanted` and there, having checked their form.

    `wanted` are of COMPANIONS, and stand behind `prefix`, which goes from the names that are
    returned; `shape` (C, h, w) is that of the latents. Errors: FormatError TENSOR for another
    dtype or shape.
    """
    found = {name: tensors[prefix + name] for name in wanted if prefix + name in tensors}
    for name, entry in found.items():
        if entry.dtype != "F32":
            raise _bad_tensor(prefix + name, f"is {entry.dtype}, not F32")
        _check_shape(name, entry.shape, shape, prefix)
    return found


def read_companion(name: str, stored: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return a copy of a stored tensor. Errors: FormatError VALUE for what is not finite."""
    _check_finite(name, stored, "re-encode")
    return stored.astype(np.float32)


def _check_shape(name: str, shape: tuple[int, ...], latents: tuple[int, ...], prefix: str) -> None:
    if name == LOGSNR and shape != latents:
        raise _bad_tensor(prefix + name, f"has shape {list(shape)}, the latents {list(latents)}")
    if name == CLASS_TOKEN and (len(shape) != 1 or not 1 <= shape[0] <= MAX_TOKEN_WIDTH):
        raise _bad_tensor(prefix + name, f"has shape {list(shape)}, not [1 to {MAX_TOKEN_WIDTH}]")


def _check_finite(name: str, values: npt.NDArray[Any], remedy: str) -> None:
    if not np.isfinite(values).all():
        raise FormatError(Rejection.VALUE, f"tensor {name} holds NaN or infinity: {remedy}")


def _bad_tensor(name: str, fault: str) -> FormatError:
    return FormatError(Rejection.TENSOR, f"tensor {name} {fault}: re-encode")
