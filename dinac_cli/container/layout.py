"""Reads and writes the safetensors header inside a record.

The writer always gives equal bytes for equal headers. The reader refuses every invalid header. A
header consists of an 8-byte little-endian length and JSON text of that length. The JSON object maps
each tensor name to its dtype, shape and data_offsets. The key `__metadata__` maps to an object of
strings. These rules come from the safetensors format.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy.typing as npt

from dinac_cli.container.zstd import MAX_HEADER_BYTES
from dinac_cli.errors import FormatError, Rejection

_DTYPE_BYTES = {
    **dict.fromkeys(["BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"], 1),
    **dict.fromkeys(["U16", "I16", "F16", "BF16"], 2),
    **dict.fromkeys(["U32", "I32", "F32"], 4),
    **dict.fromkeys(["U64", "I64", "F64", "C64"], 8),
}
_DTYPE_NAMES = {"|u1": "U8", "|i1": "I8", "<f4": "F32", "<i8": "I64"}

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)

_METADATA = "__metadata__"
_ENTRY_KEYS = {"dtype", "shape", "data_offsets"}
_ALIGNMENT = 8
_MAX_DEPTH = 3  # the JSON object, the object of a tensor, and a list in that object
_MAX_RANK = 8
_MOST_KINDS = 64
_MAX_DIGITS = 15
# The closing quote is optional. If the pattern required this quote, the search for an unclosed
# string would start again at each later quote, and take quadratic time.
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[{]}"))


@dataclass(frozen=True)
class TensorEntry:
    """The dtype and shape of a tensor, and its place in the payload: bytes `begin` to `end`."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Layout:
    """A parsed header: the metadata, the tensors, and the size of the payload in bytes."""

    metadata: dict[str, str]
    tensors: dict[str, TensorEntry]
    payload_size: int


def write_layout(metadata: Mapping[str, str], tensors: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Returns the header for `tensors` (U8, I8, F32 or I64), which the payload holds in this order.

    Sorts the keys of the JSON text, and pads the text with spaces to a multiple of 8 bytes. Equal
    input always gives equal bytes. The safetensors library does not promise this.
    """
    entries: dict[str, Any] = {_METADATA: dict(metadata)}
    begin = 0
    for name, tensor in tensors.items():
        end = begin + tensor.nbytes
        dtype, shape = _DTYPE_NAMES[tensor.dtype.str], list(tensor.shape)
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        begin = end
    return _frame(_ENCODER.encode(entries).encode())


def _frame(text: bytes) -> bytes:
    """Returns the JSON text with its padding and its length."""
    text += b" " * (-len(text) % _ALIGNMENT)
    if len(text) > MAX_HEADER_BYTES:
        raise FormatError(Rejection.HEADER_SIZE, f"header of {len(text)} bytes is too large")
    return len(text).to_bytes(8, "little") + text


class LayoutWriter:
    """Writes headers like `write_layout`, and faster if they differ in a few values only.

    `varying` are the keys of the metadata whose values differ from record to record. Keeps the text
    around these values for the last few kinds of records.
    """

    def __init__(self, *varying: str) -> None:
        self._varying = sorted(varying)
        self._texts: dict[tuple[object, ...], list[str]] = {}

    def write(self, metadata: Mapping[str, str], tensors: Mapping[str, npt.NDArray[Any]]) -> bytes:
        """Returns what `write_layout` returns. Raises the same errors."""
        fixed = (value for key, value in metadata.items() if key not in self._varying)
        key = (*metadata, *fixed, *((n, t.dtype.str, t.shape) for n, t in tensors.items()))
        texts = self._texts.get(key)
        if texts is None:
            texts = self._split(metadata, tensors)
            if len(self._texts) >= _MOST_KINDS:
                self._texts.clear()
            self._texts[key] = texts
        parts = [texts[0]]
        for name, text in zip(self._varying, texts[1:], strict=True):
            parts += (_ENCODER.encode(metadata[name]), text)
        return _frame("".join(parts).encode())

    def _split(
        self, metadata: Mapping[str, str], tensors: Mapping[str, npt.NDArray[Any]]
    ) -> list[str]:
        """Returns the text before, between and after the varying values, without the padding."""
        marks = {name: f"\1{name}" for name in self._varying}  # no valid value is like that
        rest = write_layout({**metadata, **marks}, tensors)[8:].decode().rstrip(" ")
        texts = []
        for mark in marks.values():
            before, _, rest = rest.partition(_ENCODER.encode(mark))
            texts.append(before)
        return [*texts, rest]


def read_layout(head: bytes) -> Layout:
    """Reads a header with its 8-byte length. Checks that the tensors leave no gaps.

    Raises FormatError with rejection HEADER_JSON, DUPLICATE_KEY, METADATA, TENSOR or LAYOUT.
    """
    entries = _read_json(head[8:])
    metadata = _read_metadata(entries.pop(_METADATA, None))
    tensors = {name: _read_entry(name, entry) for name, entry in entries.items()}
    return Layout(metadata, tensors, _check_offsets(tensors))


def _read_json(text: bytes) -> dict[str, Any]:
    if not text.startswith(b"{") or _depth(text) > _MAX_DEPTH:
        raise _not_json()
    try:
        value = json.loads(
            text.decode(),
            object_pairs_hook=_read_object,
            parse_int=_read_integer,
            parse_float=_refuse_number,
            parse_constant=_refuse_number,
        )
    except ValueError as exc:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise _not_json() from exc
    assert isinstance(value, dict), "JSON that begins with a brace is an object"
    return value


def _depth(text: bytes) -> int:
    """Returns the depth of brackets in JSON. Deep nesting must not reach the recursive parser."""
    depth = deepest = 0
    for bracket in _STRING.sub(b"", text).translate(None, _NOT_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for key, value in pairs:
        if key in members:
            raise FormatError(
                Rejection.DUPLICATE_KEY, f"the header repeats the key {key[:40]!a}; re-encode"
            )
        members[key] = value
    return members


def _read_integer(digits: str) -> int:
    # The JSON parser itself refuses leading zeros and a plus sign.
    if digits.startswith("-") or len(digits) > _MAX_DIGITS:
        _refuse_number(digits)
    return int(digits)


def _refuse_number(digits: str) -> NoReturn:
    raise FormatError(
        Rejection.HEADER_JSON, f"the header holds {digits[:40]!a}, not a valid size; re-encode"
    )


def _read_metadata(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise FormatError(
            Rejection.METADATA, "__metadata__ is missing or has non-string values; re-encode"
        )
    return value


def _read_entry(name: str, entry: Any) -> TensorEntry:
    if not isinstance(entry, dict) or entry.keys() != _ENTRY_KEYS:
        raise _bad_tensor(name, "must have exactly the keys dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPE_BYTES:
        raise _bad_tensor(name, "has an unknown dtype")
    if not _is_sizes(shape) or len(shape) > _MAX_RANK:
        raise _bad_tensor(name, f"needs a shape of at most {_MAX_RANK} sizes")
    if not _is_sizes(offsets) or len(offsets) != 2:
        raise _bad_tensor(name, "needs data_offsets of two positions")
    begin, end = offsets
    if end - begin != math.prod(shape) * _DTYPE_BYTES[dtype]:
        raise FormatError(
            Rejection.LAYOUT, f"tensor {name[:40]!a}: shape and data_offsets disagree; re-encode"
        )
    return TensorEntry(dtype, tuple(shape), begin, end)


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int for size in value)


def _check_offsets(tensors: Mapping[str, TensorEntry]) -> int:
    """Checks that tensors neither overlap nor leave gaps. Returns their total size in bytes."""
    position = 0
    for begin, end in sorted((entry.begin, entry.end) for entry in tensors.values()):
        if begin != position:
            raise FormatError(Rejection.LAYOUT, "tensors overlap or leave gaps; re-encode")
        position = end
    return position


def _bad_tensor(name: str, fault: str) -> FormatError:
    return FormatError(Rejection.TENSOR, f"tensor {name[:40]!a} {fault}; re-encode")


def _not_json() -> FormatError:
    return FormatError(Rejection.HEADER_JSON, "the header is not safetensors JSON; re-encode")
