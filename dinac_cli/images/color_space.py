"""Colour spaces that an image declares by primaries and a curve, and their conversion to sRGB.

The conversion is arithmetic on linear light, not an ICC transform: Pillow's LittleCMS takes 8 bits
per channel, and 8 bits of linear light lose the dark tones of a 16-bit image.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dinac_cli.errors import ImageError
from dinac_cli.images.hdr import CLIP, HDR_CURVES, REFUSE, TONEMAP

SRGB_PRIMARIES = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
"""x and y of white, red, green and blue."""

_D65, _C = (0.3127, 0.3290), (0.310, 0.316)

# ITU-T H.273, table 2: the code, our name, and x and y of white, red, green and blue.
_PRIMARIES: Mapping[int, tuple[str, tuple[float, ...]]] = {
    1: ("bt709", SRGB_PRIMARIES),
    2: ("bt709", SRGB_PRIMARIES),  # unspecified
    4: ("bt470m", (*_C, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08)),
    5: ("bt601-625", (*_D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06)),
    6: ("bt601-525", (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070)),
    7: ("smpte240m", (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070)),
    8: ("film", (*_C, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049)),
    9: ("bt2020", (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046)),
    10: ("xyz", (1 / 3, 1 / 3, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0)),
    11: ("dci-p3", (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)),
    12: ("display-p3", (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)),
    22: ("ebu3213", (*_D65, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077)),
}

# ITU-T H.273, table 3. The curves of BT.709, BT.601 and BT.2020 describe cameras. Displays and
# browsers show such images as sRGB images, and so does dinac.
_TRANSFERS: Mapping[int, str] = {
    1: "srgb",
    2: "srgb",  # unspecified
    4: "gamma2.2",
    5: "gamma2.8",
    6: "srgb",
    7: "smpte240m",
    8: "linear",
    9: "log100",
    10: "log316",
    11: "srgb",  # xvYCC, BT.709 with negative values
    12: "srgb",  # BT.1361, BT.709 with negative values
    13: "srgb",
    14: "srgb",
    15: "srgb",
    16: "pq",
    17: "smpte428",
    18: "hlg",
}

_CAMERA_CURVES = (1, 6, 11, 12, 14, 15)
_GAMMA = re.compile(r"gamma([0-9.]+)")

# The brightness of white in an SDR image within an HDR image is 203 cd/m² (ITU-R BT.2408).
_WHITE_NITS = 203.0
_PEAK_NITS = 1000.0  # of HLG (ITU-R BT.2100), and the brightest tone that `tonemap` keeps
_PQ_NITS = 10000.0

_BLOCK_PIXELS = 1 << 18  # bounds the memory of the conversion

Levels = NDArray[np.uint8] | NDArray[np.uint16]
_Floats = NDArray[np.float32]
_Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class ColorSpace:
    """RGB primaries and a curve. `transfer` is a key of `_CURVES`, or `gamma` and a number.

    `primaries` are x and y of white, red, green and blue. `is_limited` is true if black and white
    are at 16 and 235 of 255. `is_assumed` is true if the image declares the curve of a camera,
    which dinac takes as the curve of sRGB.
    """

    name: str
    primaries: tuple[float, ...]
    transfer: str
    is_limited: bool = False
    is_assumed: bool = False

    @property
    def is_hdr(self) -> bool:
        """True if the image can be brighter than white."""
        return self.transfer in HDR_CURVES

    @property
    def is_srgb(self) -> bool:
        """True if the conversion to sRGB changes no 8-bit value by more than 1."""
        return not self.is_hdr and _is_practically_srgb(self)

    def describe(self, hdr: str) -> str:
        """Returns what a record's `image` field says of a conversion from this space."""
        limited = "limited-" if self.is_limited else ""
        text = f"converted-{limited}{self.name}-{self.transfer}"
        return f"{text}-{hdr}" if self.is_hdr else text


def find_coded_space(primaries: int, transfer: int, *, full_range: bool = True) -> ColorSpace:
    """Returns the colour space of two codes of ITU-T H.273. Raises ValueError for other codes."""
    if primaries not in _PRIMARIES or transfer not in _TRANSFERS:
        raise ValueError(f"unknown primaries {primaries} or curve {transfer}")
    return ColorSpace(
        *_PRIMARIES[primaries],
        _TRANSFERS[transfer],
        not full_range,
        transfer in _CAMERA_CURVES,
    )


def make_space(chromaticities: tuple[float, ...] | None, gamma: float | None) -> ColorSpace:
    """Returns the colour space of primaries and an exponent, as in a PNG's cHRM and gAMA.

    `chromaticities` are x and y of white, red, green and blue; None means those of sRGB. `gamma` is
    the exponent of the encoder, for example 0.45455; None means the curve of sRGB. Values near
    1/2.2 without other primaries stand for sRGB. Raises ValueError if the values describe no colour
    space.
    """
    if gamma is not None and not 0.05 <= gamma <= 20:
        raise ValueError(f"gamma {gamma} is out of range")
    primaries = SRGB_PRIMARIES if chromaticities is None else chromaticities
    pairs = zip(primaries, SRGB_PRIMARIES, strict=True)
    is_srgb = max(abs(own - other) for own, other in pairs) <= 0.002
    is_usual = gamma is None or (is_srgb and abs(gamma * 2.2 - 1) < 0.05)
    transfer = "srgb" if is_usual else _name_gamma(gamma or 1)
    space = ColorSpace("bt709" if is_srgb else "chrm", primaries, transfer)
    _build_matrix(primaries)  # raises ValueError
    return space


def _name_gamma(gamma: float) -> str:
    return "linear" if gamma == 1 else f"gamma{1 / gamma:.5g}"


def refuse_hdr(space: ColorSpace | None, hdr: str) -> None:
    """Raises ImageError if `space` is HDR and `hdr` is REFUSE."""
    if space is not None and space.is_hdr and hdr == REFUSE:
        raise ImageError(
            f"HDR image ({space.transfer.upper()} curve); "
            "convert it to SDR, or add --hdr tonemap or --hdr clip"
        )


def convert_levels(levels: Levels, space: ColorSpace, hdr: str = CLIP) -> NDArray[np.uint8]:
    """Converts [H, W, 3] of `space`, 8 or 16 bits per channel, to 8-bit sRGB.

    Adapts white with the Bradford transform. Clips colours that sRGB does not have. White of an
    HDR image is 203 cd/m². CLIP clips brighter tones; TONEMAP compresses tones up to 1,000 cd/m²
    with the curve of ITU-R BT.2390 and clips only what is brighter.
    """
    height, width, _ = levels.shape
    out = np.empty((height, width, 3), np.uint8)
    rows = max(1, _BLOCK_PIXELS // max(width, 1))
    table = _build_table(space, levels.dtype.itemsize)
    matrix = _build_matrix(space.primaries)
    for top in range(0, height, rows):
        light = table[levels[top : top + rows]]
        if space.transfer == "hlg":
            light = _apply_hlg_display(light)
        if space.is_hdr and hdr == TONEMAP:
            light = _compress(light)
        out[top : top + rows] = _encode_srgb(_multiply(light, matrix))
    return out


@lru_cache(maxsize=8)
def _build_table(space: ColorSpace, sample_bytes: int) -> _Floats:
    """Returns the light of each level; 1 is SDR white. HLG gives light of the scene, 0 to 1."""
    peak = 256**sample_bytes - 1
    levels = np.arange(peak + 1, dtype=np.float64) / peak
    if space.is_limited:
        black, white = (level * 256 ** (sample_bytes - 1) / peak for level in (16, 235))
        levels = np.clip((levels - black) / (white - black), 0, 1)
    match = _GAMMA.fullmatch(space.transfer)
    light = levels ** float(match[1]) if match else _CURVES[space.transfer](levels)
    table: _Floats = light.astype(np.float32)
    return table


def _decode_srgb(x: _Doubles) -> _Doubles:
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def _decode_bt709(x: _Doubles) -> _Doubles:
    return np.where(x < 0.081, x / 4.5, ((x + 0.099) / 1.099) ** (1 / 0.45))


def _decode_smpte240m(x: _Doubles) -> _Doubles:
    return np.where(x < 0.0913, x / 4, ((x + 0.1115) / 1.1115) ** (1 / 0.45))


def _decode_log(decades: float, x: _Doubles) -> _Doubles:
    return np.where(x > 0, 10 ** (decades * (x - 1)), 0.0)


def _decode_pq(x: _Doubles) -> _Doubles:
    """SMPTE ST 2084: returns light relative to SDR white."""
    power = x ** (32 / 2523)
    nits = _PQ_NITS * (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (
        16384 / 2610
    )
    return nits / _WHITE_NITS


def _encode_pq(light: _Doubles) -> _Doubles:
    power = (light * _WHITE_NITS / _PQ_NITS) ** (2610 / 16384)
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** (2523 / 32)


def _decode_hlg(x: _Doubles) -> _Doubles:
    """ITU-R BT.2100: returns light of the scene, 0 to 1."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(x <= 0.5, x * x / 3, (np.exp((x - c) / a) + b) / 12)


_CURVES: Mapping[str, Callable[[_Doubles], _Doubles]] = {
    "srgb": _decode_srgb,
    "bt709": _decode_bt709,
    "linear": lambda x: x,
    "smpte240m": _decode_smpte240m,
    "log100": lambda x: _decode_log(2.0, x),
    "log316": lambda x: _decode_log(2.5, x),
    "smpte428": lambda x: np.minimum(x**2.6 * 52.37 / 48, 1),
    "pq": _decode_pq,
    "hlg": _decode_hlg,
}


def _apply_hlg_display(light: _Floats) -> _Floats:
    """Returns the light of a display of 1,000 cd/m² for light of a scene (ITU-R BT.2100)."""
    luma = 0.2627 * light[..., 0] + 0.6780 * light[..., 1] + 0.0593 * light[..., 2]
    gain = np.maximum(luma, 0) ** np.float32(0.2) * np.float32(_PEAK_NITS / _WHITE_NITS)
    shown: _Floats = (light * gain[..., None]).astype(np.float32)
    return shown


def _compress(light: _Floats) -> _Floats:
    """Scales each pixel by the curve of ITU-R BT.2390 for its largest channel."""
    largest = light.max(axis=-1)
    known, wanted = _build_tone_curve()
    mapped = np.interp(largest, known, wanted)
    gain = np.divide(mapped, largest, out=np.ones_like(mapped), where=largest > 0)
    compressed: _Floats = (light * gain[..., None]).astype(np.float32)
    return compressed


@lru_cache(maxsize=1)
def _build_tone_curve() -> tuple[_Doubles, _Doubles]:
    """Returns light before and after the curve: 1,000 cd/m² becomes white."""
    white, peak = _encode_pq(np.array([1.0, _PEAK_NITS / _WHITE_NITS]))
    level = np.linspace(0, 1, 4096)
    top = white / peak
    knee = 1.5 * top - 0.5
    t = np.maximum(level - knee, 0) / (1 - knee)
    spline = (
        (2 * t**3 - 3 * t**2 + 1) * knee
        + (t**3 - 2 * t**2 + t) * (1 - knee)
        + (3 * t**2 - 2 * t**3) * top
    )
    mapped = np.where(level < knee, level, spline)
    return _decode_pq(level * peak), _decode_pq(mapped * peak)


def _multiply(light: _Floats, matrix: _Doubles) -> _Floats:
    """Multiplies without BLAS, whose rounding differs between machines."""
    red, green, blue = (light[..., channel] for channel in range(3))
    rows = [row[0] * red + row[1] * green + row[2] * blue for row in matrix.astype(np.float32)]
    return np.stack(rows, axis=-1)


def _encode_srgb(light: _Floats) -> NDArray[np.uint8]:
    codes = np.rint(np.clip(light, 0, 1) * np.float32(65535)).astype(np.uint16)
    encoded: NDArray[np.uint8] = _build_srgb_table()[codes]
    return encoded


@lru_cache(maxsize=1)
def _build_srgb_table() -> NDArray[np.uint8]:
    x = np.arange(65536, dtype=np.float64) / 65535
    encoded = np.where(x <= 0.0031308, x * 12.92, 1.055 * x ** (1 / 2.4) - 0.055)
    table: NDArray[np.uint8] = np.rint(encoded * 255).astype(np.uint8)
    return table


_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


@lru_cache(maxsize=32)
def _build_matrix(primaries: tuple[float, ...]) -> _Doubles:
    """Returns the matrix [3, 3] from linear RGB to linear sRGB. Raises ValueError."""
    source, target = _build_xyz(primaries), _build_xyz(SRGB_PRIMARIES)
    cones, wanted = (_BRADFORD @ _white_xyz(p) for p in (primaries, SRGB_PRIMARIES))
    if not (cones > 0.01).all():
        raise ValueError("white is no colour")
    adapt = np.linalg.inv(_BRADFORD) @ np.diag(wanted / cones) @ _BRADFORD
    matrix: _Doubles = np.linalg.inv(target) @ adapt @ source
    if not np.isfinite(matrix).all() or np.abs(matrix).max() > 100:
        raise ValueError("the primaries are no triangle")
    return matrix


def _white_xyz(primaries: tuple[float, ...]) -> _Doubles:
    x, y = primaries[:2]
    if y <= 0:
        raise ValueError("white is no colour")
    return np.array([x / y, 1, (1 - x - y) / y])


def _build_xyz(primaries: tuple[float, ...]) -> _Doubles:
    """Returns the matrix [3, 3] from linear RGB to XYZ. Raises ValueError."""
    columns = [(x, y, 1 - x - y) for x, y in zip(primaries[2::2], primaries[3::2], strict=True)]
    chromaticity = np.array(columns).T
    if abs(np.linalg.det(chromaticity)) < 1e-4:
        raise ValueError("the primaries are no triangle")
    scale = np.linalg.solve(chromaticity, _white_xyz(primaries))
    if not (scale > 0).all():
        raise ValueError("white is outside the primaries")
    return np.asarray(chromaticity * scale)


@lru_cache(maxsize=32)
def _is_practically_srgb(space: ColorSpace) -> bool:
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    grays = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    samples = np.concatenate([grays, grid], axis=1)
    change = convert_levels(samples, space).astype(np.int16) - samples
    return bool(np.abs(change).max() <= 1)
