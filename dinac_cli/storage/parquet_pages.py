"""Measures the pages of a parquet column before pyarrow decodes them.

The footer of a parquet file says how large its columns are, but pyarrow believes the pages
themselves: a page of 100 bytes may declare 2 GiB of data or a billion values. The headers of the
pages are Thrift structs in the compact protocol:
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)

_DATA_PAGE, _INDEX_PAGE, _DICTIONARY_PAGE, _DATA_PAGE_V2 = range(4)
_DELTA_BYTE_ARRAY = 7

_MAX_DEPTH = 8
_MAX_ELEMENTS = 100
"""The most elements of a list or map. Page headers have none today."""

_Fields = dict[int, "int | _Fields"]


class PageTotals(NamedTuple):
    """The sizes of a column chunk.

    `shared_bytes` is the size of the largest page whose bytes may belong to many values: a
    dictionary, or values that share prefixes. No value is larger than this or than its own bytes.
    """

    data_bytes: int
    shared_bytes: int


def measure_pages(chunk: bytes, values: int) -> PageTotals:
    """Returns the sizes that the pages of a column chunk declare, uncompressed, in bytes.

    `values` is the number of values in the chunk, nulls included. Raises ValueError if the pages do
    not hold as many or if a header is damaged.
    """
    at = data_bytes = shared_bytes = found = 0
    while found < values:
        reader = _ThriftReader(chunk, at)
        page = _read_page(reader.read_struct(), values)
        if page.kind in (_DATA_PAGE, _DATA_PAGE_V2):
            found += page.values
        data_bytes += page.data_bytes
        if page.kind == _DICTIONARY_PAGE or page.encoding == _DELTA_BYTE_ARRAY:
            shared_bytes = max(shared_bytes, page.data_bytes)
        at = reader.at + page.stored_bytes
        if at > len(chunk):
            raise ValueError("a page ends after its column")
    if found > values:
        raise ValueError("a page holds more values than its column")
    return PageTotals(data_bytes, shared_bytes)


class _Page(NamedTuple):
    kind: int
    data_bytes: int
    stored_bytes: int
    values: int
    encoding: int | None


# By kind of page: the field of its own header, and in it the field of the encoding.
_HEADERS = {_DATA_PAGE: (5, 2), _DICTIONARY_PAGE: (7, 2), _DATA_PAGE_V2: (8, 4)}


def _read_page(fields: _Fields, most_values: int) -> _Page:
    kind = _get_count(fields, 1, 3)
    data_bytes, stored_bytes = _get_count(fields, 2), _get_count(fields, 3)
    if kind == _INDEX_PAGE:
        return _Page(kind, data_bytes, stored_bytes, 0, None)
    place, encoding = _HEADERS[kind]
    header = fields.get(place)
    if not isinstance(header, dict):
        raise ValueError("a page has no header of its kind")
    values = _get_count(header, 1, most_values)
    return _Page(kind, data_bytes, stored_bytes, values, _get_count(header, encoding))


def _get_count(fields: _Fields, number: int, most: int = 2**31 - 1) -> int:
    value = fields.get(number)
    if not isinstance(value, int) or not 0 <= value <= most:
        raise ValueError(f"field {number} of a page header is {value}")
    return value


@dataclass
class _ThriftReader:
    """Reads a struct from `data`, beginning at `at`. Raises ValueError if it is damaged."""

    data: bytes
    at: int

    def read_struct(self, depth: int = 0) -> _Fields:
        """Returns the fields of types i32 and struct by number. Skips all others."""
        if depth > _MAX_DEPTH:
            raise ValueError("a page header is nested too deeply")
        fields: _Fields = {}
        number = 0
        while head := self._read_byte():
            kind = head & 15
            number = number + (head >> 4) if head >> 4 else self._read_signed(16)
            if kind == _I32:
                fields[number] = self._read_signed(32)
            elif kind == _STRUCT:
                fields[number] = self.read_struct(depth + 1)
            elif kind not in (_TRUE, _FALSE):
                self._skip(kind, depth)
        return fields

    def _skip(self, kind: int, depth: int) -> None:
        if kind in (_TRUE, _FALSE, _BYTE):  # in lists, a boolean has a byte
            self._advance(1)
        elif kind in (_I16, _I32, _I64):
            self._read_unsigned()
        elif kind == _DOUBLE:
            self._advance(8)
        elif kind == _BINARY:
            self._advance(self._read_unsigned())
        elif kind in (_LIST, _SET):
            self._skip_list(depth)
        elif kind == _MAP:
            self._skip_map(depth)
        elif kind == _STRUCT:
            self.read_struct(depth + 1)
        else:
            raise ValueError("a page header has a field of an unknown type")

    def _skip_list(self, depth: int) -> None:
        head = self._read_byte()
        count = head >> 4 if head >> 4 != 15 else self._read_unsigned()
        self._skip_elements(count, (head & 15,), depth)

    def _skip_map(self, depth: int) -> None:
        if count := self._read_unsigned():
            kinds = self._read_byte()
            self._skip_elements(count, (kinds >> 4, kinds & 15), depth)

    def _skip_elements(self, count: int, kinds: tuple[int, ...], depth: int) -> None:
        if count > _MAX_ELEMENTS or depth >= _MAX_DEPTH:
            raise ValueError("a page header has a long list")
        for _ in range(count):
            for kind in kinds:
                self._skip(kind, depth + 1)

    def _advance(self, size: int) -> None:
        self.at += size
        if self.at > len(self.data):
            raise ValueError("a page header is cut off")

    def _read_byte(self) -> int:
        self._advance(1)
        return self.data[self.at - 1]

    def _read_unsigned(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._read_byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("a number in a page header is too long")

    def _read_signed(self, bits: int) -> int:
        value = self._read_unsigned()
        if value >> bits:
            raise ValueError("a number in a page header is too large")
        return value >> 1 ^ -(value & 1)
