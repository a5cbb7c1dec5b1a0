"""Reading parquet files: one input per rule. Files that lie are made field by field."""

from __future__ import annotations

import builtins
import datetime
import decimal
import io
import json
import math
import tracemalloc
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from dinac_cli.errors import ArchiveError, UsageError
from dinac_cli.storage import parquet, parquet_footer, parquet_pages
from dinac_cli.storage.parquet import Row, read_rows
from dinac_cli.storage.parquet_pages import measure_pages
from dinac_cli.storage.thrift import I32, ThriftReader, Value, get_field, list_structs
from dinac_cli.storage.thrift import pack_struct as pack_thrift
from tests.storage.hand_made_parquet import (
    DICTIONARY_PAGE,
    RLE_DICTIONARY,
    ZSTD,
    Long,
    Page,
    make_file,
    pack_signed,
    pack_struct,
    pack_texts,
    pack_varint,
)

pyarrow = pytest.importorskip("pyarrow")
pytest.importorskip("pyarrow.parquet")

TWO = Page(pack_texts(b"one", b"two"), 2)


def read(data: bytes, column: str = "image", *, with_others: bool = True) -> list[Row]:
    return list(read_rows(io.BytesIO(data), column, with_others=with_others))


def write(columns: Mapping[str, Any], **options: Any) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(dict(columns)), file, **options)
    return file.getvalue()


def refuse(data: bytes, kind: type[Exception] = ArchiveError, column: str = "image") -> str:
    with pytest.raises(kind) as caught:
        read(data, column)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 130
    return message


# What is read


def test_binary_column() -> None:
    assert read(write({"image": [b"one", b"", b"three"]})) == [
        Row(0, b"one", None, {}),
        Row(1, b"", None, {}),
        Row(2, b"three", None, {}),
    ]


def test_structs_of_the_datasets_library() -> None:
    images = [
        {"bytes": b"one", "path": "a.jpg"},
        {"bytes": b"two", "path": None},
        {"bytes": None, "path": "/home/me/c.jpg"},
        {"bytes": None, "path": None},
        None,
    ]
    rows = read(write({"image": images}))
    assert rows[:2] == [Row(0, b"one", "a.jpg", {}), Row(1, b"two", None, {})]
    assert rows[2].file_name == "c.jpg"
    assert str(rows[2].problem).startswith("only the path of the image is in the file")
    assert [row.problem for row in rows[3:]] == ["the row has no image"] * 2
    assert all(row.data is None for row in rows[2:])


@pytest.mark.parametrize(
    ("path", "name"),
    [("C:\\me\\a.jpg", "a.jpg"), ("a\nb", "a%0Ab"), ("a/", None), ("x" * 5000, None)],
)
def test_file_name_is_the_end_of_a_path(path: str, name: str | None) -> None:
    [row] = read(write({"image": [{"bytes": b"1", "path": path}]}))
    assert row == Row(0, b"1", name, {})


def test_struct_without_paths_and_large_binary() -> None:
    kind = pyarrow.struct([("bytes", pyarrow.large_binary()), ("size", pyarrow.int32())])
    images = pyarrow.array([{"bytes": b"one", "size": 1}], kind)
    assert read(write({"image": images})) == [Row(0, b"one", None, {})]


def test_rows_are_numbered_over_row_groups() -> None:
    images = [b"%d" % number for number in range(1000)]
    rows = read(write({"image": images}, row_group_size=130))
    assert [row.number for row in rows] == list(range(1000))
    assert [row.data for row in rows] == images


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip", "lz4", "brotli"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_forms_of_pages(compression: str, version: str) -> None:
    images = [b"%d" % (number % 7) * 300 if number % 5 else None for number in range(500)]
    for dictionary in (True, False):
        data = write(
            {"image": images},
            compression=compression,
            data_page_version=version,
            use_dictionary=dictionary,
            data_page_size=2000,
            write_page_checksum=True,
        )
        assert [row.data for row in read(data)] == images


def test_file_without_rows() -> None:
    assert read(write({"image": pyarrow.array([], pyarrow.binary())})) == []


contents = st.none() | st.binary(max_size=300)
paths = st.none() | st.text("aé", min_size=1)
images_with_paths = st.lists(
    st.none() | st.fixed_dictionaries({"bytes": contents, "path": paths}), max_size=60
)


@settings(deadline=None, max_examples=40)
@given(
    images=images_with_paths,
    group=st.integers(1, 50),
    compression=st.sampled_from(["none", "snappy", "zstd"]),
    dictionary=st.booleans(),
    version=st.sampled_from(["1.0", "2.0"]),
)
def test_reads_what_pyarrow_writes(
    images: list[Any], group: int, compression: str, dictionary: bool, version: str
) -> None:
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    columns = {"number": range(len(images)), "image": pyarrow.array(images, kind)}
    data = write(
        columns,
        row_group_size=group,
        compression=compression,
        use_dictionary=dictionary,
        data_page_version=version,
    )
    rows = read(data)
    assert [row.others["number"] for row in rows] == list(range(len(images)))
    assert [row.data for row in rows] == [image and image["bytes"] for image in images]
    assert [row.file_name for row in rows] == [image and image["path"] for image in images]


def test_hand_made_file_is_valid() -> None:
    assert [row.data for row in read(make_file([TWO], 2))] == [b"one", b"two"]


# Other columns


def test_other_columns_have_values_of_json() -> None:
    time = datetime.datetime(2020, 1, 2, 3, 4, 5, 600000)
    columns = {
        "image": [b"1"],
        "flag": [True],
        "int": [-(2**63)],
        "uint": pyarrow.array([2**64 - 1], pyarrow.uint64()),
        "float": [1.5],
        "half": pyarrow.array([1.5], pyarrow.float16()),
        "text": ["é"],
        "large": pyarrow.array(["x"], pyarrow.large_string()),
        "label": pyarrow.array(["cat"]).dictionary_encode(),
        "none": pyarrow.array([None], pyarrow.null()),
        "null": pyarrow.array([None], pyarrow.string()),
        "day": [datetime.date(2020, 1, 2)],
        "hour": [datetime.time(3, 4, 5)],
        "time": [time],
        "zone": pyarrow.array([time], pyarrow.timestamp("us", "Europe/Berlin")),
        "odd zone": pyarrow.array([time], pyarrow.timestamp("us", "../../etc/passwd")),
        "span": pyarrow.array([5], pyarrow.duration("s")),
        "price": [decimal.Decimal("1.50")],
        "box": [{"x": 1, "deep": {"y": None}}],
        "a.b": [1],
    }
    [row] = read(write(columns))
    assert json.loads(json.dumps(row.others, allow_nan=False)) == row.others
    assert row.others == {
        "flag": True,
        "int": -(2**63),
        "uint": 2**64 - 1,
        "float": 1.5,
        "half": 1.5,
        "text": "é",
        "large": "x",
        "label": "cat",
        "none": None,
        "null": None,
        "day": "2020-01-02",
        "hour": "03:04:05.000000",
        "time": "2020-01-02 03:04:05.600000",
        "zone": "2020-01-02 03:04:05.600000Z",
        "odd zone": "2020-01-02 03:04:05.600000Z",
        "span": 5.0,
        "price": "1.50",
        "box": {"x": 1, "deep": {"y": None}},
        "a.b": 1,
    }


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_number_that_is_not_finite_is_null(value: float) -> None:
    [row] = read(write({"image": [b"1"], "score": [value], "box": [{"x": value}]}))
    assert row.others == {"score": None, "box": {"x": None}}


def test_time_out_of_range_is_kept() -> None:
    late = pyarrow.array([2**63 - 1], pyarrow.timestamp("us"))
    [row] = read(write({"image": [b"1"], "time": late}))
    assert "9223372036854775807" in str(row.others["time"])


def test_invalid_text_is_readable() -> None:
    text = pyarrow.array([b"a\xff"]).view(pyarrow.string())
    [row] = read(write({"image": [b"1"], "text": text}))
    assert row.others == {"text": "a\ufffd"}


def test_binary_columns_lists_and_maps_are_left_out() -> None:
    columns = {
        "image": [b"1"],
        "mask": [b"2"],
        "list": [[1, 2]],
        "map": pyarrow.array([[("a", 1)]], pyarrow.map_(pyarrow.string(), pyarrow.int64())),
        "inside": [{"list": [1]}],
        "second": [{"bytes": b"3", "path": "x"}],
        "label": [1],
    }
    assert read(write(columns)) == [Row(0, b"1", None, {"label": 1})]
    assert read(write(columns), with_others=False) == [Row(0, b"1", None, {}, loses_others=True)]


def test_column_of_json_is_text() -> None:
    if not hasattr(pyarrow, "json_"):
        pytest.skip("an old pyarrow without JSON")
    texts = pyarrow.ExtensionArray.from_storage(pyarrow.json_(), pyarrow.array(['{"a": 1}', None]))
    rows = read(write({"image": [b"1", b"2"], "facts": texts}))
    assert [row.others for row in rows] == [{"facts": '{"a": 1}'}, {"facts": None}]


def test_columns_that_are_not_read_may_be_damaged() -> None:
    data = bytearray(
        write({"image": [b"1"], "label": [1]}, compression="none", use_dictionary=False)
    )
    column = pyarrow.parquet.ParquetFile(io.BytesIO(data)).metadata.row_group(0).column(1)
    start = column.data_page_offset
    data[start : start + 20] = bytes(20)
    assert read(bytes(data), with_others=False) == [Row(0, b"1", None, {}, loses_others=True)]
    assert "damaged" in refuse(bytes(data))


def test_columns_of_one_name_are_left_out() -> None:
    arrays = [pyarrow.array([b"1"]), pyarrow.array([1]), pyarrow.array([2])]
    file = io.BytesIO()
    table = pyarrow.Table.from_arrays(arrays, names=["image", "label", "label"])
    pyarrow.parquet.write_table(table, file)
    assert read(file.getvalue()) == [Row(0, b"1", None, {})]


def test_long_texts_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "MAX_OTHERS_BYTES", 10)
    columns = {"image": [b"1"] * 3, "a": ["x" * 5, "x" * 11, "x" * 6], "b": ["y" * 5] * 3}
    fits, *large = read(write(columns))
    assert fits.problem is None
    for row in large:
        assert (row.data, row.others) == (None, {})
        assert str(row.problem).startswith("its other columns are larger than")
    assert all(row.problem is None for row in read(write(columns), with_others=False))


# A wrong request


def test_missing_column_names_those_with_images() -> None:
    data = write({"jpg": [b"1"], "label": [1], "png": [{"bytes": b"2", "path": ""}]})
    assert refuse(data, UsageError) == (
        "has no column image; choose one with --image-column: jpg, png"
    )
    assert refuse(data, UsageError, "label") == (
        "has no image bytes in the column label; choose one with --image-column: jpg, png"
    )
    assert refuse(write({"a": [1]}), UsageError) == "has no column image; no column holds images"


def test_names_of_columns_are_printable() -> None:
    assert refuse(write({"a\n\u202eb": [b"1"]}), UsageError).endswith(": a%0A%E2%80%AEb")


@pytest.mark.parametrize("images", [[[b"1"]], [{"bytes": [b"1"]}], ["text"], [{"path": "x"}]])
def test_columns_that_hold_no_images(images: Sequence[Any]) -> None:
    assert "no image bytes" in refuse(write({"image": images}), UsageError)


def test_missing_pyarrow_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    data = write({"image": [b"1"]})
    whole = builtins.__import__

    def fail(name: str, *arguments: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return whole(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", fail)
    assert refuse(data, UsageError) == (
        "parquet files need pyarrow; pip install 'dinac-cli[parquet]'"
    )


# Damage


@pytest.mark.parametrize("size", [0, 3, 8, 11])
def test_short_file_is_refused(size: int) -> None:
    message = refuse(make_file([TWO], 2)[:size])
    assert message.startswith("an empty file" if size == 0 else "not a parquet file")


def test_cut_file_is_refused() -> None:
    data = write({"image": [b"x" * 100] * 50})
    for size in range(12, len(data)):
        assert refuse(data[:size]) == "cut off: the end mark is missing; copy the file again"


def test_other_files_are_refused() -> None:
    assert refuse(b"x" * 1000) == "not a parquet file; choose another file"
    encrypted = make_file([TWO], 2)[:-4] + b"PARE"
    assert refuse(encrypted) == "an encrypted parquet file; decrypt it first"
    assert "not a parquet file" in refuse(b"PARE" + encrypted[4:])


def test_file_that_shrinks_is_refused() -> None:
    class Shrinking(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return b"" if self.tell() == 4 else super().read(size)

    with pytest.raises(ArchiveError, match="cut off while it was read"):
        list(read_rows(Shrinking(make_file([TWO], 2)), "image", with_others=False))


def test_error_of_the_file_is_not_damage() -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() == 4:
                raise ConnectionResetError("lost")
            return super().read(size)

    with pytest.raises(ConnectionResetError):
        list(read_rows(Failing(make_file([TWO], 2)), "image", with_others=False))


def test_changed_page_is_refused() -> None:
    data = bytearray(write({"image": [b"x" * 100]}, compression="none", write_page_checksum=True))
    data[data.index(b"xxx")] ^= 1
    assert refuse(bytes(data)).startswith("damaged, or not a parquet file")


@pytest.mark.parametrize("footer", [b"", b"\x15", b"\xff" * 50, bytes(50)])
def test_damaged_footer_is_refused(footer: bytes) -> None:
    data = b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1"
    assert refuse(data).startswith(("damaged", "not a parquet file"))


@pytest.mark.parametrize(
    "data",
    [
        make_file([TWO], 3),
        make_file([TWO], 1),
        make_file([Page(TWO.data, 3)], 3),
        make_file([TWO], 2, footer={3: Long(5)}),
        make_file([TWO], 2, footer={3: Long(-2)}),
        make_file([TWO], 2, group={3: Long(-2)}, footer={3: Long(-2)}),
        make_file([TWO], 2, group={3: Long(4)}, footer={3: Long(4)}),
        make_file([TWO], 2, column={5: Long(3)}),
        make_file([TWO], 2, column={5: Long(-1)}),
    ],
)
def test_wrong_count_is_refused(data: bytes) -> None:
    assert "copy" in refuse(data)


@pytest.mark.parametrize(
    "column",
    [
        {9: Long(-1)},
        {9: Long(2**62)},
        {7: Long(2**30)},
        {7: Long(-100)},
        {7: Long(3)},
        {9: Long(0)},
        {11: Long(2)},
    ],
)
def test_column_outside_the_file_is_refused(column: Mapping[int, Any]) -> None:
    assert "damaged" in refuse(make_file([TWO], 2, column=column))


def test_column_in_another_file_is_refused() -> None:
    assert "damaged" in refuse(make_file([TWO], 2, chunk={1: "/etc/passwd"}))


# What pyarrow must not see


def test_statistics_that_end_pyarrow_are_not_read() -> None:
    """pyarrow 26 ends the process when it reads such a histogram of a column."""
    histograms = {2: [Long(1)] * 3, 3: [Long(1)] * 3}
    data = make_file([TWO], 2, column={16: histograms})
    assert [row.data for row in read(data)] == [b"one", b"two"]


def test_types_and_metadata_of_others_are_not_loaded() -> None:
    loaded = []
    base: Any = pyarrow.ExtensionType

    class Spy(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(pyarrow.string(), "dinac.spy")

        def __arrow_ext_serialize__(self) -> bytes:
            return b"serialized"

        @classmethod
        def __arrow_ext_deserialize__(cls, storage: Any, serialized: bytes) -> Any:
            loaded.append(serialized)
            return cls()

    pyarrow.register_extension_type(Spy())
    try:
        texts = pyarrow.ExtensionArray.from_storage(Spy(), pyarrow.array(["a"]))
        data = write({"image": [b"1"], "text": texts})
        loaded.clear()
        assert read(data) == [Row(0, b"1", None, {"text": "a"})]
        assert loaded == []
        pyarrow.parquet.read_table(io.BytesIO(data))
        assert set(loaded) == {b"serialized"}
    finally:
        pyarrow.unregister_extension_type("dinac.spy")


@pytest.mark.parametrize(
    "schema",
    [
        [],
        [{4: "s", 5: 0}],
        [{4: "s"}],
        [{4: "s", 5: 2}, {1: 6, 3: 0, 4: "image"}],
        [{4: "s", 5: 1}, {1: 6, 3: 0, 4: "image"}, {1: 6, 3: 0, 4: "more"}],
        [{4: "s", 5: -1}, {1: 6, 3: 0, 4: "image"}],
        [{4: "s", 5: 1}, {3: 0, 4: "image"}],
        [{4: "s", 5: 1}, {3: 0, 4: "image", 5: 0}],
        [{4: "s", 5: 1}, {1: 6, 3: 0}],
        [{4: "s", 5: 1}, {1: 6, 3: 0, 4: "x" * 5000}],
        [{4: "s", 5: 1}, {1: 6, 3: 0, 4: "image", 6: [1]}],
        [{4: "s", 5: 1}, {1: 99, 3: 0, 4: "image"}],
        [{4: "s", 5: 2}, {1: 6, 3: 0, 4: "image"}, {1: 6, 3: 0, 4: "more"}],
    ],
)
def test_damaged_schema_is_refused(schema: list[dict[int, Any]]) -> None:
    message = refuse(make_file([TWO], 2, footer={2: schema}))
    assert message == "damaged, or not a parquet file; copy it again"


def test_footer_with_too_many_values_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_footer, "_MAX_VALUES", 10)
    assert refuse(make_file([TWO], 2)).endswith("split the file")


def test_fields_must_be_in_order() -> None:
    header = Page(b"", 2).pack()
    with pytest.raises(ValueError, match="not in order"):
        measure(header[:-1] + b"\x05\x02\x00" + b"\0")


# Limits


def test_footer_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_file([TWO], 2)
    monkeypatch.setattr(parquet, "MAX_FOOTER_BYTES", int.from_bytes(data[-8:-4], "little") - 1)
    assert "has a footer over" in refuse(data)


def test_footer_that_lies_is_not_read() -> None:
    data = make_file([TWO], 2)[:-8] + (2**32 - 1).to_bytes(4, "little") + b"PAR1"
    assert refuse(data) == "damaged: its footer is larger than the file; copy the file again"


def test_columns_and_row_groups_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    data = write({"image": [b"1", b"2"], "label": [1, 2]}, row_group_size=1)
    limits = (parquet_footer, "MAX_COLUMNS"), (parquet_footer, "MAX_GROUPS"), (parquet, "MAX_ROWS")
    for module, limit in limits:
        with monkeypatch.context() as patch:
            patch.setattr(module, limit, 2)
            assert len(read(data)) == 2
            patch.setattr(module, limit, 1)
            assert refuse(data).endswith("split the file")


def test_row_group_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    message = "row group 0 is over 2 GiB; write smaller row groups"
    assert refuse(make_file([TWO], 2, column={6: Long(2**31 + 1)})) == message
    data = make_file([TWO], 2, column={6: Long(0)})
    size = len(TWO.pack())
    monkeypatch.setattr(parquet, "MAX_GROUP_BYTES", size)
    assert len(read(data)) == 2
    monkeypatch.setattr(parquet, "MAX_GROUP_BYTES", size - 1)
    assert "row group 0 is over" in refuse(data)


def test_pages_are_bounded_whatever_the_footer_says() -> None:
    data = make_file([Page(TWO.data, 1, data_bytes=2**31 - 1)] * 2, 2)
    assert refuse(data) == "row group 0 is over 2 GiB; write smaller row groups"
    page = Page(zstandard.compress(TWO.data), 2, data_bytes=2**31 - 1)
    assert "damaged" in refuse(make_file([page], 2, codec=ZSTD))


def test_image_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "MAX_INPUT_BYTES", 3)
    fits, large = read(make_file([Page(pack_texts(b"123", b"1234"), 2)], 2))
    assert fits.data == b"123"
    assert str(large.problem).startswith("larger than")


def test_schema_may_not_be_nested_deeply() -> None:
    depth = 100
    schema = [{4: "s", 5: 1}, *[{3: 0, 4: "image", 5: 1}] * depth, {1: 6, 3: 0, 4: "x"}]
    path = ["image"] * depth + ["x"]
    deep = make_file([TWO], 2, column={3: path}, footer={2: schema})
    assert "damaged" in refuse(deep)


def make_repeating(size: int, rows: int) -> bytes:
    """A small file of which each row is the same large value, out of a dictionary."""
    value = zstandard.compress(pack_texts(bytes(size)))
    indices = zstandard.compress(b"\1" + pack_varint(rows << 1) + b"\0")
    pages = [
        Page(value, 1, kind=DICTIONARY_PAGE, data_bytes=size + 4),
        Page(indices, rows, RLE_DICTIONARY, data_bytes=len(b"\1" + pack_varint(rows << 1) + b"\0")),
    ]
    return make_file(pages, rows, codec=ZSTD)


def test_large_value_of_many_rows_is_not_multiplied() -> None:
    """Reads 1,000 rows of 16 MiB from a file of 1 kB; a batch of 64 would take 1 GiB."""
    data = make_repeating(2**24, 1000)
    assert len(data) < 2000
    rows = read_rows(io.BytesIO(data), "image", with_others=False)
    held = pyarrow.total_allocated_bytes()
    for _, row in zip(range(8), rows, strict=False):
        assert row.data == bytes(2**24)
        assert pyarrow.total_allocated_bytes() - held < 2**27


@pytest.mark.parametrize("encoding", ["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"])
def test_delta_encoded_bytes_are_refused(encoding: str) -> None:
    options: dict[str, Any] = {"use_dictionary": False, "column_encoding": {"image": encoding}}
    assert refuse(write({"image": [b"1", b"2"]}, **options)) == (
        "row group 0 has delta-encoded texts or bytes; write the file without them"
    )


def test_delta_encoded_numbers_are_read() -> None:
    columns = {"image": [b"1", b"2", b"3"], "label": [5, 6, 4]}
    encodings = {"image": "PLAIN", "label": "DELTA_BINARY_PACKED"}
    data = write(columns, use_dictionary=False, column_encoding=encodings)
    assert [row.others["label"] for row in read(data)] == [5, 6, 4]


def test_lengths_that_fill_the_memory_are_refused() -> None:
    """pyarrow unpacks 2,147,483,521 lengths of nothing from this file of 118 bytes."""
    header = pack_varint(2**31 - 128) + pack_varint(4) + pack_varint(2**31 - 127)
    for encoding in (6, 7):
        data = make_file([Page(header + bytes(6), 2, encoding)], 2)
        assert len(data) < 130
        assert "delta-encoded" in refuse(data)


def test_wide_decimals_are_left_out() -> None:
    """pyarrow allocates the size that the schema gives to a value for each null."""
    prices = pyarrow.array([None], pyarrow.decimal128(10, 2))
    data = write({"image": [b"1"], "price": prices})
    size = int.from_bytes(data[-8:-4], "little")
    fields = ThriftReader(data, len(data) - 8 - size, 1000).read_struct()
    schema = list_structs(fields, 2)
    assert get_field(schema[2], 2, I32) == 5
    assert read(data) == [Row(0, b"1", None, {"price": None})]
    schema[2][2] = Value(I32, 2**20)
    footer = pack_thrift(fields)
    wide = data[: -8 - size] + footer + len(footer).to_bytes(4, "little") + b"PAR1"
    assert read(wide) == [Row(0, b"1", None, {})]


# Headers of pages


def measure(*pages: bytes, values: int = 2) -> parquet_pages.PageTotals:
    return measure_pages(b"".join(pages), values)


def test_totals_of_pages() -> None:
    plain = Page(b"x" * 10, 1, data_bytes=30).pack()
    dictionary = Page(b"y" * 10, 1, kind=DICTIONARY_PAGE, data_bytes=40).pack()
    assert measure(dictionary, plain, plain) == (100, 40)
    index = pack_struct({1: 1, 2: 5, 3: 0, 6: {}})
    assert measure(index, plain, plain) == (65, 0)
    second = pack_struct({1: 3, 2: 9, 3: 0, 8: {1: 2, 2: 0, 3: 2, 4: 8, 5: 0, 6: 0}})
    assert measure(second) == (9, 0)


def test_unknown_fields_are_skipped() -> None:
    extra = {9: b"text", 10: [1, 2], 11: [b"a"], 12: {1: b"b", 2: [{1: 2}]}, 13: Long(2**40)}
    assert measure(Page(b"", 2, fields=extra).pack()) == (0, 0)
    booleans = b"\x11\x12\x13\x05\x17" + bytes(8) + b"\x1b\x00\x1b\x01\x51\x05\x01"
    header = Page(b"", 2).pack()[:-1] + booleans + b"\0"
    assert measure(header) == (0, 0)


def test_long_step_between_fields() -> None:
    header = Page(b"", 2).pack()
    assert measure(b"\x05" + pack_signed(1) + header[1:]) == (0, 0)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\0",
        Page(b"", 2).pack()[:-1],
        Page(b"xy", 2).pack()[:-1],
        Page(b"", 3).pack(),
        Page(b"", -1).pack(),
        Page(b"", 2, fields={1: 4}).pack(),
        Page(b"", 2, fields={1: 2}).pack(),
        Page(b"", 2, fields={2: -1}).pack(),
        Page(b"", 2, fields={3: -1}).pack(),
        Page(b"", 2, fields={3: Long(0)}).pack(),
        Page(b"", 2, fields={5: 1}).pack(),
        Page(b"", 2, fields={9: [1] * 1001}).pack(),
        b"\x15\x00\x15\x00\x15\x00\x2c\x15\x04\x15\x00" + b"\x1e\x00",
        b"\x15" + b"\xff" * 11,
        b"\x15" + pack_varint(2**33),
        b"\x1c" * 20 + bytes(20),
        b"\x19\x19" * 20,
        b"\x18" + pack_varint(2**40),
        Page(b"", 1, kind=DICTIONARY_PAGE, inner={1: 3}).pack() + Page(b"", 2).pack(),
    ],
)
def test_damaged_header_is_refused(header: bytes) -> None:
    with pytest.raises(ValueError, match=r"page|number|field|struct|list"):
        measure(header)


def test_header_that_lies_takes_no_memory() -> None:
    header = Page(b"", 2, fields={9: b"x"}).pack()
    lying = header.replace(b"\x01x", pack_varint(2**31) + b"x")
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="cut off"):
            measure(lying)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
