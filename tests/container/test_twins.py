"""Twins: latents of the mirrored image, stored beside the image's own, ignored and refused."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load

from dinac_cli.container.frame import PREAMBLE
from dinac_cli.container.header import PRECISIONS
from dinac_cli.container.record import (
    open_record,
    pack_encoded,
    read_header,
    read_record,
    unpack_record,
)
from dinac_cli.container.tensors import Encoded, join_planes, split_planes
from dinac_cli.errors import FormatError, Rejection

from .golden_records import FOLDER, content_of
from .hand_made import (
    SHAPE,
    make_header,
    make_latents,
    metadata,
    record_of,
    steps_for,
    tensor,
)
from .hand_made import (
    content_of as make_content,
)

ONE = np.array([1, -2], "<f4").tobytes()
NAN = np.array([np.nan, 0], "<f4").tobytes()
PLAIN = tensor("F32", [1, 1, 2], 0, 8)


def pack(precision: str, flipped: npt.NDArray[np.float32] | None) -> bytes:
    twin = None if flipped is None else Encoded(flipped)
    return pack_encoded(
        make_header(SHAPE, precision), Encoded(make_latents(SHAPE)), steps_for(precision), twin
    )


def store(latents: npt.NDArray[np.float32], precision: str) -> npt.NDArray[np.float32]:
    return join_planes(split_planes(latents, precision, steps_for(precision)), SHAPE)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_twin_comes_back_on_request_and_changes_nothing_otherwise(precision: str) -> None:
    data, alone = pack(precision, make_latents(SHAPE, 1)), pack(precision, None)
    both = unpack_record(data, with_twin=True)
    assert both.flipped is not None
    np.testing.assert_array_equal(both.latents, store(make_latents(SHAPE), precision))
    np.testing.assert_array_equal(both.flipped.latents, store(make_latents(SHAPE, 1), precision))
    plain = unpack_record(data)
    assert plain.flipped is None
    assert (plain.header, read_header(data)) == (both.header, both.header)
    np.testing.assert_array_equal(plain.latents, unpack_record(alone).latents)
    assert unpack_record(alone, with_twin=True).flipped is None
    assert pack(precision, make_latents(SHAPE, 1)) == data


@settings(max_examples=30)
@given(
    st.sampled_from(PRECISIONS),
    st.floats(-100, 100, width=32),
    st.floats(-3, 3, width=32),
)
def test_each_image_has_symbols_of_its_own_width(
    precision: str, first: float, second: float
) -> None:
    latents, flipped = (np.full(SHAPE, value, np.float32) for value in (first, second))
    steps = None if steps_for(precision) is None else np.full(SHAPE[0], 0.25, np.float32)
    header = make_header(SHAPE, precision)
    data = pack_encoded(header, Encoded(latents), steps, Encoded(flipped))
    record = unpack_record(data, with_twin=True)
    assert record.flipped is not None
    for read, given_ in ((record.latents, latents), (record.flipped.latents, flipped)):
        np.testing.assert_array_equal(
            read, join_planes(split_planes(given_, precision, steps), SHAPE)
        )


@pytest.mark.parametrize("precision", ["f32", "bf16", "q5"])
def test_twin_tensors_are_prefixed_and_floats_come_first(precision: str) -> None:
    content = content_of(pack(precision, make_latents(SHAPE, 1)))
    tensors = load(content)
    own = {name for name in tensors if not name.startswith("flipped.")}
    assert {name.removeprefix("flipped.") for name in tensors.keys() - own} == own
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    del header["__metadata__"]
    order = sorted(header.values(), key=lambda entry: entry["data_offsets"][0])
    dtypes = [entry["dtype"] for entry in order]
    assert dtypes == sorted(dtypes, key=lambda dtype: dtype != "F32")


def test_golden_record_has_a_twin() -> None:
    record = unpack_record((FOLDER / "reserved.dinac").read_bytes(), with_twin=True)
    assert record.flipped is not None
    np.testing.assert_array_equal(record.flipped.latents, record.latents)


def test_declared_bytes_include_the_twin() -> None:
    data = pack("f32", make_latents(SHAPE, 1))
    size = 4 * make_latents(SHAPE).size
    opened = open_record(data)
    assert opened.declared_bytes(with_twin=True) == opened.declared_bytes() + size
    alone = open_record(pack("f32", None))
    assert alone.declared_bytes(with_twin=True) == alone.declared_bytes()


def record_with(payload: bytes, precision: str = "f32", **twin: Any) -> bytes:
    """Returns a valid 1x1x2 record with these `flipped.` tensors; names have `__` for a dot."""
    tensors = {f"flipped__{name}": entry for name, entry in twin.items()}
    if precision == "f32":
        own: dict[str, Any] = {"latents": PLAIN}
        start = ONE
    else:
        own = {"latents__step": tensor("F32", [1], 0, 4), "latents__q": tensor("U8", [1], 4, 5)}
        start = np.array([1], "<f4").tobytes() + b"\x88"
        start, own["pad"] = start + bytes(3), tensor("U8", [3], 5, 8)
    meta = metadata(precision=precision)
    return record_of(make_content(start + payload, meta, **own, **tensors))


STEP, SYMBOLS = tensor("F32", [1], 8, 12), tensor("U8", [1], 12, 13)

HOSTILE = {
    "another dtype": (
        record_with(bytes(8), latents=tensor("I32", [1, 1, 2], 8, 16)),
        Rejection.TENSOR,
    ),
    "another shape": (
        record_with(bytes(8), latents=tensor("F32", [1, 2, 1], 8, 16)),
        Rejection.TENSOR,
    ),
    "more values": (
        record_with(bytes(16), latents=tensor("F32", [1, 1, 4], 8, 24)),
        Rejection.TENSOR,
    ),
    "another precision": (
        record_with(bytes(2), latents__exponent=tensor("U8", [1, 1, 2], 8, 10)),
        Rejection.TENSOR,
    ),
    "no step": (
        record_with(b"\x88", "q3", latents__q=tensor("U8", [1], 8, 9)),
        Rejection.TENSOR,
    ),
    "no symbols": (record_with(bytes(4), "q3", latents__step=STEP), Rejection.TENSOR),
    "two sets of symbols": (
        record_with(
            bytes(4) + b"\x88\0\0", "q3",
            latents__step=STEP, latents__q=SYMBOLS,
            latents__q__low=tensor("I8", [1, 1, 2], 13, 15),
        ),
        Rejection.TENSOR,
    ),
    "not finite": (record_with(NAN, latents=tensor("F32", [1, 1, 2], 8, 16)), Rejection.VALUE),
    "a step of zero": (
        record_with(bytes(4) + b"\x88", "q3", latents__step=STEP, latents__q=SYMBOLS),
        Rejection.STEP,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("data", "rejection"), list(HOSTILE.values()), ids=list(HOSTILE))
def test_hostile_twin_is_refused_only_if_requested(data: bytes, rejection: Rejection) -> None:
    assert unpack_record(data).flipped is None
    assert read_header(data) == read_header(io.BytesIO(data))
    with pytest.raises(FormatError) as caught:
        unpack_record(data, with_twin=True)
    assert caught.value.rejection is rejection
    assert str(caught.value).isprintable()
    if rejection is Rejection.TENSOR:
        with pytest.raises(FormatError):
            open_record(data).declared_bytes(with_twin=True)


def test_message_names_the_tensor_with_its_prefix() -> None:
    with pytest.raises(FormatError) as caught:
        unpack_record(HOSTILE["another dtype"][0], with_twin=True)
    assert str(caught.value) == "no tensor flipped.latents of F32 and shape [1, 1, 2]; re-encode"


def test_companions_alone_make_no_twin() -> None:
    data = record_with(bytes(4), class_token=tensor("F32", [1], 8, 12))
    assert unpack_record(data, with_twin=True).flipped is None


def test_twin_of_another_shape_or_not_finite_is_not_written() -> None:
    with pytest.raises(FormatError) as caught:
        pack("bf16", make_latents((3, 5, 2)))
    assert caught.value.rejection is Rejection.SHAPE
    with pytest.raises(FormatError):
        pack("bf16", np.full(SHAPE, np.nan, np.float32))


def test_twin_is_read_from_a_file_on_request(tmp_path: Path) -> None:
    path = tmp_path / "a.dinac"
    path.write_bytes(pack("bf16", make_latents(SHAPE, 1)))
    assert path.read_bytes().startswith(PREAMBLE)
    assert read_record(path).flipped is None
    assert read_record(path, with_twin=True).flipped is not None
