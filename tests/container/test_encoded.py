"""Companions are stored beside the latents, read on request and ignored otherwise."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import zstandard

from dinac_cli.container.header import PRECISIONS
from dinac_cli.container.record import open_record, pack_encoded, pack_record, unpack_record
from dinac_cli.container.tensors import (
    CLASS_TOKEN,
    COMPANIONS,
    LOGSNR,
    MAX_TOKEN_WIDTH,
    Encoded,
    split_encoded,
)
from dinac_cli.errors import FormatError, Rejection

from .golden_records import FOLDER
from .hand_made import SHAPE, content_of, make_header, make_latents, record_of, steps_for, tensor

LATENTS = make_latents(SHAPE)
ALL = Encoded(LATENTS, 9 * make_latents(SHAPE, 1), make_latents((1, 1, 7), 2).ravel())


def pack(encoded: Encoded, precision: str = "bf16") -> bytes:
    return pack_encoded(make_header(SHAPE, precision), encoded, steps_for(precision))


def read_tensors(record: bytes) -> dict[str, Any]:
    return safetensors.numpy.load(zstandard.ZstdDecompressor().decompress(record[24:]))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_companions_come_back_and_do_not_change_the_latents(precision: str) -> None:
    alone = pack_record(make_header(SHAPE, precision), LATENTS, steps_for(precision))
    record = pack(ALL, precision)
    assert alone == pack(Encoded(LATENTS), precision)
    assert record == pack(ALL, precision)
    read = unpack_record(record, COMPANIONS)
    assert read.latents.tobytes() == unpack_record(alone).latents.tobytes()
    np.testing.assert_array_equal(read.logsnr, ALL.logsnr)
    np.testing.assert_array_equal(read.class_token, ALL.class_token)
    tensors = read_tensors(record)
    for name, values in read_tensors(alone).items():
        np.testing.assert_array_equal(tensors.pop(name), values)
    assert tensors.keys() == set(COMPANIONS)


def test_floats_are_aligned_in_the_payload() -> None:
    content = zstandard.ZstdDecompressor().decompress(pack(ALL, "q3")[24:])
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    for name in (*COMPANIONS, "latents.step"):
        assert (8 + size + header[name]["data_offsets"][0]) % 4 == 0


def test_companions_are_read_only_on_request() -> None:
    record = pack(ALL)
    read = unpack_record(record)
    assert (read.logsnr, read.class_token) == (None, None)
    token_alone = unpack_record(record, [CLASS_TOKEN])
    assert token_alone.logsnr is None
    np.testing.assert_array_equal(token_alone.class_token, ALL.class_token)
    none = unpack_record(pack(Encoded(LATENTS)), COMPANIONS)
    assert (none.logsnr, none.class_token) == (None, None)


def test_outline_and_declared_bytes_need_no_payload() -> None:
    record = pack(ALL)
    expected = {LOGSNR: SHAPE, CLASS_TOKEN: (7,)}
    opened = open_record(record)
    assert opened.outline(COMPANIONS).held == expected
    truncated = open_record(io.BytesIO(record[:-20]))
    assert truncated.outline([CLASS_TOKEN]).held == {CLASS_TOKEN: (7,)}
    assert open_record(pack(Encoded(LATENTS))).outline(COMPANIONS).held == {}
    assert opened.declared_bytes(COMPANIONS) == opened.declared_bytes() + 4 * 30 + 4 * 7


def test_golden_record_holds_companions() -> None:
    read = unpack_record((FOLDER / "reserved.dinac").read_bytes(), COMPANIONS)
    assert read.logsnr is not None
    assert read.class_token is not None
    assert (read.logsnr == 0.75).all()
    assert read.class_token.tolist() == [0.75] * 8


def test_prefix_is_put_before_tensor_names() -> None:
    tensors = split_encoded(ALL, "bf16", None, "flipped.")
    names = ["latents.exponent", "latents.mantissa", LOGSNR, CLASS_TOKEN]
    assert list(tensors) == [f"flipped.{name}" for name in names]


def hostile(name: str, dtype: str, shape: list[int], payload: bytes) -> bytes:
    """Returns a record of latents [1, 1, 2] and one more tensor."""
    entries = {
        "latents": tensor("F32", [1, 1, 2], 0, 8),
        name.replace(".", "__"): tensor(dtype, shape, 8, 8 + len(payload)),
    }
    return record_of(content_of(bytes(8) + payload, **entries))


NAN, INFINITY = (np.array([0, value], "<f4").tobytes() for value in (np.nan, -np.inf))


@pytest.mark.parametrize(
    ("name", "dtype", "shape", "payload", "rejection"),
    [
        (CLASS_TOKEN, "F16", [2], bytes(4), Rejection.TENSOR),
        (CLASS_TOKEN, "I32", [2], bytes(8), Rejection.TENSOR),
        (CLASS_TOKEN, "F32", [], bytes(4), Rejection.TENSOR),
        (CLASS_TOKEN, "F32", [0], b"", Rejection.TENSOR),
        (CLASS_TOKEN, "F32", [1, 2], bytes(8), Rejection.TENSOR),
        (
            CLASS_TOKEN,
            "F32",
            [MAX_TOKEN_WIDTH + 1],
            bytes(4 * MAX_TOKEN_WIDTH + 4),
            Rejection.TENSOR,
        ),
        (CLASS_TOKEN, "F32", [2], NAN, Rejection.VALUE),
        (CLASS_TOKEN, "F32", [2], INFINITY, Rejection.VALUE),
        (LOGSNR, "F64", [1, 1, 2], bytes(16), Rejection.TENSOR),
        (LOGSNR, "F32", [2], bytes(8), Rejection.TENSOR),
        (LOGSNR, "F32", [1, 2, 1], bytes(8), Rejection.TENSOR),
        (LOGSNR, "F32", [1, 1, 3], bytes(12), Rejection.TENSOR),
        (LOGSNR, "F32", [1, 1, 2], NAN, Rejection.VALUE),
        (LOGSNR, "F32", [1, 1, 2], INFINITY, Rejection.VALUE),
    ],
)
def test_hostile_companion_is_refused_only_if_requested(
    name: str, dtype: str, shape: list[int], payload: bytes, rejection: Rejection
) -> None:
    record = hostile(name, dtype, shape, payload)
    assert unpack_record(record).latents.shape == (1, 1, 2)
    [other] = set(COMPANIONS) - {name}
    assert unpack_record(record, [other]).latents.shape == (1, 1, 2)
    for asked in (COMPANIONS, [name]):
        with pytest.raises(FormatError, match=name) as caught:
            unpack_record(record, asked)
        assert caught.value.rejection is rejection
    if rejection is Rejection.TENSOR:
        with pytest.raises(FormatError, match=name):
            open_record(record).outline(COMPANIONS)


@pytest.mark.parametrize(
    ("encoded", "rejection"),
    [
        (ALL._replace(class_token=np.zeros((1, 7), np.float32)), Rejection.TENSOR),
        (ALL._replace(class_token=np.zeros(0, np.float32)), Rejection.TENSOR),
        (ALL._replace(class_token=np.full(7, np.nan, np.float32)), Rejection.VALUE),
        (ALL._replace(logsnr=LATENTS[:2]), Rejection.TENSOR),
        (ALL._replace(logsnr=np.full(SHAPE, np.inf, np.float32)), Rejection.VALUE),
    ],
)
def test_companion_that_readers_refuse_is_not_written(
    encoded: Encoded, rejection: Rejection
) -> None:
    with pytest.raises(FormatError) as caught:
        pack(encoded)
    assert caught.value.rejection is rejection
