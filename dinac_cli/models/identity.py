"""Computes the identity of a network: two short hashes of its checkpoint.

A checkpoint and its bfloat16 copy have the same identity.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from dinac_cli.errors import ModelError
from dinac_cli.models.tensor_file import (
    ITEM_BYTES,
    TensorEntry,
    check_aliases,
    map_bytes,
    read_tensor_table,
    show_name,
)

IDENTITY_DIGITS = 16
"""The number of hexadecimal digits per hash. A hash is the first 64 bits of a SHA-256."""

_CHUNK_BYTES = 4 << 20

_CACHE_NAME = "identities.json"
_CACHE_VERSION = 1
_CACHE_ENTRIES = 64

_Entry = TypeVar("_Entry")


@dataclass(frozen=True)
class ModelIdentity:
    """`latent_space` identifies the encoder's latents; `weights` identifies the whole network."""

    latent_space: str
    weights: str


@dataclass(frozen=True, kw_only=True)
class IdentityRule:
    """What of a checkpoint is hashed: the tensors under their canonical names, and constants.

    Tensors whose names match `latent_space`, and `latent_constants`, define the latent space; the
    weights are all tensors, but for those that match `ignored`, and all constants.
    `latent_constants` are names of `constants`.
    """

    canonical: Callable[[str], str] = str
    keeps_float32: Callable[[str], bool]
    latent_space: re.Pattern[str]
    constants: tuple[tuple[str, object], ...] = ()
    latent_constants: frozenset[str] = frozenset()
    ignored: re.Pattern[str] = re.compile(r"(?!)")


def compute_identity(path: Path, rule: IdentityRule) -> ModelIdentity:
    """Hashes the tensors of a safetensors file and the constants of its configuration.

    Each hash is the beginning of a SHA-256. The hash covers the tensors, sorted by canonical name,
    then the constants in their order. Each tensor is first cast to its type in a bfloat16 network.
    The hashed bytes of a tensor are a line of JSON (name, type and shape) and then the
    little-endian values. The hashed bytes of a constant are a line of JSON. Raises ModelError if
    the file is not a checkpoint.
    """
    table = read_tensor_table(path, rule.canonical)
    tensors = table.by_canonical_name
    check_aliases(table, tensors)
    latent_space, weights = hashlib.sha256(), hashlib.sha256()
    for name, entry in tensors.items():
        if rule.ignored.fullmatch(name):
            continue
        dtype = "F32" if rule.keeps_float32(name) else "BF16"
        for data in _canonical_bytes(path, name, entry, dtype):
            weights.update(data)
            if rule.latent_space.fullmatch(name):
                latent_space.update(data)
    for name, value in rule.constants:
        line = f"{json.dumps([name, value])}\n".encode()
        weights.update(line)
        if name in rule.latent_constants:
            latent_space.update(line)
    return ModelIdentity(*(sha.hexdigest()[:IDENTITY_DIGITS] for sha in (latent_space, weights)))


def read_identity(path: Path, rule: IdentityRule) -> ModelIdentity:
    """Returns the identity of a file, cached by path, size, modification time and constants.

    If the cache cannot be read or written, the file is hashed each time.
    """
    key = _file_key(path, [value for _, value in rule.constants])
    cached = _read_cache().identities
    if key in cached:
        return cached[key]
    identity = compute_identity(path, rule)
    _write_cache(_read_cache().add_identity(key, identity))
    return identity


def read_measurement(
    path: Path, settings: Sequence[object], measure: Callable[[], Mapping[str, float]]
) -> Mapping[str, float]:
    """Returns the numbers that `measure` finds about a file, cached like its identity.

    `settings` are what the numbers depend on beside the file. Raises what `measure` raises.
    """
    key = _file_key(path, settings)
    cached = _read_cache().measurements
    if key in cached:
        return cached[key]
    measurement = measure()
    _write_cache(_read_cache().add_measurement(key, measurement))
    return measurement


def _file_key(path: Path, settings: Sequence[object]) -> str:
    try:
        status = path.stat()
    except OSError as exc:
        raise ModelError(f"{path} cannot be read: {exc.strerror or exc}") from exc
    return json.dumps([os.path.abspath(path), status.st_size, status.st_mtime_ns, list(settings)])


def cache_folder() -> Path:
    """Returns dinac's cache folder: $DINAC_CACHE, or `dinac` in the user's cache folder.

    Raises FileNotFoundError if the user has no home folder.
    """
    if own := os.environ.get("DINAC_CACHE"):
        return Path(own)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "dinac"
    try:
        return Path.home() / ".cache" / "dinac"
    except RuntimeError as exc:  # such as in a container
        raise FileNotFoundError("the user has no home folder") from exc


def round_to_bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Rounds float32 values to bfloat16 and returns the bits. Ties go to even; NaN stays NaN."""
    bits = values.view(np.uint32)
    # The sum can overflow only if the value is NaN. The last line replaces all NaNs.
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16)


def _canonical_bytes(path: Path, name: str, entry: TensorEntry, dtype: str) -> Iterator[bytes]:
    if entry.dtype not in ITEM_BYTES:
        raise ModelError(
            f"{path}: tensor {show_name(name)} has type {show_name(entry.dtype)}; "
            "convert the checkpoint to F32 or BF16"
        )
    yield f"{json.dumps([name, dtype, list(entry.shape)])}\n".encode()
    data = map_bytes(path, entry)
    for start in range(0, data.size, _CHUNK_BYTES):
        yield _cast(data[start : start + _CHUNK_BYTES], entry.dtype, dtype)


def _cast(data: npt.NDArray[np.uint8], stored: str, wanted: str) -> bytes:
    if stored == wanted:
        return data.tobytes()
    # `tobytes` copies the chunk to aligned memory, because a tensor may start at any byte.
    if wanted == "BF16":
        values = np.frombuffer(data.tobytes(), "<f4").astype(np.float32, copy=False)
        return round_to_bfloat16(values).astype("<u2").tobytes()
    return (np.frombuffer(data.tobytes(), "<u2").astype("<u4") << 16).tobytes()


@dataclass(frozen=True)
class _Cache:
    """The content of the cache file. The keys are made by `_file_key`; the newest entry is last."""

    identities: Mapping[str, ModelIdentity] = field(default_factory=dict)
    measurements: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def add_identity(self, key: str, identity: ModelIdentity) -> _Cache:
        return replace(self, identities={**_newest(self.identities), key: identity})

    def add_measurement(self, key: str, measurement: Mapping[str, float]) -> _Cache:
        return replace(self, measurements={**_newest(self.measurements), key: measurement})


def _newest(entries: Mapping[str, _Entry]) -> dict[str, _Entry]:
    return dict(list(entries.items())[1 - _CACHE_ENTRIES :])


def _read_cache() -> _Cache:
    try:
        document = json.loads((cache_folder() / _CACHE_NAME).read_text("utf-8"))
        if document["version"] != _CACHE_VERSION:
            return _Cache()
        measurements = document.get("measurements", {})  # absent in files of earlier versions
        return _Cache(
            {key: _parse_identity(value) for key, value in document["identities"].items()},
            {key: _parse_measurement(value) for key, value in measurements.items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return _Cache()


def _parse_measurement(value: Any) -> dict[str, float]:
    measurement = {str(name): number for name, number in value.items()}
    if not all(isinstance(number, float) for number in measurement.values()):
        raise ValueError(measurement)
    return measurement


def _parse_identity(value: Any) -> ModelIdentity:
    identity = ModelIdentity(**value)
    for digits in (identity.latent_space, identity.weights):
        if not re.fullmatch(f"[0-9a-f]{{{IDENTITY_DIGITS}}}", digits):
            raise ValueError(digits)
    return identity


def _write_cache(cache: _Cache) -> None:
    document = {"version": _CACHE_VERSION, **asdict(cache)}
    with suppress(OSError):
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".identities-", dir=folder)
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                json.dump(document, file, indent=1)
            os.replace(name, folder / _CACHE_NAME)
        except OSError:
            os.unlink(name)
            raise
