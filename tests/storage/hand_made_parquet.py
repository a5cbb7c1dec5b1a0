"""Parquet files built field by field, so that each test can make any of them lie."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

I32, I64, BINARY, LIST, STRUCT = 5, 6, 8, 9, 12

BYTE_ARRAY = 6
PLAIN, RLE, DELTA_BYTE_ARRAY, RLE_DICTIONARY = 0, 3, 7, 8
UNCOMPRESSED, ZSTD = 0, 6
DATA_PAGE, DICTIONARY_PAGE = 0, 2


class Long(int):
    """A number of type i64; other numbers are i32."""


def pack_varint(number: int) -> bytes:
    """Returns a number in groups of 7 bits, the lowest first."""
    pieces = bytearray()
    while number > 127:
        pieces.append(number & 127 | 128)
        number >>= 7
    return bytes([*pieces, number])


def pack_signed(number: int) -> bytes:
    """Returns a number with its sign in the lowest bit."""
    return pack_varint(number << 1 if number >= 0 else (-number << 1) - 1)


def pack_value(value: Any) -> tuple[int, bytes]:
    """Returns the type and the bytes of a value in Thrift's compact protocol."""
    if isinstance(value, int):
        return I64 if isinstance(value, Long) else I32, pack_signed(value)
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return BINARY, pack_varint(len(value)) + value
    if isinstance(value, Mapping):
        return STRUCT, pack_struct(value)
    packed = [pack_value(each) for each in value]
    kind = packed[0][0] if packed else STRUCT
    head = bytes([0xF0 | kind]) + pack_varint(len(packed))
    return LIST, head + b"".join(data for _, data in packed)


def pack_struct(fields: Mapping[int, Any]) -> bytes:
    """Returns a struct; the numbers of its fields are ascending and less than 16 apart."""
    pieces = []
    last = 0
    for number, value in fields.items():
        kind, data = pack_value(value)
        pieces.append(bytes([(number - last) << 4 | kind]) + data)
        last = number
    return b"".join(pieces) + b"\0"


@dataclass
class Page:
    """A page. `fields` and `inner` replace fields of its header and of the header of its kind."""

    data: bytes
    values: int
    encoding: int = PLAIN
    kind: int = DATA_PAGE
    data_bytes: int | None = None
    fields: Mapping[int, Any] = field(default_factory=dict)
    inner: Mapping[int, Any] = field(default_factory=dict)

    def pack(self) -> bytes:
        """Returns the header and the data."""
        inner: dict[int, Any] = {1: self.values, 2: self.encoding}
        if self.kind == DATA_PAGE:
            inner |= {3: RLE, 4: RLE}
        size = len(self.data) if self.data_bytes is None else self.data_bytes
        place = 5 if self.kind == DATA_PAGE else 7
        fields = {1: self.kind, 2: size, 3: len(self.data), place: inner | dict(self.inner)}
        return pack_struct(fields | dict(self.fields)) + self.data


def pack_texts(*values: bytes) -> bytes:
    """Returns values as a plain page has them."""
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def make_file(
    pages: Sequence[Page],
    rows: int,
    *,
    codec: int = UNCOMPRESSED,
    name: str = "image",
    column: Mapping[int, Any] | None = None,
    chunk: Mapping[int, Any] | None = None,
    group: Mapping[int, Any] | None = None,
    footer: Mapping[int, Any] | None = None,
) -> bytes:
    """Returns a file with one row group of one required column of bytes.

    `column`, `chunk`, `group` and `footer` replace fields of its metadata.
    """
    body = b"PAR1" + b"".join(page.pack() for page in pages)
    data_at = 4 + sum(len(page.pack()) for page in pages if page.kind == DICTIONARY_PAGE)
    fields: dict[int, Any] = {
        1: BYTE_ARRAY, 2: [PLAIN], 3: [name], 4: codec, 5: Long(rows), 6: Long(len(body) - 4),
        7: Long(len(body) - 4), 9: Long(data_at),
    }  # fmt: skip
    if data_at > 4:
        fields[11] = Long(4)
    chunks = [dict(sorted({2: Long(4), 3: fields | dict(column or {}), **(chunk or {})}.items()))]
    groups = [{1: chunks, 2: Long(len(body) - 4), 3: Long(rows), **(group or {})}]
    schema = [{4: "schema", 5: 1}, {1: BYTE_ARRAY, 3: 0, 4: name}]
    end = pack_struct({1: 1, 2: schema, 3: Long(rows), 4: groups, **(footer or {})})
    return body + end + struct.pack("<I", len(end)) + b"PAR1"
