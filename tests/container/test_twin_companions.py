"""Class token and log-SNR of the mirrored image: stored, ignored and refused."""

from __future__ import annotations

import io

import numpy as np
import pytest

from dinac_cli.bench.rate import measure_rates
from dinac_cli.container.header import PRECISIONS
from dinac_cli.container.record import open_record, pack_encoded, unpack_record
from dinac_cli.container.tensors import (
    CLASS_TOKEN,
    COMPANIONS,
    FLIPPED,
    LOGSNR,
    MAX_TOKEN_WIDTH,
    Encoded,
)
from dinac_cli.errors import FormatError, Rejection

from .golden_records import FOLDER
from .hand_made import SHAPE, content_of, make_header, make_latents, record_of, steps_for, tensor

WIDTH = 7


def make_image(seed: int) -> Encoded:
    token = make_latents((1, 1, WIDTH), seed + 2).ravel()
    return Encoded(make_latents(SHAPE, seed), 9 * make_latents(SHAPE, seed + 1), token)


UPRIGHT, TWIN = make_image(0), make_image(10)


def pack(upright: Encoded, flipped: Encoded | None, precision: str = "f32") -> bytes:
    return pack_encoded(make_header(SHAPE, precision), upright, steps_for(precision), flipped)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_latents_and_companions_of_both_images_come_back(precision: str) -> None:
    record = pack(UPRIGHT, TWIN, precision)
    assert record == pack(UPRIGHT, TWIN, precision)
    both = unpack_record(record, COMPANIONS, with_twin=True)
    mirrored_alone = unpack_record(pack(TWIN, None, precision), COMPANIONS)
    assert both.flipped is not None
    for name in Encoded._fields:
        np.testing.assert_array_equal(
            getattr(both.flipped, name), getattr(mirrored_alone, name), strict=True
        )
    upright_alone = unpack_record(pack(UPRIGHT, None, precision), COMPANIONS)
    for read in (both, unpack_record(record, COMPANIONS)):
        for name in Encoded._fields:
            np.testing.assert_array_equal(
                getattr(read, name), getattr(upright_alone, name), strict=True
            )


def test_companions_of_the_twin_are_read_only_on_request() -> None:
    record = pack(UPRIGHT, TWIN)
    alone = unpack_record(record, with_twin=True)
    assert alone.flipped is not None
    assert (alone.flipped.logsnr, alone.flipped.class_token) == (None, None)
    token = unpack_record(record, [CLASS_TOKEN], with_twin=True).flipped
    assert token is not None
    assert token.logsnr is None
    np.testing.assert_array_equal(token.class_token, TWIN.class_token)
    assert unpack_record(record, COMPANIONS).flipped is None


def test_outline_and_declared_bytes_cover_both_images() -> None:
    record = pack(UPRIGHT, TWIN)
    own = {LOGSNR: SHAPE, CLASS_TOKEN: (WIDTH,)}
    both = own | {FLIPPED + name: shape for name, shape in own.items()}
    header = make_header(SHAPE, "f32")
    opened = open_record(record)
    assert opened.outline(COMPANIONS) == (header, own, False)
    assert opened.outline(COMPANIONS, with_twin=True) == (header, both, True)
    assert open_record(io.BytesIO(record)).outline((), with_twin=True) == (header, {}, True)
    size = 4 * make_latents(SHAPE).size
    content = opened.declared_bytes() - size
    assert opened.declared_bytes(with_twin=True) == content + 2 * size
    assert opened.declared_bytes(COMPANIONS) == content + 2 * size + 4 * WIDTH
    assert opened.declared_bytes(COMPANIONS, with_twin=True) == content + 4 * size + 8 * WIDTH


def test_rate_counts_the_companions_of_both_images() -> None:
    [rate] = measure_rates([pack(UPRIGHT, TWIN)]).values()
    assert rate.values == 2 * UPRIGHT.latents.size
    assert {name: int(counts.sum()) for name, counts in rate.histograms.items()} == {
        f"{name}.{byte}": 2 * size
        for name, size in (
            ("latents", UPRIGHT.latents.size),
            (LOGSNR, UPRIGHT.latents.size),
            (CLASS_TOKEN, WIDTH),
        )
        for byte in range(4)
    }


def test_golden_record_holds_companions_of_its_twin() -> None:
    record = unpack_record((FOLDER / "reserved.dinac").read_bytes(), COMPANIONS, with_twin=True)
    assert record.flipped is not None
    assert record.flipped.logsnr is not None
    assert (record.flipped.logsnr == 0.75).all()
    assert record.flipped.class_token is not None
    assert record.flipped.class_token.tolist() == [0.75] * 8


def hostile(name: str, dtype: str, shape: list[int], payload: bytes) -> bytes:
    """Returns a record of both images' latents [1, 1, 2], a valid class token [2], and the tensor
    `name` of the mirrored image."""
    end = 24 + len(payload)
    entries = {
        "latents": tensor("F32", [1, 1, 2], 0, 8),
        "flipped__latents": tensor("F32", [1, 1, 2], 8, 16),
        CLASS_TOKEN: tensor("F32", [2], 16, 24),
        "flipped__" + name.replace(".", "__"): tensor(dtype, shape, 24, end),
    }
    return record_of(content_of(bytes(24) + payload, **entries))


NAN, INFINITY = (np.array([0, value], "<f4").tobytes() for value in (np.nan, -np.inf))


@pytest.mark.parametrize(
    ("name", "dtype", "shape", "payload", "rejection"),
    [
        (CLASS_TOKEN, "F16", [2], bytes(4), Rejection.TENSOR),
        (CLASS_TOKEN, "F32", [], bytes(4), Rejection.TENSOR),
        (CLASS_TOKEN, "F32", [0], b"", Rejection.TENSOR),
        (CLASS_TOKEN, "F32", [1, 2], bytes(8), Rejection.TENSOR),
        (CLASS_TOKEN, "F32", [3], bytes(12), Rejection.TENSOR),
        (
            CLASS_TOKEN, "F32", [MAX_TOKEN_WIDTH + 1], bytes(4 * MAX_TOKEN_WIDTH + 4),
            Rejection.TENSOR,
        ),
        (CLASS_TOKEN, "F32", [2], NAN, Rejection.VALUE),
        (CLASS_TOKEN, "F32", [2], INFINITY, Rejection.VALUE),
        (LOGSNR, "F64", [1, 1, 2], bytes(16), Rejection.TENSOR),
        (LOGSNR, "F32", [2], bytes(8), Rejection.TENSOR),
        (LOGSNR, "F32", [1, 1, 3], bytes(12), Rejection.TENSOR),
        (LOGSNR, "F32", [1, 1, 2], NAN, Rejection.VALUE),
        (LOGSNR, "F32", [1, 1, 2], INFINITY, Rejection.VALUE),
    ],
)  # fmt: skip
def test_hostile_companion_of_the_twin_is_refused_only_if_requested(
    name: str, dtype: str, shape: list[int], payload: bytes, rejection: Rejection
) -> None:
    record = hostile(name, dtype, shape, payload)
    assert unpack_record(record, COMPANIONS).flipped is None
    [other] = set(COMPANIONS) - {name}
    assert unpack_record(record, [other], with_twin=True).flipped is not None
    for asked in (COMPANIONS, [name]):
        with pytest.raises(FormatError, match=f"tensor flipped.{name}") as caught:
            unpack_record(record, asked, with_twin=True)
        assert caught.value.rejection is rejection
    if rejection is Rejection.TENSOR:
        opened = open_record(record)
        for read in (opened.outline, opened.declared_bytes):
            with pytest.raises(FormatError, match=f"flipped.{name}"):
                read(COMPANIONS, with_twin=True)


def test_only_one_of_the_images_may_have_companions() -> None:
    for upright, flipped in ((UPRIGHT, Encoded(TWIN.latents)), (Encoded(UPRIGHT.latents), TWIN)):
        read = unpack_record(pack(upright, flipped), COMPANIONS, with_twin=True)
        assert read.flipped is not None
        assert (read.class_token is None) == (upright.class_token is None)
        assert (read.flipped.class_token is None) == (flipped.class_token is None)


@pytest.mark.parametrize(
    ("flipped", "rejection"),
    [
        (TWIN._replace(class_token=np.zeros(WIDTH + 1, np.float32)), Rejection.TENSOR),
        (TWIN._replace(class_token=np.full(WIDTH, np.nan, np.float32)), Rejection.VALUE),
        (TWIN._replace(logsnr=TWIN.latents[:2]), Rejection.TENSOR),
        (TWIN._replace(logsnr=np.full(SHAPE, np.inf, np.float32)), Rejection.VALUE),
        (Encoded(TWIN.latents[:2]), Rejection.SHAPE),
    ],
)
def test_twin_that_readers_refuse_is_not_written(flipped: Encoded, rejection: Rejection) -> None:
    with pytest.raises(FormatError) as caught:
        pack(UPRIGHT, flipped)
    assert caught.value.rejection is rejection
