"""Hand-made records that break one rule of the format each, refused by the name of that rule."""

from __future__ import annotations

import io
import json
import struct
from typing import Any

import numpy as np
import pytest
import zstandard

from dinac_cli.container.frame import MAX_CONTENT_BYTES, PREAMBLE
from dinac_cli.container.record import (
    measure_record,
    open_record,
    read_header,
    unpack_record,
)
from dinac_cli.container.zstd import MAX_HEADER_BYTES
from dinac_cli.errors import FormatError, Rejection

from .hand_made import (
    COMPRESSED,
    DESCRIPTOR,
    RAW,
    RESERVED,
    RLE,
    block,
    checksum,
    content_of,
    frame_of,
    head_of,
    metadata,
    plain_content,
    raw_blocks,
    record_of,
    tensor,
)

GOOD_CONTENT = plain_content()
GOOD_FRAME = record_of(GOOD_CONTENT)[len(PREAMBLE) :]
GOOD_CHECK = checksum(GOOD_CONTENT)
BLOCKS = raw_blocks(GOOD_CONTENT)
SIZE = len(GOOD_CONTENT)


def preamble_with(position: int, value: int) -> bytes:
    return PREAMBLE[:position] + bytes([value]) + PREAMBLE[position + 1 :]


def zstd_frame(content: bytes, **parameters: Any) -> bytes:
    chosen = {"write_content_size": 1, "write_checksum": 1, "compression_level": 1} | parameters
    params = zstandard.ZstdCompressionParameters(**chosen)
    return zstandard.ZstdCompressor(compression_params=params).compress(content)


def frame_of_good(descriptor: int = DESCRIPTOR, size: int = SIZE, blocks: bytes = BLOCKS) -> bytes:
    return PREAMBLE + frame_of(blocks, size, GOOD_CHECK, descriptor)


def windowed_frame() -> bytes:
    """Returns a frame that declares a window of 1 KiB for a smaller content."""
    start = b"\x28\xb5\x2f\xfd" + bytes([0b1100_0100, 0])
    return PREAMBLE + start + SIZE.to_bytes(8, "little") + BLOCKS + GOOD_CHECK


def header_json(text: str | bytes) -> bytes:
    return record_of(head_of(text))


def symbols(payload: bytes, size: int, **tensors: Any) -> bytes:
    """Returns a q8 record of `size` values with this payload."""
    meta = metadata(precision="q8", shape=f"[1,1,{size}]", width=str(16 * size))
    return record_of(content_of(payload, meta, **tensors))


def bf16_record(exponents: bytes) -> bytes:
    planes = {
        "latents__exponent": tensor("U8", [1, 1, 2], 0, 2),
        "latents__mantissa": tensor("U8", [1, 1, 2], 2, 4),
    }
    return record_of(content_of(exponents + bytes(2), metadata(precision="bf16"), **planes))


def stepped(step: bytes) -> bytes:
    planes = {
        "latents__step": tensor("F32", [1], 0, 4),
        "latents__q": tensor("I8", [1, 1, 2], 4, 6),
    }
    return symbols(step + bytes(2), 2, **planes)


def with_tensor(entry: Any) -> bytes:
    return record_of(content_of(bytes(8), latents=entry))


def meta_record(meta: Any) -> bytes:
    return record_of(content_of(bytes(8), meta, latents=tensor("F32", [1, 1, 2], 0, 8)))


def changed(**changes: Any) -> bytes:
    return record_of(plain_content(**changes))


def filled(shape: str, rows: int, columns: int) -> bytes:
    """Returns a record of an image that fills `shape`."""
    return changed(shape=shape, height=str(16 * rows), width=str(16 * columns))


PLAIN_ENTRY = tensor("F32", [1, 1, 2], 0, 8)
NAN, INFINITY = struct.pack("<f", np.nan), struct.pack("<f", np.inf)
ONE = struct.pack("<f", 1.0)
LATE_GARBAGE = block(RAW, SIZE - 8, GOOD_CONTENT[:-8], last=False) + block(
    COMPRESSED, 8, b"\xff" * 8
)
JUST_ABOVE_A_GIB = frame_of_good(
    size=MAX_CONTENT_BYTES + SIZE,
    blocks=block(RAW, SIZE, GOOD_CONTENT, last=False)
    + block(RLE, 1 << 17, b"a", last=False) * 8191
    + block(RLE, 1 << 17, b"a"),
)
DICTIONARY_FRAME = b"\x28\xb5\x2f\xfd" + bytes([0b1110_0101, 7])

FRAME_CASES: list[tuple[str, bytes, Rejection]] = [
    ("a picture", b"\x89PNG\r\n\x1a\n" + bytes(100), Rejection.NOT_A_RECORD),
    ("zstd without preamble", GOOD_FRAME, Rejection.NOT_A_RECORD),
    ("other skippable frame", b"\x5e" + PREAMBLE[1:] + GOOD_FRAME, Rejection.NOT_A_RECORD),
    ("preamble of another size", preamble_with(4, 17) + GOOD_FRAME, Rejection.NOT_A_RECORD),
    ("nothing", b"", Rejection.TRUNCATED),
    ("half a preamble", PREAMBLE[:9], Rejection.TRUNCATED),
    ("preamble alone", PREAMBLE, Rejection.TRUNCATED),
    ("no checksum bytes", frame_of_good()[:-4], Rejection.TRUNCATED),
    ("version before the first", preamble_with(14, 0) + GOOD_FRAME, Rejection.VERSION),
    ("next version", preamble_with(14, 2) + GOOD_FRAME, Rejection.VERSION),
    ("next version in the metadata", changed(dinac="2"), Rejection.VERSION),
    ("flags", preamble_with(15, 1) + GOOD_FRAME, Rejection.FLAGS),
    ("first reserved byte", preamble_with(16, 1) + GOOD_FRAME, Rejection.RESERVED),
    ("last reserved byte", preamble_with(23, 255) + GOOD_FRAME, Rejection.RESERVED),
    ("two preambles", PREAMBLE + PREAMBLE + GOOD_FRAME, Rejection.FRAME_HEADER),
    ("reserved descriptor bit", frame_of_good(DESCRIPTOR | 8), Rejection.FRAME_HEADER),
    ("unused descriptor bit", frame_of_good(DESCRIPTOR | 16), Rejection.FRAME_HEADER),
    (
        "no content size",
        PREAMBLE + zstd_frame(GOOD_CONTENT, write_content_size=0),
        Rejection.CONTENT_SIZE,
    ),
    ("more than a GiB", frame_of_good(size=MAX_CONTENT_BYTES + 1), Rejection.CONTENT_SIZE),
    ("just above a GiB", JUST_ABOVE_A_GIB, Rejection.CONTENT_SIZE),
    ("largest number", frame_of_good(size=2**64 - 1), Rejection.CONTENT_SIZE),
    ("more than blocks hold", frame_of_good(size=SIZE + 1), Rejection.CONTENT_SIZE),
    ("a GiB in a few bytes", frame_of_good(size=MAX_CONTENT_BYTES), Rejection.CONTENT_SIZE),
    (
        "less than blocks hold",
        frame_of_good(size=SIZE, blocks=block(RAW, SIZE, bytes(SIZE), last=False) + BLOCKS),
        Rejection.CONTENT_SIZE,
    ),
    ("dictionary", PREAMBLE + DICTIONARY_FRAME + GOOD_FRAME[5:], Rejection.DICTIONARY),
    ("window above the content", windowed_frame(), Rejection.WINDOW),
    (
        "no checksum",
        PREAMBLE + zstd_frame(GOOD_CONTENT, write_checksum=0),
        Rejection.NO_CHECKSUM,
    ),
    ("reserved block", frame_of_good(blocks=block(RESERVED, 1, b"a")), Rejection.BLOCK),
    ("block above the content", frame_of_good(blocks=block(RLE, SIZE + 1, b"a")), Rejection.BLOCK),
    (
        "block above 128 KiB",
        frame_of_good(size=1 << 20, blocks=block(RLE, (1 << 17) + 1, b"a")),
        Rejection.BLOCK,
    ),
    ("empty blocks", frame_of_good(blocks=block(RAW, 0, b"", last=False) * 1000), Rejection.BLOCK),
    ("undecodable block", frame_of_good(blocks=block(COMPRESSED, 9, b"\xff" * 9)), Rejection.BLOCK),
    ("undecodable payload", frame_of_good(blocks=LATE_GARBAGE), Rejection.BLOCK),
    ("checksum", frame_of_good()[:-1] + bytes([GOOD_CHECK[-1] ^ 1]), Rejection.CHECKSUM),
    ("one trailing byte", record_of(GOOD_CONTENT) + b"\0", Rejection.TRAILING),
    ("two records", record_of(GOOD_CONTENT) * 2, Rejection.TRAILING),
]

HEADER_CASES: list[tuple[str, bytes, Rejection]] = [
    ("header above 64 KiB", header_json(b" " * (MAX_HEADER_BYTES + 1)), Rejection.HEADER_SIZE),
    ("endless header", record_of(b"\xff" * 8 + bytes(100)), Rejection.HEADER_SIZE),
    ("header above the content", record_of(head_of("{}")[:-1]), Rejection.HEADER_SIZE),
    ("content of 7 bytes", record_of(bytes(7)), Rejection.HEADER_SIZE),
    ("empty header", record_of(bytes(8)), Rejection.HEADER_JSON),
    ("space before the header", header_json(" {}"), Rejection.HEADER_JSON),
    ("list", header_json("[]"), Rejection.HEADER_JSON),
    ("open brace", header_json("{"), Rejection.HEADER_JSON),
    ("two objects", header_json("{}{}"), Rejection.HEADER_JSON),
    ("not UTF-8", header_json(b'{"\xff":1}'), Rejection.HEADER_JSON),
    ("surrogate in UTF-8", header_json('{"\ud800":1}'), Rejection.HEADER_JSON),
    ("deep lists", header_json('{"a":' + "[" * 60_000), Rejection.HEADER_JSON),
    ("deep objects", header_json('{"a":' * 10_000 + "1" + "}" * 10_000), Rejection.HEADER_JSON),
    ("open string of quotes", header_json('{"' + '\\"' * 32_000), Rejection.HEADER_JSON),
    ("not a number", header_json('{"a":NaN}'), Rejection.HEADER_JSON),
    ("infinity", header_json('{"a":-Infinity}'), Rejection.HEADER_JSON),
    ("fraction", header_json('{"a":1.0}'), Rejection.HEADER_JSON),
    ("exponent", header_json('{"a":1e3}'), Rejection.HEADER_JSON),
    ("leading zero", header_json('{"a":01}'), Rejection.HEADER_JSON),
    ("negative", header_json('{"a":-1}'), Rejection.HEADER_JSON),
    ("negative zero", header_json('{"a":-0}'), Rejection.HEADER_JSON),
    ("16 digits", header_json('{"a":1000000000000000}'), Rejection.HEADER_JSON),
    ("60000 digits", header_json('{"a":' + "9" * 60_000 + "}"), Rejection.HEADER_JSON),
    ("tensor twice", header_json('{"a":{},"a":{}}'), Rejection.DUPLICATE_KEY),
    (
        "metadata key twice",
        header_json('{"__metadata__":{"a":"","\\u0061":""}}'),
        Rejection.DUPLICATE_KEY,
    ),
    ("no metadata", header_json('{"a":{}}'), Rejection.METADATA),
    ("metadata as a list", meta_record([]), Rejection.METADATA),
    ("metadata of numbers", meta_record(metadata() | {"height": 16}), Rejection.METADATA),
    ("metadata of objects", meta_record(metadata() | {"extra": {}}), Rejection.METADATA),
    *[(f"no {key}", changed(**{key: None}), Rejection.METADATA) for key in metadata()],
    ("height of words", changed(height="tall"), Rejection.METADATA),
    ("padded height", changed(height="016"), Rejection.METADATA),
    ("signed height", changed(height="+16"), Rejection.METADATA),
    ("spaced height", changed(height=" 16"), Rejection.METADATA),
    ("newline after the height", changed(height="16\n"), Rejection.METADATA),
    ("other digits", changed(height="\u0661\u0666"), Rejection.METADATA),
    ("16 digits of height", changed(height="1" * 16), Rejection.METADATA),
    ("empty shape", changed(shape=""), Rejection.METADATA),
    ("spaced shape", changed(shape="[1, 1, 2]"), Rejection.METADATA),
    ("flat shape", changed(shape="[1,2]"), Rejection.METADATA),
    ("deep shape", changed(shape="[1,1,1,2]"), Rejection.METADATA),
    ("zero in the shape", changed(shape="[1,0,2]"), Rejection.METADATA),
    ("short identity", changed(weights="a54d88e06612d82"), Rejection.METADATA),
    ("long identity", changed(weights="a54d88e06612d820a"), Rejection.METADATA),
    ("capital identity", changed(latent_space="9F86D081884C7D65"), Rejection.METADATA),
    ("short source hash", changed(source_sha256="2c26b46b"), Rejection.METADATA),
    ("negative source size", changed(source_bytes="-1"), Rejection.METADATA),
    ("escape sequence in the model", changed(model="\x1b[2J"), Rejection.METADATA),
    ("newline in the image", changed(image="a\nb"), Rejection.METADATA),
    ("lone surrogate in the model", changed(model="\ud800"), Rejection.METADATA),
    ("tensor that is a list", with_tensor([]), Rejection.TENSOR),
    ("tensor without dtype", with_tensor({"shape": [1], "data_offsets": [0, 8]}), Rejection.TENSOR),
    ("tensor with more keys", with_tensor(PLAIN_ENTRY | {"order": "F"}), Rejection.TENSOR),
    ("unknown dtype", with_tensor(PLAIN_ENTRY | {"dtype": "F31"}), Rejection.TENSOR),
    ("dtype of another kind", with_tensor(PLAIN_ENTRY | {"dtype": ["F32"]}), Rejection.TENSOR),
    ("shape as a word", with_tensor(PLAIN_ENTRY | {"shape": "112"}), Rejection.TENSOR),
    ("shape with a boolean", with_tensor(PLAIN_ENTRY | {"shape": [True, 1, 2]}), Rejection.TENSOR),
    ("nine axes", with_tensor(PLAIN_ENTRY | {"shape": [1] * 8 + [2]}), Rejection.TENSOR),
    ("one offset", with_tensor(PLAIN_ENTRY | {"data_offsets": [8]}), Rejection.TENSOR),
    ("no offsets", with_tensor(PLAIN_ENTRY | {"data_offsets": None}), Rejection.TENSOR),
    ("tensor of another name", record_of(content_of(bytes(8), z=PLAIN_ENTRY)), Rejection.TENSOR),
    ("flat tensor", with_tensor(tensor("F32", [2], 0, 8)), Rejection.TENSOR),
    ("tensor of another dtype", with_tensor(tensor("I32", [1, 1, 2], 0, 8)), Rejection.TENSOR),
    ("bf16 without planes", changed(precision="bf16"), Rejection.TENSOR),
    ("q8 without symbols", changed(precision="q8"), Rejection.TENSOR),
    ("offsets too long", with_tensor(tensor("F32", [1, 1, 2], 0, 9)), Rejection.LAYOUT),
    ("offsets swapped", with_tensor(tensor("F32", [1, 1, 2], 8, 0)), Rejection.LAYOUT),
    ("shape of 2^120", with_tensor(tensor("U8", [10**14] * 8, 0, 8)), Rejection.LAYOUT),
    ("gap at the start", with_tensor(tensor("F32", [1, 1, 2], 1, 9)), Rejection.LAYOUT),
    (
        "gap between",
        record_of(content_of(bytes(10), latents=PLAIN_ENTRY, z=tensor("U8", [1], 9, 10))),
        Rejection.LAYOUT,
    ),
    (
        "overlap",
        record_of(content_of(bytes(9), latents=PLAIN_ENTRY, z=tensor("U8", [2], 7, 9))),
        Rejection.LAYOUT,
    ),
    ("payload too long", record_of(plain_content(bytes(9))), Rejection.LAYOUT),
    ("payload too short", record_of(plain_content(bytes(7))), Rejection.LAYOUT),
    ("too many channels", changed(shape="[4097,1,2]"), Rejection.SHAPE),
    (
        "too many positions",
        changed(shape="[1,1024,1025]", height="16384", width="16400"),
        Rejection.SHAPE,
    ),
    (
        "too many values",
        changed(shape="[4096,512,512]", height="8192", width="8192"),
        Rejection.SHAPE,
    ),
    ("height of zero", changed(height="0"), Rejection.SHAPE),
    ("height above the patches", changed(height="17"), Rejection.SHAPE),
    ("width a patch too small", changed(width="16"), Rejection.SHAPE),
    ("patch of zero", changed(patch="0"), Rejection.SHAPE),
    ("huge patch", changed(patch="1025"), Rejection.SHAPE),
    ("unknown precision", changed(precision="q9"), Rejection.PRECISION),
    ("unknown predictor", changed(predictor="left"), Rejection.PREDICTOR),
    ("absolute name", changed(name="/etc/passwd"), Rejection.NAME),
    ("name that climbs", changed(name="a/../../b"), Rejection.NAME),
    ("name with NUL", changed(name="a\0b"), Rejection.NAME),
    ("name with a lone surrogate", changed(name="a\udcff"), Rejection.NAME),
]

PAYLOAD_CASES: list[tuple[str, bytes, Rejection]] = [
    ("step of zero", stepped(bytes(4)), Rejection.STEP),
    ("negative step", stepped(struct.pack("<f", -1.0)), Rejection.STEP),
    ("step of NaN", stepped(NAN), Rejection.STEP),
    ("infinite step", stepped(INFINITY), Rejection.STEP),
    ("step that overflows", stepped(struct.pack("<f", 2.0**113)), Rejection.STEP),
    ("NaN", record_of(plain_content(bytes(4) + NAN)), Rejection.VALUE),
    ("infinity", record_of(plain_content(INFINITY + bytes(4))), Rejection.VALUE),
    ("bfloat16 infinity", bf16_record(b"\x80\xff"), Rejection.VALUE),
    (
        "odd tail that is not zero",
        symbols(
            ONE + b"\x88\x81",
            3,
            latents__step=tensor("F32", [1], 0, 4),
            latents__q=tensor("U8", [2], 4, 6),
        ),
        Rejection.VALUE,
    ),
    (
        "two sets of symbols",
        symbols(
            ONE + bytes(4),
            2,
            latents__step=tensor("F32", [1], 0, 4),
            latents__q=tensor("I8", [1, 1, 2], 4, 6),
            latents__q__low=tensor("I8", [1, 1, 2], 6, 8),
        ),
        Rejection.TENSOR,
    ),
    (
        "no step",
        symbols(bytes(2), 2, latents__q=tensor("I8", [1, 1, 2], 0, 2)),
        Rejection.TENSOR,
    ),
    (
        "packed symbols of another size",
        symbols(
            ONE + bytes(3),
            3,
            latents__step=tensor("F32", [1], 0, 4),
            latents__q=tensor("U8", [3], 4, 7),
        ),
        Rejection.TENSOR,
    ),
]

# Block headers are valid in these cases; only the content shows the fault.
NEEDS_CONTENT = {
    "next version in the metadata",
    "undecodable block",
    "undecodable payload",
    "checksum",
}

CASES = FRAME_CASES + HEADER_CASES + PAYLOAD_CASES
by_name = pytest.mark.parametrize(
    ("data", "rejection"), [pytest.param(*case[1:], id=case[0]) for case in CASES]
)


@by_name
def test_record_is_refused_by_the_rule_that_it_breaks(data: bytes, rejection: Rejection) -> None:
    with pytest.raises(FormatError) as caught:
        unpack_record(data)
    assert caught.value.rejection is rejection


@by_name
def test_message_is_one_plain_line(data: bytes, rejection: Rejection) -> None:
    with pytest.raises(FormatError) as caught:
        unpack_record(data)
    message = str(caught.value)
    assert message.isascii()
    assert message.isprintable()
    assert 20 <= len(message) <= 160


@pytest.mark.parametrize(
    ("data", "rejection"), [pytest.param(*case[1:], id=case[0]) for case in HEADER_CASES]
)
def test_invalid_header_is_refused_without_its_payload(data: bytes, rejection: Rejection) -> None:
    with pytest.raises(FormatError) as from_bytes:
        read_header(data)
    with pytest.raises(FormatError) as from_file:
        read_header(io.BytesIO(data))
    assert from_bytes.value.rejection is from_file.value.rejection is rejection


def test_every_rule_has_a_case() -> None:
    assert {rejection for _, _, rejection in CASES} == set(Rejection)


def test_valid_variants_of_the_cases_are_read() -> None:
    for data in (record_of(GOOD_CONTENT), frame_of_good(), stepped(ONE), bf16_record(b"\x80\xfe")):
        assert unpack_record(data).latents.dtype == np.float32


def test_sizes_at_the_limits_are_read() -> None:
    widest = json.dumps({"__metadata__": metadata(), "latents": PLAIN_ENTRY})
    content = head_of(widest.ljust(MAX_HEADER_BYTES)) + bytes(8)
    assert unpack_record(record_of(content)).header.shape == (1, 1, 2)
    meta = metadata(shape="[4096,1,2]")
    most_channels = content_of(
        bytes(1 << 15), meta, latents=tensor("F32", [4096, 1, 2], 0, 1 << 15)
    )
    assert unpack_record(record_of(most_channels)).header.shape == (4096, 1, 2)


def test_unknown_tensors_and_metadata_are_ignored() -> None:
    tensors = {
        "posterior__logsnr": tensor("F16", [1, 2], 0, 4),
        "class_token": tensor("BF16", [0], 4, 4),
        "latents": tensor("F32", [1, 1, 2], 4, 12),
    }
    payload = bytes(4) + np.array([1, -2], "<f4").tobytes()
    meta = metadata(invented="later", name="")
    record = unpack_record(record_of(content_of(payload, meta, **tensors)))
    np.testing.assert_array_equal(record.latents, [[[1, -2]]])
    assert record.header.name == ""


def is_measured(data: bytes) -> bool:
    try:
        return measure_record(io.BytesIO(data)) == len(data)
    except FormatError:
        return False


def test_block_headers_alone_show_whether_a_file_is_whole() -> None:
    for case, data, _ in FRAME_CASES:
        assert is_measured(data) is (case in NEEDS_CONTENT), case
        try:
            opened = open_record(io.BytesIO(data))
        except FormatError:
            continue
        assert opened.is_whole() is (case in NEEDS_CONTENT), case
