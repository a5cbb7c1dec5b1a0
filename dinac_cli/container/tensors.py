"""Converts latents, `logsnr`, `class_token` and `mask` to the tensors of a record, and back.

Latents are split into byte planes, which an entropy coder can compress well. A conversion works on
one group of channels after another, so that temporary arrays need little memory.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dinac_cli.container.layout import TensorEntry
from dinac_cli.errors import FormatError, Rejection

Latents = npt.NDArray[np.float32]
Mask = npt.NDArray[np.uint8]
Planes = dict[str, npt.NDArray[Any]]

PLAIN = "latents"
EXPONENT, MANTISSA = "latents.exponent", "latents.mantissa"
SYMBOLS, STEP = "latents.q", "latents.step"
SYMBOLS_HIGH, SYMBOLS_LOW = "latents.q.high", "latents.q.low"
LOGSNR, CLASS_TOKEN, MASK = "posterior.logsnr", "class_token", "mask"
COMPANIONS = (LOGSNR, CLASS_TOKEN)
"""The tensors of a model that a record may hold beside latents. A reader requests them by name."""
ALL_COMPANIONS = (*COMPANIONS, MASK)
"""All tensors that a record may hold in addition to latents. A mask comes from the image."""
FLIPPED = "flipped."
"""The name prefix of the mirrored image's tensors."""

_PLANES = (PLAIN, EXPONENT, MANTISSA, SYMBOLS, STEP, SYMBOLS_HIGH, SYMBOLS_LOW)

# The largest value that 256 * high + low can have, for signed bytes `high` and `low`.
MAX_SYMBOL = 127 * 256 + 127

MAX_TOKEN_WIDTH = 1 << 16

_GROUP_VALUES = 1 << 20
_BF16_NOT_FINITE = 0xFF  # the exponent of infinity and NaN


class Encoded(NamedTuple):
    """One encoded image: whitened float32 `latents` [C, h, w] and, if requested, other tensors.

    These other tensors are the `logsnr` [C, h, w] of the posterior, which is not whitened, a DINO
    `class_token` [D], and a uint8 `mask` [h, w]: the share of each latent position that counts, as
    0 to 255. Without a mask, everything counts.
    """

    latents: Latents
    logsnr: Latents | None = None
    class_token: npt.NDArray[np.float32] | None = None
    mask: Mask | None = None


def split_planes(latents: Latents, precision: str, steps: Latents | None) -> Planes:
    """Returns the tensors that hold `latents` [C, h, w], in their order in the payload.

    f32 is exact, and bf16 rounds to nearest even. For q8 to q3, each latent is divided by the step
    of its channel, and the result is rounded half to even. Only q8 to q3 use `steps` [C].
    Raises FormatError with rejection VALUE if a latent is not finite or is too large, and with
    rejection STEP if a step is not usable.
    """
    _check_finite("the latents hold", latents, "the model overflowed")
    if precision == "f32":
        return {PLAIN: latents.astype("<f4", copy=False)}
    if precision == "bf16":
        return _split_bf16(latents)
    if steps is None or steps.shape != latents.shape[:1]:
        raise FormatError(Rejection.STEP, f"{precision} needs one step per channel")
    steps = steps.astype("<f4")
    _check_steps(steps)
    return {STEP: steps, **_split_symbols(_quantise(latents, steps))}


def join_planes(planes: Mapping[str, npt.NDArray[Any]], shape: tuple[int, int, int]) -> Latents:
    """Returns float32 latents of `shape` (C, h, w) from the tensors that `find_planes` found.

    Raises FormatError with rejection VALUE if a latent is not finite, and with rejection STEP if a
    step is not usable.
    """
    if PLAIN in planes:
        _check_finite("the latents hold", planes[PLAIN], "re-encode")
        return planes[PLAIN].astype(np.float32)
    if EXPONENT in planes:
        return _join_bf16(planes[EXPONENT], planes[MANTISSA])
    return _dequantise(_join_symbols(planes, shape), planes[STEP])


def find_planes(
    tensors: Mapping[str, TensorEntry],
    precision: str,
    shape: tuple[int, int, int],
    prefix: str = "",
) -> dict[str, TensorEntry]:
    """Checks and returns the entries of the tensors that hold latents of `shape`.

    Considers only names that begin with `prefix`. The returned names have no prefix.
    Raises FormatError with rejection TENSOR if a tensor is missing or has the wrong dtype or shape.
    """
    own = {name: tensors[prefix + name] for name in _PLANES if prefix + name in tensors}
    expected = _expected_planes(own, precision, shape)
    for name, (dtype, plane_shape) in expected.items():
        entry = own.get(name)
        if entry is None or (entry.dtype, entry.shape) != (dtype, plane_shape):
            raise FormatError(
                Rejection.TENSOR,
                f"no tensor {prefix}{name} of {dtype} and shape {list(plane_shape)}; re-encode",
            )
    return {name: own[name] for name in expected}


def find_twin(
    tensors: Mapping[str, TensorEntry], precision: str, shape: tuple[int, int, int]
) -> dict[str, TensorEntry] | None:
    """Returns the entries of the mirrored latents, or None if the record has no mirrored latents.

    Raises FormatError with rejection TENSOR if the record has only some of these entries; see
    `find_planes`.
    """
    if not any(FLIPPED + name in tensors for name in _PLANES):
        return None
    return find_planes(tensors, precision, shape, FLIPPED)


def split_encoded(
    encoded: Encoded, precision: str, steps: npt.NDArray[np.float32] | None, prefix: str = ""
) -> Planes:
    """Returns the tensors that hold one encoded image, with `prefix` before their names.

    `steps` [C] are the steps of the quantiser; only the precisions q8 to q3 need them.
    Raises FormatError with rejection VALUE, STEP or TENSOR.
    """
    latents = np.ascontiguousarray(encoded.latents, np.float32)
    tensors = split_planes(latents, precision, steps)
    for name, values in ((LOGSNR, encoded.logsnr), (CLASS_TOKEN, encoded.class_token)):
        if values is not None:
            _check_shape(name, values.shape, latents.shape, prefix)
            _check_finite(f"tensor {prefix}{name} holds", values, "the model overflowed")
            tensors[name] = np.ascontiguousarray(values, "<f4")
    if encoded.mask is not None:
        _check_shape(MASK, encoded.mask.shape, latents.shape, prefix)
        tensors[MASK] = np.ascontiguousarray(encoded.mask, np.uint8)
    return {prefix + name: tensor for name, tensor in tensors.items()}


def find_companions(
    tensors: Mapping[str, TensorEntry],
    shape: tuple[int, int, int],
    wanted: Collection[str],
    prefix: str = "",
) -> dict[str, TensorEntry]:
    """Checks and returns the entries of ALL_COMPANIONS that are `wanted` and that a record holds.

    Considers only names that begin with `prefix`. The returned names have no prefix. `shape` (C, h,
    w) is the shape of the latents. Raises FormatError with rejection TENSOR if a dtype or shape is
    wrong.
    """
    found = {name: tensors[prefix + name] for name in wanted if prefix + name in tensors}
    for name, entry in found.items():
        dtype = "U8" if name == MASK else "F32"
        if entry.dtype != dtype:
            raise _bad_tensor(prefix + name, f"is {entry.dtype}, not {dtype}")
        _check_shape(name, entry.shape, shape, prefix)
    return found


def read_companion(name: str, stored: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Returns a copy of a stored tensor, which is not a mask.

    Raises FormatError with rejection VALUE if a value is not finite.
    """
    _check_finite(f"tensor {name} holds", stored, "re-encode")
    return stored.astype(np.float32)


def _expected_planes(
    tensors: Mapping[str, TensorEntry], precision: str, shape: tuple[int, int, int]
) -> dict[str, tuple[str, tuple[int, ...]]]:
    if precision == "f32":
        return {PLAIN: ("F32", shape)}
    if precision == "bf16":
        return {EXPONENT: ("U8", shape), MANTISSA: ("U8", shape)}
    steps = {STEP: ("F32", shape[:1])}
    if SYMBOLS not in tensors:
        return {**steps, SYMBOLS_HIGH: ("I8", shape), SYMBOLS_LOW: ("I8", shape)}
    if SYMBOLS_HIGH in tensors or SYMBOLS_LOW in tensors:
        raise FormatError(Rejection.TENSOR, "two sets of symbols in one record; re-encode")
    if tensors[SYMBOLS].dtype == "U8":  # two symbols per byte
        return {**steps, SYMBOLS: ("U8", (-(-math.prod(shape) // 2),))}
    return {**steps, SYMBOLS: ("I8", shape)}


def _split_bf16(latents: Latents) -> Planes:
    exponent = np.empty(latents.shape, np.uint8)
    mantissa = np.empty(latents.shape, np.uint8)
    for group in _channel_groups(latents.shape):
        bits = latents[group].view(np.uint32)
        rounded = bits >> 16
        rounded &= 1
        rounded += 0x7FFF
        rounded += bits
        rounded >>= 16
        # The sign bit is as random as the mantissa, so the low byte holds both.
        half = rounded.astype(np.uint16)  # from here on, half the memory traffic
        rotated = half << 1
        half >>= 15
        rotated |= half
        mantissa[group] = rotated  # the cast keeps the low byte
        rotated >>= 8
        exponent[group] = rotated
    if exponent.max() == _BF16_NOT_FINITE:
        raise FormatError(Rejection.VALUE, "a latent is too large for bfloat16; use f32")
    return {EXPONENT: exponent, MANTISSA: mantissa}


def _join_bf16(exponent: npt.NDArray[np.uint8], mantissa: npt.NDArray[np.uint8]) -> Latents:
    if exponent.max() == _BF16_NOT_FINITE:
        raise FormatError(Rejection.VALUE, "the latents hold NaN or infinity; re-encode")
    latents = np.empty(exponent.shape, np.float32)
    bits = latents.view(np.uint32)
    for group in _channel_groups(latents.shape):
        half = exponent[group].astype(np.uint16)  # half the memory traffic
        half <<= 8
        half |= mantissa[group]
        sign = half << 15
        half >>= 1
        half |= sign
        np.left_shift(half, 16, out=bits[group], dtype=np.uint32)
    return latents


def _quantise(latents: Latents, steps: Latents) -> npt.NDArray[np.int16]:
    symbols = np.empty(latents.shape, np.int16)
    for group in _channel_groups(latents.shape):
        # The quotient is float64, because the rounding error of float32 could create or break a
        # tie.
        rounded = np.rint(latents[group].astype(np.float64) / steps[group, None, None])
        if np.abs(rounded).max() > MAX_SYMBOL:
            raise FormatError(
                Rejection.VALUE,
                f"a latent is more than {MAX_SYMBOL} steps from zero; use larger steps or f32",
            )
        symbols[group] = rounded
    return symbols


def _split_symbols(symbols: npt.NDArray[np.int16]) -> Planes:
    smallest, largest = int(symbols.min()), int(symbols.max())
    if smallest >= -8 and largest <= 7:
        return {SYMBOLS: _pack_nibbles(symbols.astype(np.int8).ravel())}
    if smallest >= -128 and largest <= 127:
        return {SYMBOLS: symbols.astype(np.int8)}
    # The low byte is signed, so that the high byte is zero for nearly all symbols. With an unsigned
    # low byte, the high byte would repeat the sign and cost one bit per value.
    low = symbols.astype(np.int8)
    high = ((symbols.astype(np.int32) - low) >> 8).astype(np.int8)
    return {SYMBOLS_HIGH: high, SYMBOLS_LOW: low}


def _join_symbols(
    planes: Mapping[str, npt.NDArray[Any]], shape: tuple[int, int, int]
) -> npt.NDArray[Any]:
    if SYMBOLS_HIGH in planes:
        symbols = planes[SYMBOLS_HIGH].astype(np.int16)
        symbols *= 256
        symbols += planes[SYMBOLS_LOW]
        return symbols
    if planes[SYMBOLS].dtype == np.uint8:
        return _unpack_nibbles(planes[SYMBOLS], shape)
    return planes[SYMBOLS]


def _pack_nibbles(symbols: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    nibbles = (symbols + 8).astype(np.uint8)
    packed = nibbles[0::2] << np.uint8(4)
    packed[: symbols.size // 2] |= nibbles[1::2]
    return packed


def _unpack_nibbles(
    packed: npt.NDArray[np.uint8], shape: tuple[int, int, int]
) -> npt.NDArray[np.int8]:
    size = math.prod(shape)
    if size % 2 and packed[-1] & 0xF:
        raise FormatError(
            Rejection.VALUE, "the unused half of the last byte is not zero; re-encode"
        )
    symbols = np.empty(2 * packed.size, np.int8)
    symbols[0::2] = packed >> 4
    symbols[1::2] = packed & 0xF
    symbols -= 8
    return symbols[:size].reshape(shape)


def _dequantise(symbols: npt.NDArray[Any], steps: Latents) -> Latents:
    _check_steps(steps)
    latents: Latents = np.multiply(symbols, steps[:, None, None], dtype=np.float32)
    return latents


def _check_steps(steps: Latents) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        largest = steps * np.float32(2**15)
    if not (np.isfinite(largest).all() and (steps > 0).all()):
        raise FormatError(Rejection.STEP, "a quantiser step is not a positive, finite number")


def _channel_groups(shape: tuple[int, ...]) -> Iterator[slice]:
    channels, rows, columns = shape
    group = max(1, _GROUP_VALUES // (rows * columns))
    for start in range(0, channels, group):
        yield slice(start, start + group)


def _check_shape(name: str, shape: tuple[int, ...], latents: tuple[int, ...], prefix: str) -> None:
    if name == LOGSNR and shape != latents:
        raise _bad_tensor(
            prefix + name, f"has shape {list(shape)}, but the latents have {list(latents)}"
        )
    if name == CLASS_TOKEN and (len(shape) != 1 or not 1 <= shape[0] <= MAX_TOKEN_WIDTH):
        raise _bad_tensor(prefix + name, f"has shape {list(shape)}, not [1 to {MAX_TOKEN_WIDTH}]")
    if name == MASK and shape != latents[1:]:
        raise _bad_tensor(prefix + name, f"has shape {list(shape)}, not {list(latents[1:])}")


def _check_finite(subject: str, values: npt.NDArray[Any], remedy: str) -> None:
    if not np.isfinite(values).all():
        raise FormatError(Rejection.VALUE, f"{subject} NaN or infinity; {remedy}")


def _bad_tensor(name: str, fault: str) -> FormatError:
    return FormatError(Rejection.TENSOR, f"tensor {name} {fault}; re-encode")
