"""Damaged and malicious records are refused quickly, in little memory, and only by FormatError."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinac_cli.container.frame import MAX_CONTENT_BYTES, PREAMBLE
from dinac_cli.container.record import measure_record, pack_record, read_header, unpack_record
from dinac_cli.errors import FormatError, Rejection

from .hand_made import (
    COMPRESSED,
    RLE,
    block,
    checksum,
    content_of,
    frame_of,
    head_of,
    make_header,
    make_latents,
    make_record,
    metadata,
    plain_content,
    raw_blocks,
    tensor,
)


def rejection_of(data: bytes) -> Rejection:
    with pytest.raises(FormatError) as caught:
        unpack_record(data)
    return caught.value.rejection


@pytest.mark.parametrize("precision", ["f32", "bf16", "q3", "q8"])
def test_record_truncated_at_any_byte_is_refused(precision: str) -> None:
    record = make_record(precision)
    assert rejection_of(b"") is Rejection.TRUNCATED
    for size in range(len(record)):
        assert rejection_of(record[:size]) is Rejection.TRUNCATED
        with pytest.raises(FormatError):
            measure_record(io.BytesIO(record[:size]))


def check_harmless(damaged: bytes, record: bytes) -> bool:
    """True if a damaged record reads like the record, False if it is refused; else fails."""
    try:
        read = unpack_record(damaged)
    except FormatError:
        return False
    expected = unpack_record(record)
    assert read.header == expected.header
    np.testing.assert_array_equal(read.latents, expected.latents)
    return True


@pytest.mark.parametrize("precision", ["f32", "bf16", "q3", "q8"])
def test_flipped_bit_is_refused_or_changes_nothing(precision: str) -> None:
    record = make_record(precision)
    harmless = 0
    for position in range(len(record)):
        for bit in range(8):
            damaged = bytearray(record)
            damaged[position] ^= 1 << bit
            harmless += check_harmless(bytes(damaged), record)
    assert harmless < 16  # bits that zstd ignores


def test_flipped_bit_of_a_windowed_frame_is_refused_or_changes_nothing() -> None:
    """A frame larger than its window has a window byte; zstd ignores most of its bits."""
    latents = make_latents((64, 48, 48))
    record = pack_record(make_header(latents.shape, "f32"), latents)
    assert not record[28] >> 5 & 1  # not a single segment
    for position in [*range(40), *range(len(record) - 8, len(record))]:
        for bit in range(8):
            damaged = bytearray(record)
            damaged[position] ^= 1 << bit
            check_harmless(bytes(damaged), record)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_random_damage_is_refused_or_changes_nothing(data: st.DataObject) -> None:
    record = make_record(data.draw(st.sampled_from(["f32", "q3", "q8"])))
    damaged = bytearray(record)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(record)))
        damaged[start : start + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    check_harmless(bytes(damaged), record)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2**70) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(st.data(), json_values)
def test_header_with_any_value_anywhere_is_read_or_refused(data: st.DataObject, value: Any) -> None:
    entries: dict[str, Any] = {
        "__metadata__": metadata(),
        "latents": tensor("F32", [1, 1, 2], 0, 8),
    }
    group = data.draw(st.sampled_from([*entries, ""]))
    target = entries[group] if group else entries
    target[data.draw(st.sampled_from(sorted(target)))] = value
    content = head_of(json.dumps(entries)) + bytes(8)
    record = PREAMBLE + frame_of(raw_blocks(content), len(content), checksum(content))
    with contextlib.suppress(FormatError):
        assert unpack_record(record).latents.shape == (1, 1, 2)


def bomb(content_size: int, entry: dict[str, Any] | None = None) -> bytes:
    """Returns a small record whose frame declares a large content that its blocks can hold."""
    head = plain_content(b"") if entry is None else content_of(b"", metadata(), latents=entry)
    rest = content_size - len(head)
    blocks = block(0, len(head), head, last=False)
    blocks += block(RLE, 1 << 17, b"\0", last=False) * (rest >> 17)
    blocks += block(RLE, rest % (1 << 17), b"\0")
    return PREAMBLE + frame_of(blocks, content_size, bytes(4))


BOMBS = {
    "declared only": PREAMBLE + frame_of(block(RLE, 9, b"\0"), MAX_CONTENT_BYTES, bytes(4)),
    "more than the header declares": bomb(MAX_CONTENT_BYTES),
    "512 MiB in a tensor of another shape": bomb(1 << 29, tensor("F32", [1 << 27], 0, 1 << 29)),
    "a GiB by wrong offsets": bomb(
        MAX_CONTENT_BYTES, tensor("F32", [1, 1, 2], 0, MAX_CONTENT_BYTES)
    ),
    "empty blocks": PREAMBLE
    + frame_of(block(0, 0, b"", last=False) * 100_000, MAX_CONTENT_BYTES, bytes(4)),
    "long empty start": PREAMBLE
    + frame_of(block(RLE, 0, b"\0", last=False) * 200_000, 1 << 16, bytes(4)),
    "undecodable start": PREAMBLE
    + frame_of(block(COMPRESSED, 1 << 17, bytes(1 << 17), last=False) * 8, 1 << 30, bytes(4)),
}


@pytest.mark.parametrize("case", BOMBS)
def test_bomb_is_refused_before_memory_is_allocated(case: str) -> None:
    data = BOMBS[case]
    tracemalloc.start()
    try:
        for read in (unpack_record, read_header):
            with pytest.raises(FormatError):
                read(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc to limit the address space")
def test_bombs_are_refused_under_a_memory_limit_of_the_process(tmp_path: Path) -> None:
    """tracemalloc does not see zstd's allocations, so a separate process reads under a limit."""
    for case, data in BOMBS.items():
        (tmp_path / case).write_bytes(data)
    program = """
import pathlib, resource, sys
from dinac_cli.container.record import read_header, unpack_record
from dinac_cli.errors import FormatError
used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (48 << 20),) * 2)
for path in pathlib.Path(sys.argv[1]).iterdir():
    for read in (unpack_record, read_header):
        try:
            read(path.read_bytes())
        except FormatError:
            print("refused")
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stderr == ""
    assert result.stdout == "refused\n" * 2 * len(BOMBS)
