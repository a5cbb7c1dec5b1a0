"""Maps latents to colours without a decoder: an affine map per latent space, kept as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dinac_cli.container.header import RecordHeader
from dinac_cli.container.names import escape_text
from dinac_cli.errors import DinacError, ModelError, OutputError, UsageError, describe_read_error
from dinac_cli.models.aliases import NANO
from dinac_cli.models.identity import cache_folder
from dinac_cli.storage.atomic import write_atomically

MAP_FORMAT = "comfy_latent_rgb_affine_v1"
"""The value of `format` in the JSON file of a map."""

_FACTORS, _BIAS = "latent_rgb_factors", "latent_rgb_factors_bias"
_CACHE_FOLDER = "latent_rgb"
_EMBEDDED = Path(__file__).parent.parent / "weights" / NANO / "latent_rgb.json"

_MAX_FILE_BYTES = 16 << 20
_MAX_CHANNELS = 1 << 16
_DIGITS = 6
_LARGEST = 1e6  # of latents and factors, so that no product overflows


@dataclass(frozen=True, eq=False)
class ColorMap:
    """Maps latents to RGB in [-1, 1]: `factors` is float32 [C, 3], `bias` is float32 [3].

    `latent_space` is empty if the file of the map does not name it; such a map fits all latents of
    C channels. `model` is the name of the model. `images` is the number of images of the fit, and
    `positions` is the number of latent vectors. `rmse` is the error of the colours in [-1, 1], and
    `r2` is the share of their variance that the map explains. All of these are zero if unknown.
    """

    factors: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]
    latent_space: str = ""
    model: str = ""
    images: int = 0
    positions: int = 0
    ridge: float = 0.0
    rmse: float = 0.0
    r2: float = 0.0

    @property
    def channels(self) -> int:
        """The number of latent channels, C."""
        return len(self.factors)

    def fits(self, header: RecordHeader) -> bool:
        """Whether the map is made for the latents of a record."""
        is_same = self.latent_space in ("", header.latent_space)
        return is_same and header.shape[0] == self.channels

    def paint(self, latents: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        """Returns a picture, uint8 [h, w, 3], of latents [C, h, w]."""
        channels, rows, columns = latents.shape
        bounded = np.clip(latents, -_LARGEST, _LARGEST).reshape(channels, -1)
        levels = bounded.T @ self.factors + self.bias  # [h·w, 3]
        return round_levels(levels).reshape(rows, columns, 3)

    def to_json(self, created_by: str) -> str:
        """Returns the content of the map's file. `created_by` is the program and its version."""
        document = {
            "format": MAP_FORMAT,
            "model": self.model,
            "latent_space": self.latent_space,
            "images": self.images,
            "positions": self.positions,
            "ridge": self.ridge,
            "rmse": round(self.rmse, _DIGITS),
            "r2": round(self.r2, _DIGITS),
            "created_by": created_by,
            _FACTORS: [[round(float(x), _DIGITS) for x in row] for row in self.factors],
            _BIAS: [round(float(x), _DIGITS) for x in self.bias],
        }
        return _break_rows(json.dumps(document)) + "\n"


def round_levels(levels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Returns levels in [-1, 1] as 8-bit values. Clips levels outside this range."""
    rounded: npt.NDArray[np.uint8] = np.rint((np.clip(levels, -1, 1) + 1) * 127.5).astype(np.uint8)
    return rounded


class ColorMaps:
    """Finds the map of each record: the named map, a map in dinac's cache, or an embedded map.

    `place` is the file of the named map, or None.
    """

    def __init__(self, place: str | None = None) -> None:
        """Raises UsageError if the file cannot be read or holds no map."""
        self._place = place
        self._named = None if place is None else read_map(place)
        self._find_known = cache(find_map)

    def find(self, header: RecordHeader) -> ColorMap:
        """Returns the map of a record. Raises ModelError if there is none."""
        if self._named is not None and self._named.fits(header):
            return self._named
        found = self._find_known(header.latent_space)
        if found is not None and found.fits(header):
            return found
        model = escape_text(header.model) or "MODEL"
        raise ModelError(
            f"no colour map for latent space {header.latent_space} of model {model}"
            + (f" ({self._place} is of another)" if self._place is not None else "")
            + f"; make one: dinac preview --fit IMAGES --model {model}"
        )


def find_map(latent_space: str) -> ColorMap | None:
    """Returns the cached map of a latent space, which the user made, or else the embedded map.

    Ignores a damaged file in the cache.
    """
    for path in (locate_cached(latent_space), _EMBEDDED):
        try:
            found = None if path is None else read_map(path)
        except DinacError:
            continue
        if found is not None and found.latent_space == latent_space:
            return found
    return None


def locate_cached(latent_space: str) -> Path | None:
    """Returns where dinac's cache keeps the map of a latent space; None without a cache folder.

    A latent space that is no plain word names no file.
    """
    if not (latent_space.isascii() and latent_space.isalnum()):
        return None
    try:
        return cache_folder() / _CACHE_FOLDER / f"{latent_space}.json"
    except FileNotFoundError:
        return None


def keep_map(color_map: ColorMap, created_by: str) -> Path:
    """Writes a map to dinac's cache, and returns its path. Raises OutputError."""
    path = locate_cached(color_map.latent_space)
    if path is None:
        raise OutputError("there is no cache folder; name a file with --out map.json")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise OutputError(f"{path.parent}: cannot make this folder; set DINAC_CACHE") from exc
    content = color_map.to_json(created_by).encode()
    write_atomically(str(path), content, replace=False, is_ours=is_own_map)
    return path


def read_map(path: str | Path) -> ColorMap:
    """Reads the file of a map. Raises UsageError if it cannot be read or holds no map."""
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as exc:
        raise UsageError(f"{path}: {describe_read_error(exc)}") from exc
    try:
        if len(data) > _MAX_FILE_BYTES:
            raise ValueError("too large")
        return _parse_map(json.loads(data))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as exc:
        raise UsageError(f"{path}: is no colour map; make one: dinac preview --fit IMAGES") from exc


def is_own_map(path: str) -> bool:
    """True for the file of a map that dinac wrote."""
    try:
        read_map(path)
        with open(path, "rb") as file:
            return str(json.load(file).get("created_by", "")).startswith("dinac")
    except (DinacError, OSError, ValueError):
        return False


def _parse_map(document: Mapping[str, Any]) -> ColorMap:
    factors = np.array(document[_FACTORS], np.float32)
    bias = np.array(document[_BIAS], np.float32)
    is_shaped = factors.ndim == 2 and factors.shape[1] == 3 and bias.shape == (3,)
    if not is_shaped or not 0 < len(factors) <= _MAX_CHANNELS:
        raise ValueError(factors.shape)
    if not (np.abs(factors).max() <= _LARGEST and np.abs(bias).max() <= _LARGEST):  # or NaN
        raise ValueError("too large")
    return ColorMap(
        factors,
        bias,
        latent_space=str(document.get("latent_space", "")),
        model=str(document.get("model", "")),
        images=int(document.get("images", 0)),
        positions=int(document.get("positions", 0)),
        ridge=float(document.get("ridge", 0.0)),
        rmse=float(document.get("rmse", 0.0)),
        r2=float(document.get("r2", 0.0)),
    )


def _break_rows(text: str) -> str:
    """Puts each key and each row of the factors on a line of its own."""
    return text.replace('"], ', '"],\n ').replace("], [", "],\n  [").replace(', "', ',\n "')
