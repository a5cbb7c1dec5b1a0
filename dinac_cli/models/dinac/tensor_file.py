"""Tensor tables of safetensors files, and the names under which the tensors are known.

Free of torch. The layout is that of https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from dinac_cli.errors import ModelError

MAX_HEADER_BYTES = 100_000_000
"""The format's own limit on the JSON header."""

ITEM_BYTES = {"F32": 4, "BF16": 2}
"""Bytes of one element, for the storage types that checkpoints may have."""

MAX_RANK = 8

_ALIASES = re.compile(
    r"(encoder\.blocks\.\d+|dino_token_alignment_head\.block)\.(qkv\.weight|proj_out\.weight)"
    r"|(dino_token_alignment_head\.class_readout)\.(kv_proj\.weight|out_proj\.weight)"
)

_FLOAT32_NAMES = re.compile(
    r"(.*\.)?[^.]*norm[^.]*(\..*)?"  # any component with "norm" in it
    r"|.*\.grn\.(gamma|beta)"
    r"|decoder\.path_drop_mask_feature"
    r"|decoder\.out_proj\.(weight|bias)"
    r"|.*\.(periods|freqs)"  # buffers
)


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a file: its storage type, shape, and first and last byte in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class TensorTable:
    """What the header of one safetensors file says, checked against the file's size."""

    path: Path
    entries: Mapping[str, TensorEntry]

    @property
    def by_canonical_name(self) -> dict[str, TensorEntry]:
        """One entry a tensor, sorted by canonical name, whatever name the file stores it under."""
        names = {canonical_name(name): name for name in self.entries}
        # A name that is canonical wins over its alias.
        names |= {name: name for name in self.entries if canonical_name(name) == name}
        return {name: self.entries[names[name]] for name in sorted(names)}

    @property
    def canonical_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the tensors by canonical name."""
        return {name: entry.shape for name, entry in self.by_canonical_name.items()}


def canonical_name(name: str) -> str:
    """Return the one name of a tensor that checkpoints may store under two.

    `encoder.blocks.3.qkv.weight` is an alias of `encoder.blocks.3.attn_core.qkv.weight`.
    """
    match = _ALIASES.fullmatch(name)
    if match is None:
        return name
    owner, leaf, readout, readout_leaf = match.groups()
    return f"{owner or readout}.attn_core.{leaf or readout_leaf}"


def keeps_float32(name: str) -> bool:
    """Tell whether a tensor stays float32 in a bfloat16 network, by its canonical name."""
    return _FLOAT32_NAMES.fullmatch(name) is not None


def show_name(name: str) -> str:
    """Return a tensor's name fit for a message: one line, printable, not too long."""
    return (name if name.isprintable() else ascii(name))[:100]


def read_tensor_table(path: Path) -> TensorTable:
    """Read the header of a safetensors file and check it; no tensor data is read.

    ModelError for a file that cannot be read, is truncated, or is no safetensors file.
    """
    try:
        with path.open("rb") as file:
            header, data_start, size_bytes = _read_header(file, path)
    except OSError as exc:
        raise ModelError(f"{path} cannot be read: {exc.strerror or exc}") from exc
    header.pop("__metadata__", None)
    entries = {name: _parse_entry(name, value, data_start, path) for name, value in header.items()}
    _check_layout(entries.values(), data_start, size_bytes, path)
    return TensorTable(path, entries)


def check_aliases(table: TensorTable, names: Iterable[str]) -> None:
    """Raise ModelError where a tensor of `names` is stored under both its names and differs.

    `names` are canonical; tensors that are not among them are not read.
    """
    wanted = set(names)
    for alias, entry in table.entries.items():
        name = canonical_name(alias)
        if name == alias or name not in wanted or name not in table.entries:
            continue
        twin = table.entries[name]
        if (entry.dtype, entry.shape) != (twin.dtype, twin.shape) or not np.array_equal(
            map_bytes(table.path, entry), map_bytes(table.path, twin)
        ):
            raise ModelError(
                f"{table.path}: {alias} and {name} are one tensor but differ; "
                "get the checkpoint again"
            )


def map_bytes(path: Path, entry: TensorEntry) -> npt.NDArray[np.uint8]:
    """Map a tensor's bytes into memory, unread."""
    size_bytes = entry.stop - entry.start
    if size_bytes == 0:
        return np.empty(0, np.uint8)
    return np.memmap(path, np.uint8, mode="r", offset=entry.start, shape=(size_bytes,))


def _read_header(file: BinaryIO, path: Path) -> tuple[dict[str, Any], int, int]:
    size_bytes = file.seek(0, 2)
    file.seek(0)
    prefix = file.read(8)
    length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
    if not 2 <= length <= min(MAX_HEADER_BYTES, size_bytes - 8):
        raise _refusal(path, "it has no header of a plausible length")
    text = file.read(length)
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_unique_dict)
    except (ValueError, RecursionError) as exc:
        raise _refusal(path, f"its header is no JSON ({exc})") from exc
    if not isinstance(header, dict):
        raise _refusal(path, "its header is no JSON object")
    return header, 8 + length, size_bytes


def _unique_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key is there twice")
    return result


def _parse_entry(name: str, value: Any, data_start: int, path: Path) -> TensorEntry:
    match value:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [start, stop]} if len(
            shape
        ) <= MAX_RANK and all(_is_count(number) for number in (*shape, start, stop)):
            entry = TensorEntry(name, dtype, tuple(shape), data_start + start, data_start + stop)
        case _:
            raise _refusal(path, f"its header describes tensor {show_name(name)} wrongly")
    item_bytes = ITEM_BYTES.get(dtype)
    # Only the types that are read are sized: the others are refused by name later.
    if item_bytes is not None and stop - start != item_bytes * _element_count(entry.shape):
        raise _refusal(path, f"tensor {show_name(name)} has not as many bytes as its shape says")
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


def _element_count(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


def _refusal(path: Path, reason: str) -> ModelError:
    return ModelError(f"{path} is no whole safetensors file: {reason}; get the checkpoint again")
