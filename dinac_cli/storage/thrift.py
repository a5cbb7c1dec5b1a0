"""Structs in Thrift's compact protocol, in which parquet writes its metadata.

https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)

_MAX_DEPTH = 16
_BITS = {I16: 16, I32: 32, I64: 64}


class LimitError(ValueError):
    """The data is not damaged as far as it was read, but exceeds a limit."""


class Value(NamedTuple):
    """A value and its type. Numbers are int, lists are `Values`, structs are `Fields`.

    The content of a boolean, and of a map, is None.
    """

    kind: int
    content: Any


class Values(NamedTuple):
    """The elements of a list, without their type."""

    kind: int
    contents: Sequence[Any]


Fields = dict[int, Value]
"""The values of a struct by number."""


def get_field(fields: Mapping[int, Value], number: int, kind: int) -> Any:
    """Returns the content of a field. Returns None if there is none of this type."""
    value = fields.get(number)
    return value.content if value is not None and value.kind == kind else None


def list_structs(fields: Mapping[int, Value], number: int) -> Sequence[Fields]:
    """Returns a list of structs. Raises ValueError if the field is something else."""
    values = get_field(fields, number, LIST)
    if values is None or (values.kind != STRUCT and values.contents):
        raise ValueError(f"field {number} is no list of structs")
    return cast(Sequence[Fields], values.contents)


def pack_struct(fields: Mapping[int, Value]) -> bytes:
    """Returns the bytes of a struct, whose fields are in the order of their numbers."""
    pieces = bytearray()
    last = 0
    for number, value in fields.items():
        step = number - last
        if 0 < step < 16:
            pieces.append(step << 4 | value.kind)
        else:
            pieces += bytes([value.kind]) + _pack_signed(number)
        pieces += _pack_value(value)
        last = number
    return bytes(pieces) + b"\0"


def _pack_value(value: Value) -> bytes:
    kind, content = value
    if kind in (TRUE, FALSE):
        return b""
    if kind in (BYTE, DOUBLE):
        return cast(bytes, content)
    if kind in _BITS:
        return _pack_signed(content)
    if kind == BINARY:
        return _pack_unsigned(len(content)) + cast(bytes, content)
    if kind == LIST:
        head = bytes([0xF0 | content.kind]) + _pack_unsigned(len(content.contents))
        return head + b"".join(_pack_value(Value(content.kind, each)) for each in content.contents)
    assert kind == STRUCT, "nothing writes sets or maps"
    return pack_struct(content)


def _pack_signed(number: int) -> bytes:
    return _pack_unsigned(number << 1 if number >= 0 else ~(number << 1))


def _pack_unsigned(number: int) -> bytes:
    pieces = bytearray()
    while number > 127:
        pieces.append(number & 127 | 128)
        number >>= 7
    pieces.append(number)
    return bytes(pieces)


@dataclass
class ThriftReader:
    """Reads structs from `data`, beginning at `at`. Raises ValueError if they are damaged.

    `most_values` bounds the time and the memory. Raises LimitError if there are more values.
    """

    data: bytes
    at: int
    most_values: int

    def read_struct(self, depth: int = 0) -> Fields:
        """Returns the fields of a struct. Their numbers ascend, as all writers have them."""
        if depth > _MAX_DEPTH:
            raise ValueError("a struct is nested too deeply")
        fields: Fields = {}
        number = 0
        while head := self._read_byte():
            kind, step = head & 15, head >> 4
            last, number = number, number + step if step else self._read_signed(16)
            if number <= last:
                raise ValueError("the fields of a struct are not in order")
            content = None if kind in (TRUE, FALSE) else self._read_content(kind, depth)
            fields[number] = Value(kind, content)
        return fields

    def _read_content(self, kind: int, depth: int) -> Any:
        self.most_values -= 1
        if self.most_values < 0:
            raise LimitError("a struct has too many values")
        if kind in _BITS:
            return self._read_signed(_BITS[kind])
        if kind == BINARY:
            return self._read_bytes(self._read_unsigned())
        if kind == STRUCT:
            return self.read_struct(depth + 1)
        if kind in (LIST, SET):
            return self._read_list(depth)
        if kind in (TRUE, FALSE, BYTE):  # in lists, a boolean has a byte
            return self._read_bytes(1)
        if kind == DOUBLE:
            return self._read_bytes(8)
        if kind == MAP:
            return self._skip_map(depth)
        raise ValueError("a struct has a field of an unknown type")

    def _read_list(self, depth: int) -> Values:
        head = self._read_byte()
        kind, count = head & 15, head >> 4
        if count == 15:
            count = self._read_unsigned()
        self._check_nesting(depth)
        return Values(kind, [self._read_content(kind, depth + 1) for _ in range(count)])

    def _skip_map(self, depth: int) -> None:
        self._check_nesting(depth)
        if count := self._read_unsigned():
            kinds = self._read_byte()
            for _ in range(count):
                self._read_content(kinds >> 4, depth + 1)
                self._read_content(kinds & 15, depth + 1)

    def _check_nesting(self, depth: int) -> None:
        if depth >= _MAX_DEPTH:
            raise ValueError("a list is nested too deeply")

    def _read_bytes(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self.data):
            raise ValueError("a struct is cut off")
        piece = self.data[self.at : end]
        self.at = end
        return piece

    def _read_byte(self) -> int:
        if self.at >= len(self.data):
            raise ValueError("a struct is cut off")
        self.at += 1
        return self.data[self.at - 1]

    def _read_unsigned(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._read_byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("a number is too long")

    def _read_signed(self, bits: int) -> int:
        value = self._read_unsigned()
        if value >> bits:
            raise ValueError("a number is too large")
        return value >> 1 ^ -(value & 1)
