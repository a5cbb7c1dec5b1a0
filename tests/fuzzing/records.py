"""Mutants of latent records, and the checks on reading one."""

from __future__ import annotations

import io
import json
import os
import random
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import zstandard

from dinac_cli.container.frame import PREAMBLE
from dinac_cli.container.record import (
    Record,
    open_record,
    pack_encoded,
    pack_record,
    read_header,
    unpack_record,
)
from dinac_cli.container.stream import read_records
from dinac_cli.container.tensors import COMPANIONS, FLIPPED, Encoded
from dinac_cli.errors import FormatError
from tests.container.hand_made import make_header, make_latents, make_record, steps_for
from tests.fuzzing.mutation import mutate_bytes

CONTENT_SHARE = 0.65
"""The share of mutants with changed content in a valid frame, with the right checksum."""

_SHAPES = ((3, 2, 5), (1, 1, 1), (2, 3, 3), (128, 2, 2))
_PRECISIONS = ("f32", "bf16", "q8", "q6", "q5", "q3")

_NUMBERS = (0, 1, -1, 2, 3, 255, 4096, 4097, 2**20, 2**20 + 1, 2**30, 2**31, 2**53, 2**63, 10**15)
_ODD_NUMBERS = ("1e3", "1.5", "NaN", "Infinity", "-0", "01", "9" * 5000, "0x10", "true", "null")
_TEXTS = ("", " ", "x", "[]", "[1,2,3]", "[1,1,99999999999]", "none", "delta", "f32", "bf16", "q8",
          "q9", "1", "0", "2", "01", "-1", "\u202e", "\ud800", "\0", "a" * 70000)  # fmt: skip
_NAMES = ("../../etc/passwd", "/etc/passwd", "a/../b", "C:\\x", "C:/x", "a\\..\\b", "..", ".", "",
          "a//b", "CON", "nul.png", "a\0b", "x" * 5000, "x/" * 3000, "a.", "a ", "%2e%2e/a", "~/a",
          "é" * 200, "a:b", "COM¹.png", "\n", "-rf")  # fmt: skip
_DTYPES = ("F32", "U8", "I8", "F64", "BF16", "I16", "U64", "BOOL", "F8_E4M3", "X", "", "f32")
_TENSORS = ("latents", "latents.q", "latents.step", "latents.exponent", "latents.mantissa",
            "latents.q.high", "class_token", "posterior.logsnr", "flipped.latents",
            "mask", "flipped.mask", "flipped.class_token", "flipped.posterior.logsnr",
            "__metadata__", "x")  # fmt: skip
_FLOATS = (np.nan, np.inf, -np.inf, 0.0, -1.0, 1e38, 1e-45, 3.4e38)


def list_seeds() -> list[bytes]:
    """Returns valid records of every kind."""
    seeds = [make_record(precision, shape) for precision in _PRECISIONS for shape in _SHAPES]
    for precision in _PRECISIONS:
        header = make_header((3, 2, 5), precision, name="", source_bytes=None, source_sha256=None)
        seeds.append(pack_record(header, make_latents((3, 2, 5)), steps_for(precision)))
    latents, token = make_latents((3, 2, 5)), np.ones(8, np.float32)
    full = Encoded(latents, logsnr=latents, class_token=token)
    alone = Encoded(make_latents((3, 2, 5), 1))
    for precision in _PRECISIONS:
        header, steps = make_header((3, 2, 5), precision), steps_for(precision)
        seeds.append(pack_encoded(header, full, steps))
        seeds.append(pack_encoded(header, alone, steps, alone))
        seeds.append(pack_encoded(header, full, steps, full._replace(latents=alone.latents)))
    return seeds


GOOD = make_record("bf16")


def mutate_record(rng: random.Random, record: bytes, other: bytes) -> tuple[bytes, bool]:
    """Returns a mutant of a record, and whether its frame is valid and only its content damaged."""
    if rng.random() < CONTENT_SHARE:
        content = _take_content(record)
        if content is not None:
            changed = _mutate_content(rng, content, _take_content(other) or b"")
            return frame(changed), True
    return _mutate_frame(rng, record, other), False


def check_record(data: bytes) -> str:
    """Reads a mutant in every way; returns "accepted" or the rule that it broke.

    Any exception but FormatError, and any record that fails a check, is a bug in the reader.
    """
    for item in read_records(io.BytesIO(data + GOOD)):
        assert isinstance(item.record, (bytes, FormatError))
    try:
        header = read_header(data)
    except FormatError:
        header = None
    for companions in ((), COMPANIONS):
        try:
            record = unpack_record(data, companions)
        except FormatError as exc:
            _require_one_line(exc)
            return exc.rejection.value
    assert record.header == header
    assert record.latents.shape == record.header.shape
    assert np.isfinite(record.latents).all()
    _check_companions(record, open_record(data).outline(COMPANIONS).held)
    _check_twin(data)
    name = record.header.name
    if name:
        place = os.path.normpath(os.path.join("/out", *name.split("/")))
        assert place.startswith("/out/")
        assert "\\" not in name
        assert "\0" not in name
    return "accepted"


def _check_twin(data: bytes) -> None:
    """Reads the mirrored image of a record whose upright image is valid."""
    for companions in ((), COMPANIONS):
        try:
            twin = unpack_record(data, companions, with_twin=True).flipped
        except FormatError as exc:
            _require_one_line(exc)
            return
    outline = open_record(data).outline(COMPANIONS, with_twin=True)
    assert (twin is not None) == outline.has_twin
    if twin is not None:
        assert twin.latents.shape == outline.header.shape
        assert np.isfinite(twin.latents).all()
        _check_companions(twin, outline.held, FLIPPED)


def _check_companions(
    image: Record | Encoded, held: Mapping[str, tuple[int, ...]], prefix: str = ""
) -> None:
    for name, values in zip(COMPANIONS, (image.logsnr, image.class_token), strict=True):
        assert (values is not None) == (prefix + name in held)
        assert values is None or values.shape == held[prefix + name]
        assert values is None or np.isfinite(values).all()


def _require_one_line(exc: FormatError) -> None:
    assert "\n" not in str(exc)


def count_declared_bytes(data: bytes) -> int:
    """Returns the content size in bytes that a record's frame declares; 0 if it declares none."""
    try:
        size = zstandard.get_frame_parameters(data[len(PREAMBLE) :]).content_size
    except zstandard.ZstdError:
        return 0
    return size if 0 <= size <= 1 << 30 else 0


def frame(content: bytes) -> bytes:
    """Returns a whole record around `content`, with the right size and checksum."""
    compressor = zstandard.ZstdCompressor(level=1, write_checksum=True, write_content_size=True)
    return PREAMBLE + compressor.compress(content)


def rename_record(record: bytes, name: str) -> bytes:
    """Returns a valid record with another name of its source, or one if it has none."""
    content = _take_content(record)
    assert content is not None
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"]["name"] = name
    text = json.dumps(header, separators=(",", ":"), sort_keys=True).encode()
    return frame(len(text).to_bytes(8, "little") + text + content[8 + size :])


def _take_content(record: bytes) -> bytes | None:
    try:
        parameters = zstandard.get_frame_parameters(record[len(PREAMBLE) :])
        if parameters.content_size > 1 << 24:
            return None
        return zstandard.ZstdDecompressor().decompress(record[len(PREAMBLE) :])
    except (zstandard.ZstdError, MemoryError):
        return None


def _mutate_content(rng: random.Random, content: bytes, other: bytes) -> bytes:
    size = int.from_bytes(content[:8], "little")
    text, payload = content[8 : 8 + size], content[8 + size :]
    kind = rng.random()
    if kind < 0.55:
        text = _mutate_header(rng, text)
    elif kind < 0.65:
        text = mutate_bytes(rng, text, other)
    elif kind < 0.8:
        payload = _mutate_payload(rng, payload)
    elif kind < 0.85:
        return mutate_bytes(rng, content, other)
    else:
        text = _replace_header(rng, text)
    if rng.random() < 0.1:
        payload = rng.choice((payload[: rng.randrange(len(payload) + 1)], payload + bytes(7), b""))
    length = len(text)
    if rng.random() < 0.08:
        length = rng.choice((0, 1, length - 1, length + 1, 65537, 1 << 31, (1 << 64) - 1))
    return (length % (1 << 64)).to_bytes(8, "little") + text + payload


def _mutate_header(rng: random.Random, text: bytes) -> bytes:
    """Changes a few values of the JSON; mostly keeps it valid JSON."""
    try:
        header = json.loads(text)
        assert isinstance(header, dict)
    except (ValueError, AssertionError, RecursionError):
        return mutate_bytes(rng, text, text)
    for _ in range(rng.choice((1, 1, 2, 3))):
        _change_entry(rng, header)
    written = json.dumps(header, separators=(",", ":"), sort_keys=True)
    if rng.random() < 0.15:  # numbers that json.dumps does not write
        digits = [i for i, char in enumerate(written) if char.isdigit()]
        if digits:
            at = rng.choice(digits)
            written = written[:at] + rng.choice(_ODD_NUMBERS) + written[at + 1 :]
    if rng.random() < 0.05:
        written = written[:-1] + "," + written[1:]  # repeats every key
    return written.encode("utf-8", "surrogatepass") + b" " * rng.choice((0, 0, 7, 66000))


def _change_entry(rng: random.Random, header: dict[str, Any]) -> None:
    metadata = header.get("__metadata__")
    tensors = [name for name in header if name != "__metadata__"]
    kind = rng.random()
    if kind < 0.5 and isinstance(metadata, dict) and metadata:
        key = rng.choice(sorted(metadata))
        values = (rng.choice(_TEXTS), str(rng.choice(_NUMBERS)), rng.choice(_NAMES))
        metadata[key] = rng.choice(values)
        if key == "shape" and rng.random() < 0.7:
            metadata[key] = "[{},{},{}]".format(*(rng.choice(_NUMBERS) for _ in range(3)))
        if rng.random() < 0.2:
            del metadata[key]
    elif kind < 0.6 and isinstance(metadata, dict):
        metadata["name"] = rng.choice(_NAMES)
    elif kind < 0.9 and tensors:
        name = rng.choice(tensors)
        entry = header[name]
        if isinstance(entry, dict):
            key = rng.choice(("dtype", "shape", "data_offsets"))
            pool: tuple[Any, ...] = (
                rng.choice(_DTYPES),
                [rng.choice(_NUMBERS) for _ in range(rng.choice((0, 1, 2, 3, 9)))],
                None,
                {"a": [[]]},
            )
            entry[key] = rng.choice(pool)
    elif tensors:
        header[rng.choice(_TENSORS)] = header.pop(rng.choice(tensors))
    else:
        header["__metadata__"] = rng.choice((None, [], {}, {"dinac": 1}))


def _replace_header(rng: random.Random, text: bytes) -> bytes:
    """Returns a header that is deeply nested, huge, or not an object."""
    depth = rng.choice((4, 100, 10_000, 30_000))
    return rng.choice(
        (
            b'{"a":' * depth + b"1" + b"}" * depth,
            b"{" + b'"a":' + b"[" * depth + b"]" * depth + b"}",
            b"{" + b",".join(b'"%d":{}' % i for i in range(3000)) + b"}",
            b"[]",
            b"null",
            b"",
            b"{}" + b" " * 65534,
            b'{"__metadata__":{' + text[17:],
            text.replace(b'"', b"'"),
            b"\xef\xbb\xbf" + text,
            text.decode("latin-1").encode("utf-16"),
        )
    )


def _mutate_payload(rng: random.Random, payload: bytes) -> bytes:
    if len(payload) < 4 or rng.random() < 0.4:
        return mutate_bytes(rng, payload, payload)
    at = rng.randrange(len(payload) // 4) * 4
    return payload[:at] + struct.pack("<f", rng.choice(_FLOATS)) + payload[at + 4 :]


def _mutate_frame(rng: random.Random, record: bytes, other: bytes) -> bytes:
    kind = rng.random()
    if kind < 0.15:
        return _make_bomb(rng, record)
    if kind < 0.5:
        start = len(PREAMBLE)
        return record[:start] + mutate_bytes(rng, record[start:], other[start:])
    if kind < 0.55:
        return record + other[: rng.randrange(len(other) + 1)]
    return mutate_bytes(rng, record, other)


def _make_bomb(rng: random.Random, record: bytes) -> bytes:
    """Returns a small record that declares or holds a large content: run-length blocks, large
    sizes and windows."""
    declared = rng.choice((1 << 16, 1 << 22, 1 << 26, 1 << 30, (1 << 30) + 1, 1 << 40, 1 << 63))
    descriptor = rng.choice((0xE4, 0xC4, 0xC0, 0xE0, 0xE5, 0xE7, 0xEC))
    window = bytes([rng.randrange(256)]) if not descriptor & 0x20 else b""
    head = PREAMBLE + b"\x28\xb5\x2f\xfd" + bytes([descriptor]) + window
    head += declared.to_bytes(8, "little")
    content = _take_content(record) or b""
    first = content[: 8 + int.from_bytes(content[:8], "little")][: 1 << 17]
    blocks = [_block(0, len(first), first)] if rng.random() < 0.7 else []
    blocks += [_block(1, 1 << 17, b"\0")] * rng.choice((0, 1, 8, 64, 512))
    blocks += [_block(rng.choice((0, 1, 2, 3)), rng.choice((0, 1, 1 << 17, 0x1FFFFF)), b"\0", 1)]
    return head + b"".join(blocks) + rng.randbytes(4)


def _block(kind: int, size: int, body: bytes, last: int = 0) -> bytes:
    return (size << 3 | kind << 1 | last).to_bytes(3, "little") + body
