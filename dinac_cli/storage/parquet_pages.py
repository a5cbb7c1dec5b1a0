"""Measures the pages of a parquet column before pyarrow decodes them.

The footer of a parquet file says how large its columns are, but pyarrow believes the pages
themselves: a page of 100 bytes may declare 2 GiB of data or a billion values. Each page begins with
a Thrift struct: https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from __future__ import annotations

from typing import NamedTuple

from dinac_cli.storage.thrift import I32, STRUCT, Fields, ThriftReader, get_field

_DATA_PAGE, _INDEX_PAGE, _DICTIONARY_PAGE, _DATA_PAGE_V2 = range(4)
# PLAIN, PLAIN_DICTIONARY, RLE, DELTA_BINARY_PACKED, RLE_DICTIONARY, BYTE_STREAM_SPLIT. The others
# (DELTA_LENGTH_BYTE_ARRAY, DELTA_BYTE_ARRAY) declare inside the compressed data how many lengths
# pyarrow shall unpack at once: 118 bytes can take 8 GiB and a minute.
_ENCODINGS = frozenset({0, 2, 3, 5, 8, 9})

_MAX_VALUES = 1000
"""The most values in the header of a page, which has about 20."""


class EncodingError(ValueError):
    """A page is not damaged, but has an encoding that cannot be bounded."""


class PageTotals(NamedTuple):
    """The uncompressed sizes of a column's pages in bytes: of all, and of the largest dictionary.

    A value of the dictionary may belong to many rows.
    """

    data_bytes: int
    dictionary_bytes: int


def measure_pages(chunk: bytes, values: int) -> PageTotals:
    """Returns the sizes that the pages of a column chunk declare, uncompressed, in bytes.

    `values` is the number of values in the chunk, nulls included. Raises ValueError if the pages do
    not hold as many or if a header is damaged, and EncodingError for an encoding that dinac does
    not read.
    """
    at = data_bytes = dictionary_bytes = found = 0
    while found < values:
        reader = ThriftReader(chunk, at, _MAX_VALUES)
        page = _read_page(reader.read_struct(), values)
        if page.kind in (_DATA_PAGE, _DATA_PAGE_V2):
            found += page.values
        data_bytes += page.data_bytes
        if page.kind == _DICTIONARY_PAGE:
            dictionary_bytes = max(dictionary_bytes, page.data_bytes)
        at = reader.at + page.stored_bytes
        if at > len(chunk):
            raise ValueError("a page ends after its column")
    if found > values:
        raise ValueError("a page holds more values than its column")
    return PageTotals(data_bytes, dictionary_bytes)


class _Page(NamedTuple):
    kind: int
    data_bytes: int
    stored_bytes: int
    values: int


# By kind of page: the field of its own header, and in it the field of the encoding.
_HEADERS = {_DATA_PAGE: (5, 2), _DICTIONARY_PAGE: (7, 2), _DATA_PAGE_V2: (8, 4)}


def _read_page(fields: Fields, most_values: int) -> _Page:
    kind = _get_count(fields, 1, 3)
    data_bytes, stored_bytes = _get_count(fields, 2), _get_count(fields, 3)
    if kind == _INDEX_PAGE:
        return _Page(kind, data_bytes, stored_bytes, 0)
    place, encoding = _HEADERS[kind]
    header = get_field(fields, place, STRUCT)
    if header is None:
        raise ValueError("a page has no header of its kind")
    values = _get_count(header, 1, most_values)
    if _get_count(header, encoding) not in _ENCODINGS:
        raise EncodingError("a page has an encoding that dinac does not read")
    return _Page(kind, data_bytes, stored_bytes, values)


def _get_count(fields: Fields, number: int, most: int = 2**31 - 1) -> int:
    value = get_field(fields, number, I32)
    if value is None or not 0 <= value <= most:
        raise ValueError(f"field {number} of a page header is {value}")
    return int(value)
