"""Reads images, and the values beside them, from parquet files."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, BinaryIO, NamedTuple

from dinac_cli.container.names import MAX_NAME_BYTES, escape_text
from dinac_cli.errors import ArchiveError, DinacError, UsageError, quote_error
from dinac_cli.storage.content import MAX_INPUT_BYTES
from dinac_cli.storage.parquet_footer import (
    MAGIC,
    MAX_COLUMNS,
    MAX_GROUPS,
    Chunk,
    Column,
    Footer,
    Group,
    make_file,
    parse_footer,
)
from dinac_cli.storage.parquet_pages import EncodingError, measure_pages
from dinac_cli.storage.thrift import LimitError

MAX_FOOTER_BYTES = 2**23
"""The size limit of the footer."""

MAX_ROWS = 10_000_000
"""The most rows of a file."""

MAX_GROUP_BYTES = 2**31
"""The size limit of the columns that are read from a row group, stored and uncompressed."""

MAX_OTHERS_BYTES = 2**20
"""The size limit of the texts in the other columns of a row."""

_BATCH_ROWS = 64
_BATCH_BYTES = 2**26
_MAX_DEPTH = 8
_MAX_VALUE_BYTES = 64  # decimals need 32
_SHOWN_COLUMNS = 5

_DAMAGED = "damaged, or not a parquet file; copy it again"
_NO_PYARROW = "parquet files need pyarrow; pip install 'dinac-cli[parquet]'"
_NO_IMAGE = "the row has no image"
_NO_BYTES = "only the path of the image is in the file; pack the images themselves"


class Row(NamedTuple):
    """A row of a parquet file, numbered from 0. `data` is None if there is a `problem`.

    `others` has the values of other columns as JSON does: null, true, numbers, texts, objects. If
    `loses_others` is set, there are such columns, but they were not asked for.
    """

    number: int
    data: bytes | None
    file_name: str | None
    others: dict[str, Any]
    problem: str | None = None
    loses_others: bool = False


def read_rows(file: BinaryIO, column: str, *, with_others: bool) -> Iterator[Row]:
    """Yields the rows of a parquet file, which must be seekable, in their order.

    `column` has the bytes of image files, or structs of `bytes` and `path` as the datasets library
    writes them. `others` is empty without `with_others`, and never has binary columns, lists and
    maps, whose size cannot be known before they are unpacked. Times are texts, and numbers that
    are not finite are null.

    Holds in memory the stored columns of one row group, twice for a moment, and a batch of rows.
    The sizes that the footer and the pages declare are checked before anything is read or
    unpacked. Raises ArchiveError if the file is damaged or exceeds a limit, and UsageError if the
    file has no such column or pyarrow is missing.
    """
    size = _seek_end(file)
    footer = _read_footer(file, size)
    kinds = _list_kinds(footer)
    image = _find_image(footer, kinds, column)
    others = _list_others(footer, kinds, column)
    asked, loses = (others, False) if with_others else ([], bool(others))
    number = 0
    for index, group in enumerate(footer.groups):
        for batch in _read_group(file, group, index, [image, *asked]):
            for row in range(batch.num_rows):
                yield _make_row(batch, row, number, asked)._replace(loses_others=loses)
                number += 1


def count_rows(file: BinaryIO) -> int:
    """Returns the number of rows of a parquet file. Reads only its footer. Raises ArchiveError."""
    return _read_footer(file, _seek_end(file)).rows


def _seek_end(file: BinaryIO) -> int:
    """Returns the size of a file in bytes."""
    return file.seek(0, io.SEEK_END)


def _read_footer(file: BinaryIO, size: int) -> Footer:
    """Reads the end of a file. Raises ArchiveError."""
    if size == 0:
        raise ArchiveError("an empty file; copy it again")
    if size < 12 or _read_range(file, 0, 4) != MAGIC:
        raise ArchiveError("not a parquet file; choose another file")
    end = _read_range(file, size - 8, 8)
    if end[4:] == b"PARE":
        raise ArchiveError("an encrypted parquet file; decrypt it first")
    if end[4:] != MAGIC:
        raise ArchiveError("cut off: the end mark is missing; copy the file again")
    footer_bytes = int.from_bytes(end[:4], "little")
    if footer_bytes > size - 12:
        raise ArchiveError("damaged: its footer is larger than the file; copy the file again")
    if footer_bytes > MAX_FOOTER_BYTES:
        limit = MAX_FOOTER_BYTES // 2**20
        raise ArchiveError(f"has a footer over {limit} MiB; write it with larger row groups")
    return _check_footer(_read_range(file, size - 8 - footer_bytes, footer_bytes), size)


def _check_footer(data: bytes, size: int) -> Footer:
    limit = (
        f"has over {MAX_GROUPS:,} row groups, {MAX_COLUMNS:,} columns or {MAX_ROWS:,} rows; "
        "split the file"
    )
    try:
        footer = parse_footer(data)
    except LimitError as exc:
        raise ArchiveError(limit) from exc
    except ValueError as exc:
        raise ArchiveError(_DAMAGED, [quote_error(exc)]) from exc
    if footer.rows > MAX_ROWS:
        raise ArchiveError(limit)
    chunks = (chunk for group in footer.groups for chunk in group.chunks)
    if any(chunk.start + chunk.stored_bytes > size for chunk in chunks):
        raise ArchiveError("cut off, or damaged: a column is missing; copy the file again")
    return footer


def _read_range(file: BinaryIO, start: int, size: int) -> bytes:
    """Reads bytes that the file had when its size was asked for."""
    file.seek(start)
    pieces = []
    while size and (piece := file.read(size)):
        pieces.append(piece)
        size -= len(piece)
    if size:
        raise ArchiveError("cut off while it was read; copy the file again")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _list_kinds(footer: Footer) -> list[Any]:
    """Returns the Arrow types of the columns. Raises UsageError if pyarrow is missing."""
    with _refuse_damage():
        kinds = [field.type for field in _open_file(make_file(footer.columns, 0, [])).schema_arrow]
        if len(kinds) != len(footer.columns):
            raise ValueError("pyarrow reads other columns")
    return kinds


def require_pyarrow() -> None:
    """Raises UsageError if pyarrow is not installed."""
    if find_spec("pyarrow") is None:
        raise UsageError(_NO_PYARROW)


def _open_file(content: bytes) -> Any:
    """Opens a file that `make_file` made."""
    try:
        import pyarrow.parquet
    except ImportError as exc:
        raise UsageError(_NO_PYARROW) from exc
    source = pyarrow.BufferReader(content)
    return pyarrow.parquet.ParquetFile(source, pre_buffer=False, page_checksum_verification=True)


def _find_image(footer: Footer, kinds: Sequence[Any], name: str) -> Column:
    """Returns what to read of the column with the images. Raises UsageError if it has none."""
    pairs = list(zip(footer.columns, kinds, strict=True))
    found = [pair for pair in pairs if pair[0].name == name]
    if len(found) == 1 and (image := _choose_leaves(*found[0])) is not None:
        return image
    images = [column.name for column, kind in pairs if _choose_leaves(column, kind) is not None]
    shown = ", ".join(escape_text(each)[:40] for each in images[:_SHOWN_COLUMNS])
    fault = "has no image bytes in the column" if found else "has no column"
    advice = f"choose one with --image-column: {shown}" if shown else "no column holds images"
    raise UsageError(f"{fault} {escape_text(name)[:40]}; {advice}")


def _choose_leaves(column: Column, kind: Any) -> Column | None:
    """Returns what to read of a column with images. Returns None if it can have none."""
    from pyarrow import types

    if _is_binary(kind):
        return column
    if not types.is_struct(kind):
        return None
    inner = {each.name: each.type for each in kind}
    if len(inner) < kind.num_fields or not _is_binary(inner.get("bytes")):
        return None
    return column.keep(["bytes", *["path"] * _is_text(inner.get("path"))])


def _list_others(footer: Footer, kinds: Sequence[Any], image: str) -> list[Column]:
    """Returns the columns that have a place in `Row.others`."""
    names = [column.name for column in footer.columns]
    return [
        column
        for column, kind in zip(footer.columns, kinds, strict=True)
        if column.name != image and names.count(column.name) == 1
        if column.value_bytes <= _MAX_VALUE_BYTES and _is_plain(kind)
    ]


def _is_binary(kind: Any) -> bool:
    import pyarrow

    return bool(kind == pyarrow.binary())


def _is_text(kind: Any) -> bool:
    import pyarrow

    return bool(kind == pyarrow.string())


def _is_plain(kind: Any, depth: int = 0) -> bool:
    """True if the values of an Arrow type have a place in JSON and a size of at most one value."""
    from pyarrow import BaseExtensionType, types

    if isinstance(kind, BaseExtensionType):  # JSON
        return _is_plain(kind.storage_type, depth + 1)
    if types.is_struct(kind):
        return depth < _MAX_DEPTH and all(_is_plain(each.type, depth + 1) for each in kind)
    tests = (
        _is_text,
        types.is_null,
        types.is_boolean,
        types.is_integer,
        types.is_floating,
        types.is_decimal,
        types.is_temporal,
    )
    return any(test(kind) for test in tests)


def _read_group(
    file: BinaryIO, group: Group, index: int, columns: Sequence[Column]
) -> Iterator[Any]:
    """Yields the rows of a row group in batches (pyarrow.RecordBatch)."""
    chunks = [group.chunks[leaf] for column in columns for leaf in column.leaves]
    sizes = [(chunk.stored_bytes, chunk.data_bytes) for chunk in chunks]
    if any(sum(each) > MAX_GROUP_BYTES for each in zip(*sizes, strict=True)):
        raise _refuse_group(index)
    if group.rows == 0:
        return
    loaded = [(chunk, _read_range(file, chunk.start, chunk.stored_bytes)) for chunk in chunks]
    most = _check_pages(loaded, group.rows, index)
    with _refuse_damage():
        content = make_file(columns, group.rows, loaded)
        loaded.clear()
        batches = _open_file(content).iter_batches(most, use_threads=False)
    found = 0
    while found < group.rows:
        with _refuse_damage():
            batch = next(batches, None)
        if batch is None or not batch.num_rows:
            break
        found += batch.num_rows
        yield batch
    if found != group.rows:
        raise ArchiveError(f"damaged: rows are missing in row group {index}; copy the file again")


def _check_pages(loaded: Sequence[tuple[Chunk, bytes]], rows: int, index: int) -> int:
    """Checks the pages of a row group. Returns the number of rows for a batch."""
    data_bytes = dictionary_bytes = 0
    for chunk, data in loaded:
        if chunk.values != rows:
            raise ArchiveError(_DAMAGED, [f"a column has {chunk.values} values for {rows} rows"])
        try:
            totals = measure_pages(data, rows)
        except EncodingError as exc:
            raise ArchiveError(
                f"row group {index} has delta-encoded texts or bytes; write the file without them"
            ) from exc
        except ValueError as exc:
            raise ArchiveError(_DAMAGED, [quote_error(exc)]) from exc
        data_bytes += totals.data_bytes
        dictionary_bytes += totals.dictionary_bytes
        if data_bytes > MAX_GROUP_BYTES:
            raise _refuse_group(index)
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(1, dictionary_bytes)))


def _make_row(batch: Any, index: int, number: int, others: Sequence[Column]) -> Row:
    """Returns a row of a batch, whose first column has the image and the next ones `others`."""
    with _refuse_damage():
        values: dict[str, Any] = {}
        size = 0
        for place, column in enumerate(others, 1):
            values[column.name], text_bytes = _read_value(batch.column(place)[index])
            size += text_bytes
            if size > MAX_OTHERS_BYTES:
                limit = MAX_OTHERS_BYTES // 2**20
                large = f"its other columns are larger than {limit} MiB; make them smaller"
                return Row(number, None, None, {}, large)
        data, path, problem = _read_image(batch.column(0)[index])
        return Row(number, data, path, values, problem)


def _read_image(value: Any) -> tuple[bytes | None, str | None, str | None]:
    """Returns the bytes of an image, the name of its file, and the problem if there is one."""
    path: str | None = None
    if value.is_valid and not _is_binary(value.type):
        if value.type.num_fields > 1 and (text := value["path"]).is_valid:
            path = _clean_path(_decode(text))
        value = value["bytes"]
    if not value.is_valid:
        return None, path, _NO_BYTES if path else _NO_IMAGE
    if value.as_buffer().size > MAX_INPUT_BYTES:
        limit = MAX_INPUT_BYTES // 2**30
        return None, path, f"larger than {limit} GiB, the limit for one file; make it smaller"
    return value.as_py(), path, None


def _clean_path(path: str) -> str | None:
    """Returns the last component of a path, which may be one of another machine."""
    name = escape_text(path.replace("\\", "/").rpartition("/")[2])
    return name if 0 < len(name.encode()) <= MAX_NAME_BYTES else None


def _read_value(value: Any) -> tuple[Any, int]:
    """Returns a value as JSON has it, and the size of its texts in bytes."""
    from pyarrow import BaseExtensionType, types

    kind = value.type
    if not value.is_valid:
        return None, 0
    if isinstance(kind, BaseExtensionType):
        return _read_value(value.value)
    if types.is_struct(kind):
        inner = {kind.field(i).name: _read_value(value[i]) for i in range(kind.num_fields)}
        found = {name: each for name, (each, _) in inner.items()}
        return found, sum(size for _, size in inner.values())
    if _is_text(kind):
        size = int(value.as_buffer().size)
        return (_decode(value), size) if size <= MAX_OTHERS_BYTES else ("", size)
    if types.is_floating(kind):
        number = float(value.as_py())
        return (number if math.isfinite(number) else None), 0
    if types.is_temporal(kind):
        return _format_time(value), 0
    return (str(value.as_py()) if types.is_decimal(kind) else value.as_py()), 0


def _decode(text: Any) -> str:
    """Returns a text; bytes that are not UTF-8 become question marks."""
    return bytes(text.as_buffer()).decode("utf-8", "replace")


def _format_time(value: Any) -> str:
    """Returns a date or time as text, in UTC if it has a zone.

    The zone is always UTC, and is dropped first because some systems have no list of zones.
    """
    import pyarrow

    kind, end = value.type, ""
    if pyarrow.types.is_timestamp(kind) and kind.tz is not None:
        value, end = value.cast(pyarrow.timestamp(kind.unit)), "Z"
    return f"{value.cast(pyarrow.string()).as_py()}{end}"


@contextmanager
def _refuse_damage() -> Iterator[None]:
    """Turns the errors of pyarrow into an ArchiveError."""
    try:
        yield
    except (DinacError, MemoryError):
        raise
    except Exception as exc:  # pyarrow raises errors of many classes
        raise ArchiveError(_DAMAGED, [quote_error(exc)]) from exc


def _refuse_group(group: int) -> ArchiveError:
    limit = MAX_GROUP_BYTES // 2**30
    return ArchiveError(f"row group {group} is over {limit} GiB; write smaller row groups")
