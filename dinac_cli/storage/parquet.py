"""Reads images, and the values beside them, from parquet files."""

from __future__ import annotations

import inspect
import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple

from dinac_cli.container.names import MAX_NAME_BYTES, escape_text
from dinac_cli.errors import ArchiveError, DinacError, UsageError, quote_error
from dinac_cli.storage.content import MAX_INPUT_BYTES
from dinac_cli.storage.parquet_pages import measure_pages

MAX_FOOTER_BYTES = 2**22
"""The size limit of the footer; pyarrow may need some hundred times as much memory."""

MAX_COLUMNS = 1000
"""The most columns of a file, those inside structs and lists included."""

MAX_GROUPS = 2000
"""The most row groups of a file. It also limits how deeply columns can be nested."""

MAX_ROWS = 10_000_000
"""The most rows of a file."""

MAX_GROUP_BYTES = 2**31
"""The size limit of the columns that are read from a row group, stored and uncompressed."""

MAX_OTHERS_BYTES = 2**20
"""The size limit of the texts in the other columns of a row."""

_BATCH_ROWS = 64
_BATCH_BYTES = 2**26
_MAGIC = b"PAR1"
_TAIL_BYTES = 2**16  # pyarrow reads as much when it looks for the footer
_MARGIN_BYTES = 100  # pyarrow reads as much after the columns of an old writer
_MAX_DEPTH = 8
_SHOWN_COLUMNS = 5

_NO_IMAGE = "the row has no image"
_NO_BYTES = "only the path of the image is in the file; pack the images themselves"


class Row(NamedTuple):
    """A row of a parquet file, numbered from 0. `data` is None if there is a `problem`.

    `others` has the values of other columns as JSON does: null, true, numbers, texts, objects.
    """

    number: int
    data: bytes | None
    file_name: str | None
    others: dict[str, Any]
    problem: str | None = None


def read_rows(file: BinaryIO, column: str, *, with_others: bool) -> Iterator[Row]:
    """Yields the rows of a parquet file, which must be seekable, in their order.

    `column` has the bytes of image files, or structs of `bytes` and `path` as the datasets library
    writes them. `others` is empty without `with_others`. Binary columns, lists and maps are never
    in it; times are texts, and numbers that are not finite are null.

    Holds in memory the stored columns of one row group and a batch of rows. The sizes that the
    footer and the pages declare are checked before anything is read or unpacked. Raises
    ArchiveError if the file is damaged or exceeds a limit, and UsageError if the file has no such
    column or pyarrow is missing.
    """
    parquet = _ParquetReader(file)
    image = parquet.find_image(column)
    others = parquet.list_others(column) if with_others else []
    number = 0
    for group in range(parquet.group_count):
        for batch in parquet.read_group(group, [*image.leaves, *others]):
            for index in range(batch.num_rows):
                yield _make_row(batch, index, number, image, others)
                number += 1


def count_rows(file: BinaryIO) -> int:
    """Returns the number of rows that the footer of a parquet file declares.

    Reads the footer only. Raises ArchiveError if it is damaged, UsageError if pyarrow is missing.
    """
    return _ParquetReader(file).row_count


class _ImageColumn(NamedTuple):
    """The column of the images, and the names of the columns to read for it."""

    name: str
    leaves: tuple[str, ...]
    is_struct: bool


class _ParquetReader:
    """Checks a parquet file and reads its row groups with pyarrow."""

    def __init__(self, file: BinaryIO) -> None:
        try:
            import pyarrow.parquet
        except ImportError as exc:
            raise UsageError(
                "parquet files need pyarrow; pip install 'dinac-cli[parquet]'"
            ) from exc
        self._ranges = _LoadedRanges(file)
        _load_footer(self._ranges)
        wishes = {
            "pre_buffer": False,
            "thrift_string_size_limit": MAX_FOOTER_BYTES,
            "thrift_container_size_limit": MAX_GROUPS,
            "page_checksum_verification": True,
            "arrow_extensions_enabled": False,
        }
        known = inspect.signature(pyarrow.parquet.ParquetFile).parameters
        options = {name: value for name, value in wishes.items() if name in known}
        try:
            with _refuse_damage():
                self._file = pyarrow.parquet.ParquetFile(self._ranges, **options)
                self._metadata = self._file.metadata
                self._fields = list(self._file.schema_arrow)
        except ArchiveError as exc:
            raise (_refuse_counts() if "size limit" in exc.details[0] else exc) from exc.__cause__
        self._check_counts()

    @property
    def row_count(self) -> int:
        """The number of rows of all row groups."""
        return int(self._metadata.num_rows)

    @property
    def group_count(self) -> int:
        """The number of row groups."""
        return int(self._metadata.num_row_groups)

    def find_image(self, name: str) -> _ImageColumn:
        """Returns the column of this name. Raises UsageError if it cannot hold images."""
        found = [field for field in self._fields if field.name == name]
        if len(found) == 1 and (image := _describe_image(found[0])) is not None:
            return image
        images = [field.name for field in self._fields if _describe_image(field) is not None]
        shown = ", ".join(escape_text(each)[:40] for each in images[:_SHOWN_COLUMNS])
        fault = "has no column" if not found else "has no image bytes in the column"
        advice = f"choose one with --image-column: {shown}" if shown else "no other column has any"
        raise UsageError(f"{fault} {escape_text(name)[:40]}; {advice}")

    def list_others(self, image: str) -> list[str]:
        """Returns the names of the columns that have a place in `Row.others`."""
        names = [field.name for field in self._fields]
        return [
            field.name
            for field in self._fields
            if field.name != image and names.count(field.name) == 1 and _is_plain(field.type)
        ]

    def read_group(self, group: int, columns: Sequence[str]) -> Iterator[Any]:
        """Yields the rows of a row group in batches (pyarrow.RecordBatch)."""
        with _refuse_damage():
            metadata = self._metadata.row_group(group)
            rows = metadata.num_rows
            chunks = _list_chunks(metadata, columns)
        if not rows:
            return
        most = self._load_chunks(group, rows, chunks)
        batches = self._file.iter_batches(most, [group], columns, use_threads=False)
        found = 0
        while found < rows:
            with _refuse_damage():
                batch = next(batches, None)
            if batch is None or not batch.num_rows:
                break
            found += batch.num_rows
            yield batch
        if found != rows:
            raise _damaged(f"row group {group} has {found} rows instead of {rows}")

    def _check_counts(self) -> None:
        groups, columns = self.group_count, self._metadata.num_columns
        if groups > MAX_GROUPS or columns > MAX_COLUMNS or self._metadata.num_rows > MAX_ROWS:
            raise _refuse_counts()
        rows = [self._metadata.row_group(group).num_rows for group in range(groups)]
        if min(rows, default=0) < 0 or sum(rows) != self._metadata.num_rows:
            raise _damaged("the row groups do not have the rows of the file")

    def _load_chunks(self, group: int, rows: int, chunks: Sequence[_Chunk]) -> int:
        """Loads and checks columns of a row group. Returns the number of rows for a batch."""
        if _is_large(chunks):
            raise _refuse_group(group)
        self._ranges.clear()
        data_bytes = shared_bytes = 0
        for chunk in chunks:
            if chunk.values != rows or chunk.is_elsewhere:
                raise _damaged(f"a column of row group {group} has other rows")
            end = chunk.start + chunk.stored_bytes
            data = self._ranges.load(chunk.start, end)
            self._ranges.load(end, min(end + _MARGIN_BYTES, self._ranges.size_bytes))
            with _refuse_damage():
                totals = measure_pages(data, rows)
            data_bytes += totals.data_bytes
            shared_bytes += totals.shared_bytes
            if data_bytes > MAX_GROUP_BYTES:
                raise _refuse_group(group)
        return max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(1, shared_bytes)))


class _Chunk(NamedTuple):
    """The footer's description of a column in a row group. The sizes are in bytes."""

    start: int
    stored_bytes: int
    data_bytes: int
    values: int
    is_elsewhere: bool


def _list_chunks(group: Any, columns: Sequence[str]) -> list[_Chunk]:
    """Returns the columns that pyarrow may read to read `columns`."""
    chunks = (group.column(index) for index in range(group.num_columns))
    return [_describe_chunk(each) for each in chunks if _is_inside(each.path_in_schema, columns)]


def _describe_chunk(chunk: Any) -> _Chunk:
    """Returns the facts of a column, with the start that pyarrow will choose."""
    start, dictionary = chunk.data_page_offset, chunk.dictionary_page_offset
    if dictionary is not None and 0 < dictionary < start:
        start = dictionary
    sizes = chunk.total_compressed_size, chunk.total_uncompressed_size
    return _Chunk(start, *sizes, chunk.num_values, bool(chunk.file_path))


def _is_large(chunks: Sequence[_Chunk]) -> bool:
    sizes = zip(*((chunk.stored_bytes, chunk.data_bytes) for chunk in chunks), strict=True)
    return any(sum(max(0, size) for size in each) > MAX_GROUP_BYTES for each in sizes)


class _LoadedRanges(io.RawIOBase):
    """A file for pyarrow, of which only the ranges in memory can be read.

    So pyarrow reads nothing that was not checked, and an error of the file is no error of pyarrow.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._source = file
        self._ranges: dict[int, bytes] = {}
        self._at = 0
        self.size_bytes = file.seek(0, io.SEEK_END)

    def load(self, start: int, end: int) -> bytes:
        """Reads a range. Raises ArchiveError if the file does not have it."""
        if not 0 <= start <= end <= self.size_bytes:
            raise _damaged("a column is not inside the file")
        self._source.seek(start)
        pieces = []
        missing = end - start
        while missing and (piece := self._source.read(missing)):
            pieces.append(piece)
            missing -= len(piece)
        if missing:
            raise ArchiveError("cut off while it was read; copy the file again")
        data = b"".join(pieces)
        if len(data) > len(self._ranges.get(start, b"")):
            self._ranges[start] = data
        return data

    def clear(self) -> None:
        """Frees all ranges."""
        self._ranges.clear()

    def read(self, size: int = -1) -> bytes:
        """Returns up to `size` bytes, or all to the end. Raises ValueError if they are missing."""
        most = self.size_bytes - self._at
        missing = most if size < 0 else min(size, most)
        pieces = []
        while missing > 0:
            piece = self._find(missing)
            pieces.append(piece)
            self._at += len(piece)
            missing -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves the position and returns it."""
        self._at = offset + (0, self._at, self.size_bytes)[whence]
        return self._at

    def tell(self) -> int:
        """Returns the position."""
        return self._at

    def readable(self) -> bool:
        """Says that the file can be read."""
        return True

    def seekable(self) -> bool:
        """Says that the position can be moved."""
        return True

    def _find(self, size: int) -> bytes:
        if data := self._ranges.get(self._at):
            return data[:size]
        for start, data in self._ranges.items():
            if start <= self._at < start + len(data):
                return data[self._at - start : self._at - start + size]
        raise ValueError("pyarrow reads a part of the file that was not checked")


def _load_footer(ranges: _LoadedRanges) -> None:
    """Loads the end of the file. Raises ArchiveError."""
    size = ranges.size_bytes
    if size == 0:
        raise ArchiveError("an empty file; copy it again")
    last = ranges.load(max(0, size - 8), size)
    if size < 12 or ranges.load(0, 4) != _MAGIC:
        raise ArchiveError("not a parquet file; choose another file")
    if last[4:] == b"PARE":
        raise ArchiveError("an encrypted parquet file; decrypt it first")
    if last[4:] != _MAGIC:
        raise ArchiveError("cut off: the end mark is missing; copy the file again")
    footer_bytes = int.from_bytes(last[:4], "little")
    if footer_bytes > size - 12:
        raise _damaged("its footer is larger than the file")
    if footer_bytes > MAX_FOOTER_BYTES:
        limit = MAX_FOOTER_BYTES // 2**20
        raise ArchiveError(f"has a footer over {limit} MiB; write it with larger row groups")
    ranges.load(max(0, size - max(footer_bytes + 8, _TAIL_BYTES)), size)


def _describe_image(field: Any) -> _ImageColumn | None:
    """Returns how to read images from an Arrow field. Returns None if it cannot hold any."""
    from pyarrow import types

    if _is_binary(field.type):
        return _ImageColumn(field.name, (field.name,), is_struct=False)
    if not types.is_struct(field.type):
        return None
    inner = {each.name: each.type for each in field.type}
    if len(inner) < field.type.num_fields or not _is_binary(inner.get("bytes")):
        return None
    names = ["bytes"] + ["path"] * _is_text(inner.get("path"))
    return _ImageColumn(field.name, tuple(f"{field.name}.{name}" for name in names), is_struct=True)


def _is_binary(kind: Any) -> bool:
    import pyarrow

    return kind in (pyarrow.binary(), pyarrow.large_binary())


def _is_text(kind: Any) -> bool:
    import pyarrow

    return kind in (pyarrow.string(), pyarrow.large_string())


def _is_plain(kind: Any, depth: int = 0) -> bool:
    """True if the values of an Arrow type have a place in JSON and a size of at most one value."""
    from pyarrow import types

    if types.is_struct(kind):
        return depth < _MAX_DEPTH and all(_is_plain(each.type, depth + 1) for each in kind)
    if types.is_dictionary(kind):
        return _is_text(kind.value_type)
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


def _is_inside(path: str, columns: Sequence[str]) -> bool:
    """True if pyarrow may read the column at `path`, written with dots, to read `columns`."""
    return any(path == name or path.startswith(f"{name}.") for name in columns)


def _make_row(
    batch: Any, index: int, number: int, image: _ImageColumn, others: Sequence[str]
) -> Row:
    with _refuse_damage():
        values: dict[str, Any] = {}
        size = 0
        for name in others:
            values[name], text_bytes = _read_value(batch.column(name)[index])
            size += text_bytes
            if size > MAX_OTHERS_BYTES:
                limit = MAX_OTHERS_BYTES // 2**20
                large = f"its other columns are larger than {limit} MiB; make them smaller"
                return Row(number, None, None, {}, large)
        data, path, problem = _read_image(batch.column(image.name)[index], image)
        return Row(number, data, path, values, problem)


def _read_image(value: Any, image: _ImageColumn) -> tuple[bytes | None, str | None, str | None]:
    """Returns the bytes of an image, the name of its file, and the problem if there is one."""
    path: str | None = None
    if image.is_struct and value.is_valid:
        if len(image.leaves) > 1 and (text := value["path"]).is_valid:
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
    from pyarrow import types

    kind = value.type
    if not value.is_valid:
        return None, 0
    if types.is_struct(kind):
        inner = {kind.field(i).name: _read_value(value[i]) for i in range(kind.num_fields)}
        found = {name: each for name, (each, _) in inner.items()}
        return found, sum(size for _, size in inner.values())
    if types.is_dictionary(kind):
        return _read_value(value.value)
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


def _format_time(value: Any) -> str | float:
    """Returns a date or time as text, in UTC if it has a zone, and a duration in seconds.

    Does not look up the name of the zone, which comes from the file.
    """
    import pyarrow

    kind = value.type
    if pyarrow.types.is_duration(kind):
        return float(value.value / 1000 ** ("s", "ms", "us", "ns").index(kind.unit))
    if pyarrow.types.is_timestamp(kind) and kind.tz is not None:
        return f"{value.cast(pyarrow.timestamp(kind.unit)).cast(pyarrow.string()).as_py()}Z"
    return str(value.cast(pyarrow.string()).as_py())


@contextmanager
def _refuse_damage() -> Iterator[None]:
    """Turns the errors of pyarrow into an ArchiveError."""
    try:
        yield
    except (DinacError, MemoryError):
        raise
    except Exception as exc:  # pyarrow raises errors of many classes
        raise ArchiveError(
            "damaged, or not a parquet file; copy it again", [quote_error(exc)]
        ) from exc


def _refuse_counts() -> ArchiveError:
    return ArchiveError(
        f"has over {MAX_GROUPS:,} row groups, {MAX_COLUMNS:,} columns or {MAX_ROWS:,} rows; "
        "split the file"
    )


def _refuse_group(group: int) -> ArchiveError:
    limit = MAX_GROUP_BYTES // 2**30
    return ArchiveError(f"row group {group} is over {limit} GiB; write smaller row groups")


def _damaged(reason: str) -> ArchiveError:
    return ArchiveError(f"damaged: {reason}; copy the file again")
