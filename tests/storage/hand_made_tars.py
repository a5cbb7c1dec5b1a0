"""Tars built block by block, so that each test controls every byte."""

from __future__ import annotations

from collections.abc import Mapping

BLOCK = 512
END = bytes(2 * BLOCK)


def make_header(
    name: bytes | str = "a.jpg",
    size: int | bytes = 0,
    kind: bytes = b"0",
    fields: Mapping[int, bytes] | None = None,
    *,
    signed: bool = False,
) -> bytes:
    """Returns a ustar header block with the right checksum.

    `size` is a number or the 12 bytes of its field; `fields` maps offsets to other bytes.
    `signed` adds bytes above 127 as negative numbers, as old tars did.
    """
    block = bytearray(BLOCK)
    raw = name.encode() if isinstance(name, str) else name
    places = {
        0: raw,
        100: b"0000644\0" + b"0000000\0" * 2,
        124: b"%011o\0" % size if isinstance(size, int) else size,
        136: b"00000000000\0" + b" " * 8 + kind,
        257: b"ustar\x0000",
        **(fields or {}),
    }
    for at, data in places.items():
        block[at : at + len(data)] = data
    total = sum(byte - 256 if signed and byte > 127 else byte for byte in block)
    block[148:156] = b"%06o\0 " % total
    return bytes(block)


def pad(data: bytes) -> bytes:
    """Returns data with zeros up to a whole block."""
    return data + bytes(-len(data) % BLOCK)


def make_member(name: bytes | str = "a.jpg", data: bytes = b"x", kind: bytes = b"0") -> bytes:
    """Returns a header and its data."""
    return make_header(name, len(data), kind) + pad(data)


def make_pax(fields: Mapping[str, str] | bytes, kind: bytes = b"x") -> bytes:
    """Returns an extended header. `fields` are its records or their bytes."""
    data = fields
    if not isinstance(data, bytes):
        data = b"".join(make_record(key, value) for key, value in data.items())
    return make_member("pax", data, kind)


def make_record(key: str, value: str) -> bytes:
    """Returns a record of an extended header. Its length counts its own digits."""
    rest = f" {key}={value}\n".encode()
    size = len(rest) + len(str(len(rest)))
    size += len(str(size)) + len(rest) - size
    return str(size).encode() + rest
