"""Thrift structs: what is written is read again, and damage is an error."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinac_cli.storage.thrift import (
    BINARY,
    BYTE,
    DOUBLE,
    FALSE,
    I16,
    I32,
    I64,
    LIST,
    MAP,
    STRUCT,
    TRUE,
    Fields,
    LimitError,
    ThriftReader,
    Value,
    Values,
    get_field,
    list_structs,
    pack_struct,
)
from tests.storage import hand_made_parquet
from tests.storage.hand_made_parquet import Long


def read(data: bytes, most_values: int = 1000) -> Fields:
    reader = ThriftReader(data, 0, most_values)
    fields = reader.read_struct()
    assert reader.at == len(data)
    return fields


def number(kind: int, bits: int) -> st.SearchStrategy[Value]:
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1).map(lambda each: Value(kind, each))


plain: st.SearchStrategy[Value] = st.one_of(
    st.sampled_from([Value(TRUE, None), Value(FALSE, None)]),
    st.binary(min_size=1, max_size=1).map(lambda data: Value(BYTE, data)),
    st.binary(min_size=8, max_size=8).map(lambda data: Value(DOUBLE, data)),
    st.binary(max_size=20).map(lambda data: Value(BINARY, data)),
    number(I16, 16),
    number(I32, 32),
    number(I64, 64),
    st.lists(number(I64, 64), max_size=20).map(
        lambda each: Value(LIST, Values(I64, [value.content for value in each]))
    ),
)


def make_fields(values: st.SearchStrategy[Value]) -> st.SearchStrategy[Fields]:
    numbers = st.sets(st.integers(1, 2**15 - 1), max_size=5).map(sorted)
    fields = numbers.flatmap(lambda each: st.fixed_dictionaries(dict.fromkeys(each, values)))
    return fields.map(lambda each: dict(sorted(each.items())))


structs = st.recursive(
    make_fields(plain),
    lambda inner: make_fields(
        inner.map(lambda fields: Value(STRUCT, fields))
        | st.lists(inner, max_size=3).map(lambda each: Value(LIST, Values(STRUCT, each)))
    ),
    max_leaves=5,
)


@settings(deadline=None, max_examples=50)
@given(structs)
def test_struct_is_read_as_it_was_written(fields: Fields) -> None:
    assert read(pack_struct(fields)) == fields


def test_agrees_with_the_files_of_the_tests() -> None:
    data = hand_made_parquet.pack_struct(
        {1: -5, 3: Long(2**40), 4: "text", 5: [1, 2], 6: [{1: b"a"}], 7: {2: []}}
    )
    fields = read(data)
    assert pack_struct(fields) == data
    assert get_field(fields, 1, I32) == -5
    assert get_field(fields, 1, I64) is None
    assert get_field(fields, 2, I32) is None
    assert get_field(fields, 3, I64) == 2**40
    assert list_structs(fields, 6) == [{1: Value(BINARY, b"a")}]
    for wrong in (1, 2, 5):
        with pytest.raises(ValueError, match="no list of structs"):
            list_structs(fields, wrong)


def test_maps_are_skipped() -> None:
    data = b"\x1b\x02\x58\x02\x01a\x04\x01b\x15\x08\x00"
    assert read(data) == {1: Value(MAP, None), 2: Value(I32, 4)}
    assert read(b"\x1b\x00\x00") == {1: Value(MAP, None)}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x15",
        b"\x15\x80",
        b"\x15\x02",
        b"\x18\x05abc",
        b"\x17\x00",
        b"\x1e\x00",
        b"\x15" + b"\xff" * 11 + b"\x01\x00",
        b"\x15\x80\x80\x80\x80\x10\x00",
        b"\x05\x00\x02\x00",
        b"\x15\x02\x05\x02\x02\x00",
        b"\x1c" * 30,
        b"\x19\x19" + b"\x19" * 30,
        b"\x19\xf8\xff\xff\xff\xff\x0f",
    ],
)
def test_damaged_struct_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"struct|list|number"):
        read(data)


@pytest.mark.parametrize("element", [I32, BINARY, STRUCT, LIST])
def test_values_are_counted(element: int) -> None:
    def make(count: int) -> bytes:
        return bytes([0x19, 0xF0 | element, count]) + bytes(count + 1)

    values: Any = get_field(read(make(9), 10), 1, LIST)
    assert len(values.contents) == 9
    with pytest.raises(LimitError):
        read(make(10), 10)
