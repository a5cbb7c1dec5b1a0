"""Records from a pipe: yielded one by one, without waiting, and resumed after damage."""

from __future__ import annotations

import io
import os
import threading
import tracemalloc
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import pytest

from dinac_cli.container.frame import PREAMBLE, RECORD_START
from dinac_cli.container.record import pack_record, unpack_record
from dinac_cli.container.stream import StreamItem, read_records
from dinac_cli.errors import FormatError, Rejection

from .hand_made import (
    RAW,
    block,
    content_of,
    frame_of,
    make_header,
    make_latents,
    metadata,
    record_of,
    tensor,
)

SHAPE = (4, 6, 6)


def make_record(number: int) -> bytes:
    header = make_header(SHAPE, name=f"{number}.jpg")
    return pack_record(header, make_latents(SHAPE, seed=number))


RECORDS = [make_record(number) for number in range(4)]


class Trickle(io.RawIOBase):
    """A pipe that delivers one byte at a time."""

    def __init__(self, data: bytes) -> None:
        self._rest = memoryview(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = min(1, len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def items_of(data: bytes) -> list[StreamItem]:
    return list(read_records(io.BytesIO(data)))


def outcomes(items: list[StreamItem]) -> list[bytes | Rejection]:
    return [
        item.record.rejection if isinstance(item.record, FormatError) else item.record
        for item in items
    ]


def record_holding(payload: bytes) -> bytes:
    """Returns a valid record that holds `payload` uncompressed in an extra tensor."""
    size = len(payload)
    tensors = {
        "latents": tensor("F32", [1, 1, 2], 0, 8),
        "z": tensor("U8", [size], 8, 8 + size),
    }
    return record_of(content_of(bytes(8) + payload, metadata(), **tensors))


def test_empty_stream_has_no_records() -> None:
    assert items_of(b"") == []


def test_records_are_yielded_with_their_offsets() -> None:
    items = items_of(b"".join(RECORDS))
    assert outcomes(items) == RECORDS
    sizes = [len(record) for record in RECORDS]
    assert [item.offset for item in items] == [0, *np.cumsum(sizes)[:-1]]


@pytest.mark.parametrize("buffered", [True, False])
def test_records_are_read_from_single_bytes(buffered: bool) -> None:
    raw: Any = Trickle(b"".join(RECORDS))
    stream: BinaryIO = io.BufferedReader(raw) if buffered else raw
    assert outcomes(list(read_records(stream))) == RECORDS


@pytest.fixture
def pipe() -> Iterator[tuple[BinaryIO, BinaryIO]]:
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as reader, os.fdopen(write_end, "wb", buffering=0) as writer:
        yield reader, writer


def test_record_is_yielded_before_the_next_one_arrives(pipe: tuple[BinaryIO, BinaryIO]) -> None:
    reader, writer = pipe
    items = read_records(reader)
    for record in RECORDS:
        writer.write(record)
        assert next(items).record == record
    writer.close()
    assert list(items) == []


def test_garbage_is_reported_before_more_bytes_arrive(
    pipe: tuple[BinaryIO, BinaryIO],
) -> None:
    reader, writer = pipe
    items = read_records(reader)
    writer.write(b"\x89PNG\r\n\x1a\n and more")
    assert outcomes([next(items)]) == [Rejection.NOT_A_RECORD]
    thread = threading.Thread(target=lambda: (writer.write(RECORDS[0]), writer.close()))
    thread.start()
    assert outcomes(list(items)) == [RECORDS[0]]
    thread.join()


def test_damaged_content_is_found_by_unpacking_only() -> None:
    first = bytearray(RECORDS[0])
    first[-1] ^= 1
    items = items_of(bytes(first) + RECORDS[1])
    assert outcomes(items) == [bytes(first), RECORDS[1]]
    with pytest.raises(FormatError):
        unpack_record(bytes(first))


def test_damaged_byte_costs_one_record_only() -> None:
    first, rest = RECORDS[0], RECORDS[1:]
    for position in range(len(first)):
        damaged = bytearray(first)
        damaged[position] ^= 0xFF
        items = items_of(bytes(damaged) + b"".join(rest))
        assert outcomes(items)[-3:] == rest, position
        # If a block is marked as the last too early, the remainder is an item of its own.
        assert len(items) in (4, 5)
        assert items[0].offset == 0


def test_truncated_record_costs_one_record_only() -> None:
    first, rest = RECORDS[0], RECORDS[1:]
    for size in range(1, len(first)):
        items = items_of(first[:size] + b"".join(rest))
        assert outcomes(items)[-3:] == rest, size
        assert len(items) == 4


def test_many_truncated_records_cost_no_others() -> None:
    items = items_of((RECORDS[0][:-20] + RECORDS[1]) * 30)
    good = [item.record for item in items if not isinstance(item.record, FormatError)]
    assert good == [RECORDS[1]] * 30


def test_stream_that_ends_inside_a_record_is_an_error() -> None:
    for size in range(1, len(RECORDS[1])):
        items = items_of(RECORDS[0] + RECORDS[1][:size])
        assert outcomes(items) == [RECORDS[0], Rejection.TRUNCATED]
        assert items[1].offset == len(RECORDS[0])


@pytest.mark.parametrize("position", [14, 15, 16])
def test_record_of_a_later_format_is_skipped_by_its_frame(position: int) -> None:
    inner = record_holding(RECORDS[0])
    later = inner[:position] + b"\x02" + inner[position + 1 :]
    expected = {14: Rejection.VERSION, 15: Rejection.FLAGS, 16: Rejection.RESERVED}
    assert outcomes(items_of(later + RECORDS[1])) == [expected[position], RECORDS[1]]


def test_next_record_is_found_after_a_damaged_frame_of_a_later_format() -> None:
    later = RECORD_START + b"\x02" + bytes(9) + b"no zstd at all"
    assert outcomes(items_of(later + RECORDS[1])) == [Rejection.VERSION, RECORDS[1]]


def test_a_cut_record_of_a_later_format_costs_no_others() -> None:
    first = RECORDS[0]
    for size in range(len(PREAMBLE), len(first)):
        later = first[:14] + b"\x02" + first[15:size]
        items = items_of(later + RECORDS[1] + RECORDS[2])
        assert outcomes(items) == [Rejection.VERSION, RECORDS[1], RECORDS[2]], size


def test_many_damaged_records_within_a_damaged_size_cost_no_others() -> None:
    headless = PREAMBLE + b"no zstd at all"
    swallowed = (headless + RECORDS[0]) * 30
    frame = frame_of(block(RAW, len(swallowed), swallowed), len(swallowed), b"zzzz")
    items = items_of(PREAMBLE + frame + RECORDS[1])
    good = [item.record for item in items if not isinstance(item.record, FormatError)]
    assert good == [RECORDS[0]] * 30 + [RECORDS[1]]


def test_record_inside_a_valid_record_is_payload() -> None:
    outer = record_holding(RECORDS[0])
    assert outcomes(items_of(outer + RECORDS[1])) == [outer, RECORDS[1]]


def test_records_swallowed_by_a_damaged_size_are_found() -> None:
    swallowed = b"".join(RECORDS[:2])
    blocks = block(RAW, 9, b"x" * 9, last=False) + block(RAW, len(swallowed), swallowed)
    frame = frame_of(blocks, 9 + len(swallowed), b"zzzz")
    assert outcomes(items_of(PREAMBLE + frame + RECORDS[2])) == [
        Rejection.CHECKSUM,
        *RECORDS[:2],
        Rejection.NOT_A_RECORD,  # the checksum of the outer frame
        RECORDS[2],
    ]


def test_garbage_between_records_is_one_error() -> None:
    garbage = np.random.default_rng(0).bytes(300_000)
    items = items_of(RECORDS[0] + garbage + RECORDS[1] + b"\0" * 5)
    assert outcomes(items) == [
        RECORDS[0],
        Rejection.NOT_A_RECORD,
        RECORDS[1],
        Rejection.NOT_A_RECORD,
    ]


def test_start_of_a_record_is_found_across_reads() -> None:
    for size in range((1 << 16) - 30, (1 << 16) + 2):
        assert outcomes(items_of(b"?" * size + RECORDS[0])) == [Rejection.NOT_A_RECORD, RECORDS[0]]


def test_records_within_records_take_linear_time() -> None:
    """Each record start begins a walk that fails only at the end of the stream."""
    start = PREAMBLE + frame_of(b"", 1 << 29, b"")
    unit = block(RAW, len(start), start, last=False)
    data = start + unit * 20_000
    items = items_of(data + RECORDS[0])
    assert all(isinstance(item.record, FormatError) for item in items[:-1])
    assert len(items) < 100


def test_memory_holds_one_record() -> None:
    large = pack_record(make_header((128, 32, 32)), make_latents((128, 32, 32)))
    stream: Any = Repeated(large, count=200)
    tracemalloc.start()
    try:
        sizes = [
            len(item.record) for item in read_records(stream) if isinstance(item.record, bytes)
        ]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sizes == [len(large)] * 200
    assert peak < 5 * len(large)


class Repeated(io.RawIOBase):
    """A pipe that delivers the same record `count` times."""

    def __init__(self, record: bytes, count: int) -> None:
        self._record, self._left, self._rest = record, count, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest and self._left:
            self._rest, self._left = self._record, self._left - 1
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size
