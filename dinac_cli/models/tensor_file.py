"""Reads the tensor tables of safetensors files. Does not import torch.

File layout: https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from dinac_cli.errors import ModelError, quote_error

MAX_HEADER_BYTES = 100_000_000
"""The largest JSON header that the file format allows."""

ITEM_BYTES = {"F32": 4, "BF16": 2}
"""The number of bytes per value, for each supported storage type."""

_MAX_RANK = 8
_PICKLE_SUFFIXES = frozenset({".pt", ".pth", ".bin", ".ckpt", ".pkl"})
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x04")  # torch.save, as a zip file and before
_ADVICE = "download the checkpoint again"
_ADVICE_PICKLE = "dinac loads no pickles; convert it to safetensors"
_GIT_LFS = b"version "  # the start of a pointer; as a header's length it would be absurd


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a file. The tensor's data start at byte `start` and end before `stop`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class TensorTable:
    """The header of a safetensors file. The header agrees with the file's size.

    `canonical` returns the canonical name of a tensor. A tensor may be stored under an alias.
    """

    path: Path
    entries: Mapping[str, TensorEntry]
    size_bytes: int
    canonical: Callable[[str], str] = str

    @property
    def by_canonical_name(self) -> dict[str, TensorEntry]:
        """The entries, sorted by canonical name. The `name` field of an entry may be an alias."""
        names = {self.canonical(name): name for name in self.entries}
        # If a tensor is stored under its canonical name and also an alias, take the former.
        names |= {name: name for name in self.entries if self.canonical(name) == name}
        return {name: self.entries[names[name]] for name in sorted(names)}

    @property
    def canonical_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the tensors. The keys are canonical names."""
        return {name: entry.shape for name, entry in self.by_canonical_name.items()}


def show_name(name: str) -> str:
    """Makes a tensor's name fit for a message: one printable line, at most 100 characters."""
    return (name if name.isprintable() else ascii(name))[:100]


def refuse_pickle(path: Path) -> None:
    """Raises ModelError if the name of a file is that of a pickle."""
    if path.suffix.lower() in _PICKLE_SUFFIXES:
        raise ModelError(
            f"{path} is a pickle file, and pickle is never loaded; convert the file to safetensors"
        )


def read_tensor_table(path: Path, canonical: Callable[[str], str] = str) -> TensorTable:
    """Reads and checks the header of a safetensors file; reads no tensor data.

    `canonical` returns the canonical name of a tensor.
    Raises ModelError if the file cannot be read, is truncated, or is not a safetensors file.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):  # a pipe would block forever
        raise ModelError(f"{path} is not a regular file; name a safetensors file")
    try:
        with path.open("rb") as file:
            header, data_start, size_bytes = _read_header(file, path)
    except OSError as exc:
        raise ModelError(f"{path} cannot be read: {exc.strerror or exc}") from exc
    header.pop("__metadata__", None)
    entries = {name: _parse_entry(name, value, data_start, path) for name, value in header.items()}
    _check_layout(entries.values(), data_start, size_bytes, path)
    return TensorTable(path, entries, size_bytes, canonical)


def check_aliases(table: TensorTable, names: Iterable[str]) -> None:
    """Raises ModelError if a tensor is stored under two names with different content.

    `names` are the canonical names of the tensors to check.
    """
    wanted = set(names)
    for alias, entry in table.entries.items():
        name = table.canonical(alias)
        if name == alias or name not in wanted or name not in table.entries:
            continue
        twin = table.entries[name]
        if (entry.dtype, entry.shape) != (twin.dtype, twin.shape) or not np.array_equal(
            map_bytes(table.path, entry), map_bytes(table.path, twin)
        ):
            raise ModelError(
                f"{table.path}: {alias} and {name} name the same tensor but differ; "
                "download the checkpoint again"
            )


def map_bytes(path: Path, entry: TensorEntry) -> npt.NDArray[np.uint8]:
    """Memory-maps the bytes of a tensor; reads no data."""
    size_bytes = entry.stop - entry.start
    if size_bytes == 0:
        return np.empty(0, np.uint8)
    return np.memmap(path, np.uint8, mode="r", offset=entry.start, shape=(size_bytes,))


def read_floats(path: Path, entry: TensorEntry) -> npt.NDArray[np.float32]:
    """Reads the values of a tensor, flat. Raises ModelError if they are not F32 or BF16."""
    data = map_bytes(path, entry).tobytes()
    if entry.dtype == "F32":
        return np.frombuffer(data, "<f4").astype(np.float32, copy=False)
    if entry.dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    raise ModelError(
        f"{path}: tensor {show_name(entry.name)} has type {show_name(entry.dtype)}; "
        "convert the checkpoint to F32 or BF16"
    )


def _read_header(file: BinaryIO, path: Path) -> tuple[dict[str, Any], int, int]:
    size_bytes = file.seek(0, 2)
    file.seek(0)
    prefix = file.read(8)
    if prefix == _GIT_LFS:
        raise ModelError(f"{path} is a Git LFS pointer, not the weights; run: git lfs pull")
    length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
    if not 2 <= length <= min(MAX_HEADER_BYTES, size_bytes - 8):
        advice = _ADVICE_PICKLE if prefix.startswith(_PICKLES) else _ADVICE
        raise _refusal(path, "it has no header of a plausible length", advice=advice)
    text = file.read(length)
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_unique_dict)
    except (ValueError, RecursionError) as exc:
        raise _refusal(path, "its header is not valid JSON", [quote_error(exc)]) from exc
    if not isinstance(header, dict):
        raise _refusal(path, "its header is not a JSON object")
    return header, 8 + length, size_bytes


def _unique_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _parse_entry(name: str, value: Any, data_start: int, path: Path) -> TensorEntry:
    match value:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [start, stop]} if len(
            shape
        ) <= _MAX_RANK and all(_is_count(number) for number in (*shape, start, stop)):
            entry = TensorEntry(name, dtype, tuple(shape), data_start + start, data_start + stop)
        case _:
            raise _refusal(path, f"its header has an invalid entry for tensor {show_name(name)}")
    item_bytes = ITEM_BYTES.get(dtype)
    # The item size of an unsupported type is not known. Later checks refuse such types.
    if item_bytes is not None and stop - start != item_bytes * math.prod(entry.shape):
        raise _refusal(path, f"tensor {show_name(name)} has a size that does not match its shape")
    return entry


def _check_layout(
    entries: Iterable[TensorEntry], data_start: int, size_bytes: int, path: Path
) -> None:
    position = data_start
    for entry in sorted(entries, key=lambda entry: (entry.start, entry.stop)):
        if entry.start != position or entry.stop < entry.start:
            raise _refusal(path, f"tensor {show_name(entry.name)} leaves a gap or overlaps another")
        position = entry.stop
    if position != size_bytes:
        short = "truncated" if position > size_bytes else "longer than its header says"
        raise _refusal(path, f"it is {short} ({size_bytes} bytes, {position} expected)")


def _is_count(number: object) -> bool:
    return type(number) is int and 0 <= number < 2**48


def _refusal(
    path: Path, reason: str, details: Sequence[str] = (), *, advice: str = _ADVICE
) -> ModelError:
    return ModelError(f"{path} is not a complete safetensors file: {reason}; {advice}", details)
