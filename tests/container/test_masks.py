"""A mask is stored beside the latents, and readers that do not know it read the latents."""

from __future__ import annotations

import json

import numpy as np
import pytest
import zstandard

from dinac_cli.container.record import open_record, pack_encoded, pack_record, unpack_record
from dinac_cli.container.tensors import ALL_COMPANIONS, COMPANIONS, FLIPPED, MASK, Encoded, Mask
from dinac_cli.errors import FormatError, Rejection

from .hand_made import SHAPE, content_of, make_header, make_latents, record_of, steps_for, tensor

LATENTS = make_latents(SHAPE)
OWN = np.arange(10, dtype=np.uint8).reshape(2, 5)
MIRRORED = OWN[:, ::-1].copy()


def pack(mask: Mask | None, precision: str = "bf16", twin: Mask | None = None) -> bytes:
    flipped = None if twin is None else Encoded(LATENTS + 1, mask=twin)
    encoded = Encoded(LATENTS, make_latents(SHAPE, 1), mask=mask)
    return pack_encoded(make_header(SHAPE, precision), encoded, steps_for(precision), flipped)


@pytest.mark.parametrize("precision", ["f32", "bf16", "q5"])
def test_masks_come_back_and_own_their_memory(precision: str) -> None:
    record = unpack_record(pack(OWN, precision, MIRRORED), ALL_COMPANIONS, with_twin=True)
    assert record.flipped is not None
    for read, stored in ((record.mask, OWN), (record.flipped.mask, MIRRORED)):
        assert read is not None
        assert read.base is None
        np.testing.assert_array_equal(read, stored, strict=True)


def test_mask_is_read_only_on_request() -> None:
    record = pack(OWN)
    assert unpack_record(record, COMPANIONS).mask is None
    alone = unpack_record(record, [MASK])
    assert alone.logsnr is None
    np.testing.assert_array_equal(alone.mask, OWN)
    assert unpack_record(pack(None), ALL_COMPANIONS).mask is None
    opened = open_record(pack(OWN, twin=MIRRORED))
    assert opened.outline([MASK], with_twin=True).held == {MASK: (2, 5), FLIPPED + MASK: (2, 5)}
    assert opened.declared_bytes([MASK]) == opened.declared_bytes() + 10


def test_reader_of_version_1_passes_over_a_mask() -> None:
    """Reads a record by FORMAT.md: the listed tensors by name, without gaps, and no others."""
    data = pack(OWN, twin=MIRRORED)
    plain = pack_record(make_header(SHAPE), LATENTS)
    assert data[:24] == plain[:24]
    content = zstandard.ZstdDecompressor().decompress(data[24:])
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    assert header.pop("__metadata__")["dinac"] == "1"
    spans = sorted(entry["data_offsets"] for entry in header.values())
    assert [end for _, end in spans[:-1]] == [begin for begin, _ in spans[1:]]
    assert spans[0][0] == 0
    assert 8 + size + spans[-1][1] == len(content)
    planes = [
        np.frombuffer(content, np.uint8, 30, 8 + size + header[name]["data_offsets"][0])
        for name in ("latents.exponent", "latents.mantissa")
    ]
    rotated = planes[0].astype(np.uint32) << 8 | planes[1]
    latents = (rotated << 15 & 0x7FFF0000 | rotated << 31).view(np.float32).reshape(SHAPE)
    np.testing.assert_array_equal(latents, unpack_record(plain).latents)


@pytest.mark.parametrize(
    ("dtype", "shape", "payload"),
    [("F32", [1, 2], bytes(8)), ("I8", [1, 2], bytes(2)), ("U8", [2], bytes(2)),
     ("U8", [2, 1], bytes(2)), ("U8", [1, 1, 2], bytes(2)), ("U8", [1, 3], bytes(3))],
)  # fmt: skip
def test_hostile_mask_is_refused_only_if_requested(
    dtype: str, shape: list[int], payload: bytes
) -> None:
    end = 8 + len(payload)
    entries = {
        "latents": tensor("F32", [1, 1, 2], 0, 8),
        "flipped__latents": tensor("F32", [1, 1, 2], end, end + 8),
    }
    for prefix, with_twin in (("", False), ("flipped__", True)):
        hostile = {**entries, f"{prefix}mask": tensor(dtype, shape, 8, end)}
        record = record_of(content_of(bytes(8) + payload + bytes(8), **hostile))
        assert unpack_record(record, COMPANIONS, with_twin=True).flipped is not None
        with pytest.raises(FormatError, match=f"tensor {prefix.replace('__', '.')}mask") as caught:
            unpack_record(record, [MASK], with_twin=with_twin)
        assert caught.value.rejection is Rejection.TENSOR


def test_mask_of_another_shape_is_not_written() -> None:
    with pytest.raises(FormatError, match=r"tensor mask has shape \[5, 2\], not \[2, 5\]"):
        pack(OWN.T)
