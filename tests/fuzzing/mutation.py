"""Random damage to bytes, independent of their format."""

from __future__ import annotations

import random

_EDGES = (0, 1, 0x7F, 0x80, 0xFE, 0xFF)


def mutate_bytes(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Flips, sets, cuts, drops, doubles or inserts a few bytes, or splices with `other`."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice(_MUTATORS)(rng, data, other)
    return data


def _flip(rng: random.Random, data: bytes, other: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _flip_early(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Flips bits in the first 64 bytes, which hold headers."""
    return _flip(rng, data[:64], other) + data[64:]


def _set(rng: random.Random, data: bytes, other: bytes) -> bytes:
    changed = bytearray(data)
    if changed:
        changed[rng.randrange(len(changed))] = rng.choice(_EDGES)
    return bytes(changed)


def _set_size(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Changes a number of 2, 4 or 8 bytes, in either byte order, to a large or an adjacent one."""
    width = rng.choice((2, 4, 8))
    if len(data) < width:
        return data
    at = rng.randrange(len(data) - width + 1)
    order = rng.choice(("little", "big"))
    old = int.from_bytes(data[at : at + width], order)  # type: ignore[arg-type]
    new = rng.choice((old + 1, old - 1, old * 2, 1 << (8 * width - 1), -1, 1 << 31, 1 << 30))
    size = (new % (1 << 8 * width)).to_bytes(width, order)  # type: ignore[arg-type]
    return data[:at] + size + data[at + width :]


def _cut(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _drop(rng: random.Random, data: bytes, other: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[at + rng.randint(1, 16) :]


def _double(rng: random.Random, data: bytes, other: bytes) -> bytes:
    start = rng.randrange(len(data) + 1)
    stop = start + rng.randint(1, 64)
    return data[:stop] + data[start:]


def _insert(rng: random.Random, data: bytes, other: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.randint(1, 16)) + data[at:]


def _splice(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


_MUTATORS = (_flip, _flip_early, _set, _set_size, _cut, _drop, _double, _insert, _splice)
