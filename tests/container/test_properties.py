"""Records return what was packed: from bytes, from a file and from a stream."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinac_cli.container.header import PRECISIONS, RecordHeader
from dinac_cli.container.names import escape_name, escape_text
from dinac_cli.container.record import measure_record, pack_record, read_latents, unpack_record
from dinac_cli.container.stream import read_records
from dinac_cli.container.tensors import MAX_SYMBOL
from dinac_cli.errors import FormatError

from .hand_made import make_header

Float32 = npt.NDArray[np.float32]

LARGEST_BFLOAT16 = 3.3895e38  # larger latents are refused, see test_tensors


@st.composite
def whole_records(draw: st.DrawFn) -> tuple[RecordHeader, Float32, Float32 | None]:
    """Draws a header, latents that its precision can hold, and their steps."""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 5)))
    precision = draw(st.sampled_from(PRECISIONS))
    patch = draw(st.integers(1, 32))
    header = make_header(
        shape,
        precision,
        patch=patch,
        height=shape[1] * patch - draw(st.integers(0, patch - 1)),
        width=shape[2] * patch - draw(st.integers(0, patch - 1)),
        name=draw(st.just("") | st.text(min_size=1).map(escape_name)),
        model=escape_text(draw(st.text(max_size=40))),
        image=escape_text(draw(st.text(max_size=40))),
        source_bytes=draw(st.none() | st.integers(0, 10**14)),
    )
    steps = None
    limit = LARGEST_BFLOAT16
    if precision.startswith("q"):
        step = draw(st.sampled_from([1e-30, 0.01, 0.5, 1.0, 1e30]))
        steps = np.full(shape[0], step, np.float32)
        limit = draw(st.sampled_from([7, 127, MAX_SYMBOL])) * step
    values = draw(
        st.lists(st.floats(-1, 1, width=32), min_size=shape[0] * shape[1] * shape[2], max_size=60)
    )
    latents = (np.array(values[: int(np.prod(shape))]) * limit).astype(np.float32)
    return header, latents.reshape(shape), steps


def expect(header: RecordHeader, latents: Float32, steps: Float32 | None) -> Float32:
    """Returns what a reader must give, computed from the specification and not by our code."""
    if header.precision == "f32":
        return latents
    if steps is not None:
        # Float64: in float32 the quotient itself is rounded, which can create or break a tie.
        symbols = np.rint(latents.astype(np.float64) / steps[:, None, None]).astype(np.float32)
        return symbols * steps[:, None, None]
    bits = latents.view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16
    return rounded.astype(np.uint32).view(np.float32)


@settings(max_examples=150)
@given(whole_records())
def test_record_comes_back(parts: tuple[RecordHeader, Float32, Float32 | None]) -> None:
    header, latents, steps = parts
    data = pack_record(header, latents, steps)
    record = unpack_record(memoryview(data))
    assert record.header == header
    np.testing.assert_array_equal(record.latents, expect(header, latents, steps))
    assert pack_record(header, latents.copy(), steps) == data
    assert measure_record(io.BytesIO(data + b"more")) == len(data)
    # A second generation loses nothing.
    assert pack_record(record.header, record.latents, steps) == data


@settings(max_examples=40)
@given(st.lists(whole_records(), min_size=1, max_size=4), st.data())
def test_truncated_stream_yields_every_whole_record(
    parts: list[tuple[RecordHeader, Float32, Float32 | None]], data: st.DataObject
) -> None:
    records = [pack_record(*part) for part in parts]
    stream = b"".join(records)
    assert [item.record for item in read_records(io.BytesIO(stream))] == records
    cut = data.draw(st.integers(0, len(stream)))
    ends = np.cumsum([len(record) for record in records])
    whole = int((ends <= cut).sum())
    items = [item.record for item in read_records(io.BytesIO(stream[:cut]))]
    assert items[:whole] == records[:whole]
    assert all(isinstance(item, FormatError) for item in items[whole:])
    assert bool(items[whole:]) == (cut not in {0, *ends.tolist()})


@pytest.mark.parametrize("precision", ["f32", "bf16", "q8", "q3"])
def test_file_truncated_at_any_byte_is_refused(precision: str, tmp_path: Path) -> None:
    path = tmp_path / "a.dinac"
    steps: Any = np.ones(2, np.float32) if precision.startswith("q") else None
    data = pack_record(make_header((2, 1, 3), precision), np.ones((2, 1, 3), np.float32), steps)
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(FormatError):
            read_latents(path)
    path.write_bytes(data)
    assert read_latents(path)[0].sum() == 6
