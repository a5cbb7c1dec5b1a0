"""Builds records byte by byte: valid ones, and invalid ones by changing a single part."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import zstandard

from dinac_cli.container.frame import PREAMBLE
from dinac_cli.container.header import RecordHeader
from dinac_cli.container.record import pack_record

SHAPE = (3, 2, 5)

RAW, RLE, COMPRESSED, RESERVED = range(4)

# 8-byte content size, single segment (no window field), checksum, no dictionary
DESCRIPTOR = 0b1110_0100


def make_header(
    shape: tuple[int, int, int], precision: str = "bf16", **changes: Any
) -> RecordHeader:
    """Returns a header for an image one pixel smaller per side than `shape` covers."""
    _, rows, columns = shape
    values = {
        "shape": shape,
        "height": rows * 16 - 1,
        "width": columns * 16 - 1,
        "patch": 16,
        "latent_space": "9f86d081884c7d65",
        "weights": "a54d88e06612d820",
        "precision": precision,
        "name": "trip/a.jpg",
        "model": "nano",
        "revision": "1",
        "compute": "cpu/bf16",
        "created_by": "dinac-cli 0.1.0",
        "image": "orientation=applied;color=srgb;alpha=none;frame=1/1",
        "source_bytes": 51244,
        "source_sha256": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
    }
    return RecordHeader(**{**values, **changes})


def make_latents(shape: tuple[int, int, int], seed: int = 0) -> npt.NDArray[np.float32]:
    """Returns unit normal latents, like a model's."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def steps_for(precision: str, channels: int = SHAPE[0]) -> npt.NDArray[np.float32] | None:
    """Returns steps that give wide symbols at q8, bytes at q7 to q5, packed ones at q4 and q3."""
    step = {"q3": 1.0, "q4": 0.5, "q8": 0.001}.get(precision, 0.1)
    return np.full(channels, step, np.float32) if precision.startswith("q") else None


def make_record(precision: str, shape: tuple[int, int, int] = SHAPE) -> bytes:
    """Returns a valid record of `make_latents`."""
    latents = make_latents(shape)
    return pack_record(make_header(shape, precision), latents, steps_for(precision, shape[0]))


def metadata(**changes: str | None) -> dict[str, Any]:
    """Returns the minimal metadata of a 1x1x2 float32 record; None removes a key."""
    values: dict[str, str | None] = {
        "dinac": "1",
        "shape": "[1,1,2]",
        "height": "16",
        "width": "32",
        "patch": "16",
        "latent_space": "9f86d081884c7d65",
        "weights": "a54d88e06612d820",
        "precision": "f32",
        "predictor": "none",
    }
    return {key: value for key, value in {**values, **changes}.items() if value is not None}


def tensor(dtype: str, shape: list[Any], begin: Any, end: Any) -> dict[str, Any]:
    """Returns one tensor's header entry."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def head_of(text: str | bytes) -> bytes:
    """Returns a safetensors header of this text."""
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return len(raw).to_bytes(8, "little") + raw


def content_of(payload: bytes, meta: Any = None, **tensors: Any) -> bytes:
    """Returns a record's content; tensor names have `__` for a dot."""
    entries = {"__metadata__": metadata() if meta is None else meta}
    entries |= {name.replace("__", "."): entry for name, entry in tensors.items()}
    return head_of(json.dumps(entries)) + payload


def plain_content(payload: bytes = bytes(8), **changes: str | None) -> bytes:
    """Returns the content of a 1x1x2 float32 record with changed metadata."""
    return content_of(payload, metadata(**changes), latents=tensor("F32", [1, 1, 2], 0, 8))


def block(kind: int, size: int, body: bytes, last: bool = True) -> bytes:
    """Returns one zstd block."""
    return (size << 3 | kind << 1 | int(last)).to_bytes(3, "little") + body


def raw_blocks(content: bytes, size: int = 1 << 17) -> bytes:
    """Returns content as raw zstd blocks."""
    starts = range(0, len(content), size)
    parts = [content[start : start + size] for start in starts]
    return b"".join(
        block(RAW, len(part), part, last=number == len(parts) - 1)
        for number, part in enumerate(parts)
    )


def checksum(content: bytes) -> bytes:
    """Returns the 4 bytes that end a zstd frame with this content."""
    return zstandard.ZstdCompressor(write_checksum=True).compress(content)[-4:]


def frame_of(blocks: bytes, content_size: int, check: bytes, descriptor: int = DESCRIPTOR) -> bytes:
    """Returns a zstd frame; its parts may contradict each other."""
    start = b"\x28\xb5\x2f\xfd" + bytes([descriptor])
    return start + content_size.to_bytes(8, "little") + blocks + check


def record_of(content: bytes, preamble: bytes = PREAMBLE) -> bytes:
    """Returns a record of this content in raw blocks."""
    return preamble + frame_of(raw_blocks(content), len(content), checksum(content))
