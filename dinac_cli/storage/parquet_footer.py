"""The footer of a parquet file: read and checked, and written again with only what was checked.

pyarrow takes the footer of a hostile file for true: some statistics end the process, deep schemas
exhaust the stack, and tables of Arrow types may load classes. So pyarrow never sees the footer, but
a new one that holds the checked columns of one row group, without statistics or other metadata.
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dinac_cli.storage.thrift import (
    BINARY,
    I32,
    I64,
    LIST,
    STRUCT,
    Fields,
    LimitError,
    ThriftReader,
    Value,
    Values,
    get_field,
    list_structs,
    pack_struct,
)

MAX_COLUMNS = 1000
"""The most columns of a file, those inside structs and lists included."""

MAX_GROUPS = 10_000
"""The most row groups of a file."""

MAGIC = b"PAR1"

_ELEMENT_FIELDS = range(1, 11)
_MAX_VALUES = 1_000_000  # about 25 for each column of a row group
_MAX_DEPTH = 16
_MAX_NAME_BYTES = 4096


class Column(NamedTuple):
    """A column at the top of the schema, or inside a struct.

    `elements` are its part of the schema, and `leaves` the numbers of its columns with data.
    """

    name: str
    elements: tuple[Fields, ...]
    leaves: tuple[int, ...]
    children: tuple[Column, ...]

    @property
    def value_bytes(self) -> int:
        """The largest size that the schema gives to a value, null or not; 0 if it gives none."""
        return max(get_field(element, 2, I32) or 0 for element in self.elements)

    def keep(self, names: Sequence[str]) -> Column:
        """Returns a struct with only these of its columns."""
        kept = [child for child in self.children if child.name in names]
        head = {**self.elements[0], 5: Value(I32, len(kept))}
        elements = (
            dict(sorted(head.items())),
            *(each for child in kept for each in child.elements),
        )
        leaves = tuple(leaf for child in kept for leaf in child.leaves)
        return Column(self.name, elements, leaves, tuple(kept))


class Chunk(NamedTuple):
    """The data of a column in a row group: its place and sizes in bytes, and its values."""

    start: int
    stored_bytes: int
    data_bytes: int
    values: int
    codec: int


class Group(NamedTuple):
    """A row group, with a chunk for each column that has data."""

    rows: int
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True)
class Footer:
    """The columns and the row groups of a file."""

    columns: tuple[Column, ...]
    groups: tuple[Group, ...]
    rows: int


def parse_footer(data: bytes) -> Footer:
    """Reads a footer. Raises ValueError if it is damaged, and LimitError if it is too large."""
    fields = ThriftReader(data, 0, _MAX_VALUES).read_struct()
    schema, groups = list_structs(fields, 2), list_structs(fields, 4)
    if len(schema) > 2 * MAX_COLUMNS or len(groups) > MAX_GROUPS:
        raise LimitError
    columns = _parse_columns(schema)
    leaves = sum(len(column.leaves) for column in columns)
    if leaves > MAX_COLUMNS:
        raise LimitError
    footer = Footer(
        columns,
        tuple(_parse_group(group, leaves) for group in groups),
        _require(get_field(fields, 3, I64)),
    )
    if sum(group.rows for group in footer.groups) != footer.rows:
        raise ValueError("the row groups do not have the rows of the file")
    return footer


def _require(value: int | None) -> int:
    """Returns a number that is at least 0."""
    if value is None or value < 0:
        raise ValueError("a number of the footer is missing or negative")
    return value


def _parse_columns(schema: Sequence[Fields]) -> tuple[Column, ...]:
    """Returns the columns below the root, the first element of a schema."""
    if not schema:
        raise ValueError("the schema is empty")
    root = _SchemaReader(schema).read_column(0)
    if len(root.elements) != len(schema) or not root.children:
        raise ValueError("the schema has other columns than it says")
    return root.children


@dataclass
class _SchemaReader:
    """Builds the tree of the columns from the list of the elements, each before its children."""

    schema: Sequence[Fields]
    at: int = 0
    leaf: int = 0

    def read_column(self, depth: int) -> Column:
        if self.at >= len(self.schema) or depth > _MAX_DEPTH:
            raise ValueError("the schema is cut off or nested too deeply")
        element = _check_element(self.schema[self.at])
        self.at += 1
        name = get_field(element, 4, BINARY).decode("utf-8", "replace")
        count = get_field(element, 5, I32)
        if count is None:
            self.leaf += 1
            return Column(name, (element,), (self.leaf - 1,), ())
        children = tuple(self.read_column(depth + 1) for _ in range(count))
        elements = (element, *(each for child in children for each in child.elements))
        leaves = tuple(leaf for child in children for leaf in child.leaves)
        return Column(name, elements, leaves, children)


def _check_element(element: Fields) -> Fields:
    """Returns what a column needs: with data a type, otherwise the number of its children."""
    name, kind, count = (
        get_field(element, number, wanted) for number, wanted in ((4, BINARY), (1, I32), (5, I32))
    )
    if name is None or len(name) > _MAX_NAME_BYTES:
        raise ValueError("a column has no name, or a long one")
    is_leaf = not count and kind is not None
    if not is_leaf and _require(count) == 0:
        raise ValueError("a column has neither data nor children")
    unwanted = 5 if is_leaf else 1
    kept = {
        number: value
        for number, value in element.items()
        if number in _ELEMENT_FIELDS and number != unwanted
    }
    if any(value.kind not in (I32, BINARY, STRUCT) for value in kept.values()):
        raise ValueError("a column has a field of the wrong type")
    return kept


def _parse_group(group: Fields, leaves: int) -> Group:
    chunks = tuple(_parse_chunk(chunk) for chunk in list_structs(group, 1))
    if len(chunks) != leaves:
        raise ValueError("a row group has other columns than the schema")
    return Group(_require(get_field(group, 3, I64)), chunks)


def _parse_chunk(chunk: Fields) -> Chunk:
    """Returns a column chunk. It starts with its dictionary if there is one."""
    fields = get_field(chunk, 3, STRUCT)
    if fields is None or 1 in chunk:
        raise ValueError("a column is encrypted, or in another file")
    values, data_bytes, stored_bytes, start, _, dictionary = (
        get_field(fields, number, I64) for number in (5, 6, 7, 9, 10, 11)
    )
    if dictionary is not None and 0 < dictionary < _require(start):
        start = dictionary
    return Chunk(
        _require(start),
        _require(stored_bytes),
        _require(data_bytes),
        _require(values),
        _require(get_field(fields, 4, I32)),
    )


def make_file(columns: Sequence[Column], rows: int, chunks: Sequence[tuple[Chunk, bytes]]) -> bytes:
    """Returns a parquet file with one row group, or with none if there are no chunks.

    `chunks` describes and holds the data of each leaf of `columns`, in their order. The columns are
    called 0, 1, 2 …, whatever their names are.
    """
    schema: list[Fields] = [{4: Value(BINARY, b"schema"), 5: Value(I32, len(columns))}]
    paths: list[list[bytes]] = []
    for number, column in enumerate(columns):
        named = {**column.elements[0], 4: Value(BINARY, b"%d" % number)}
        schema += [dict(sorted(named.items())), *column.elements[1:]]
        paths += _list_paths(column, [b"%d" % number])
    kinds = [get_field(element, 1, I32) for element in schema if 5 not in element]
    described: list[Fields] = []
    at = len(MAGIC)
    for (chunk, data), path, kind in zip(chunks, paths, kinds, strict=True) if chunks else ():
        described.append(_describe_chunk(chunk, at, len(data), path, _require(kind)))
        at += len(data)
    group = {
        1: Value(LIST, Values(STRUCT, described)),
        2: Value(I64, at - len(MAGIC)),
        3: Value(I64, rows),
    }
    footer = pack_struct(
        {
            1: Value(I32, 2),
            2: Value(LIST, Values(STRUCT, schema)),
            3: Value(I64, rows if chunks else 0),
            4: Value(LIST, Values(STRUCT, [group] if chunks else [])),
        }
    )
    size = len(footer).to_bytes(4, "little")
    return b"".join([MAGIC, *(data for _, data in chunks), footer, size, MAGIC])


def _list_paths(column: Column, path: list[bytes]) -> list[list[bytes]]:
    """Returns the path of each leaf of a column."""
    if not column.children:
        return [path] * len(column.leaves)
    return [
        each
        for child in column.children
        for each in _list_paths(child, [*path, get_field(child.elements[0], 4, BINARY)])
    ]


def _describe_chunk(chunk: Chunk, start: int, size: int, path: list[bytes], kind: int) -> Fields:
    metadata = {
        1: Value(I32, kind),
        2: Value(LIST, Values(I32, [0])),
        3: Value(LIST, Values(BINARY, path)),
        4: Value(I32, chunk.codec),
        5: Value(I64, chunk.values),
        6: Value(I64, chunk.data_bytes),
        7: Value(I64, size),
        9: Value(I64, start),
    }
    return {2: Value(I64, start), 3: Value(STRUCT, metadata)}
