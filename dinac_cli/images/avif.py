"""Reads what Pillow ignores in an AVIF file: the declared colours and the clean aperture.

An AVIF file is a tree of boxes (ISO/IEC 14496-12). The primary item refers to its properties by
number (ISO/IEC 23008-12). All offsets and counts come from an untrusted file: the reader visits a
bounded number of boxes, and reads only small boxes into memory.
"""

from __future__ import annotations

import io
import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import IO

from dinac_cli.errors import ImageError

_MAX_BOXES = 4096  # per parent; the largest grids in use have a few hundred items
_MAX_BODY_BYTES = 1 << 20
_HEAD_BYTES = 64  # clap has 32 bytes, nclx has 11
_VISUAL_SAMPLE_ENTRY_BYTES = 78  # the fields of `av01` before its boxes

CropBox = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels, before the image is turned."""


@dataclass(frozen=True)
class AvifProperties:
    """Properties of the primary image.

    `nclx` is (primaries, transfer) of ITU-T H.273, and `clap` is the body of the clean aperture
    box. Each is None if the file does not declare it.
    """

    nclx: tuple[int, int] | None = None
    clap: bytes | None = None


@dataclass(frozen=True)
class _Box:
    kind: bytes
    start: int  # of the body
    end: int


def read_properties(file: IO[bytes]) -> AvifProperties:
    """Reads the properties of the primary image. A malformed part counts as not declared."""
    end = file.seek(0, io.SEEK_END)
    top = list(_list_boxes(file, 0, end))
    bodies = [*_list_primary_properties(file, top), *_list_track_properties(file, top)]
    nclx = next((_parse_nclx(body) for kind, body in bodies if _is_nclx(kind, body)), None)
    clap = next((body for kind, body in bodies if kind == b"clap"), None)
    return AvifProperties(nclx, clap)


def find_aperture(clap: bytes, width: int, height: int) -> CropBox:
    """Returns the part of a `width` x `height` image that a clean aperture box keeps.

    Rounds fractions of a pixel to the nearest pixel. Raises ImageError if the aperture is empty or
    lies partly outside the image.
    """
    try:
        numbers = struct.unpack(">IIIIiIiI", clap[:32])
        wide, high, right, down = (Fraction(*numbers[i : i + 2]) for i in range(0, 8, 2))
    except (struct.error, ZeroDivisionError) as exc:
        raise _refuse_aperture() from exc
    left = _round((width - wide) / 2 + right)
    top = _round((height - high) / 2 + down)
    box = (left, top, left + _round(wide), top + _round(high))
    if not (0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height):
        raise _refuse_aperture()
    return box


def _refuse_aperture() -> ImageError:
    return ImageError(
        "damaged AVIF file (its clean aperture lies outside the image); "
        "copy or download it again, or convert the image to PNG"
    )


def _round(value: Fraction) -> int:
    """Rounds half up. `round` would round half to even."""
    return int((value + Fraction(1, 2)) // 1)


def _list_boxes(file: IO[bytes], start: int, end: int) -> Iterator[_Box]:
    """Yields the boxes between two offsets. Stops at the first malformed box."""
    for _ in range(_MAX_BOXES):
        file.seek(start)
        head = file.read(16)
        if end - start < 8 or len(head) < 8:
            return
        size, used = int.from_bytes(head[:4], "big"), 8
        if size == 1:
            size, used = int.from_bytes(head[8:], "big"), 16
        elif size == 0:
            size = end - start
        if not used <= size <= end - start:
            return
        yield _Box(head[4:8], start + used, start + size)
        start += size


def _find(file: IO[bytes], boxes: list[_Box], *path: bytes, skip: int = 0) -> list[_Box]:
    """Returns the boxes inside the first box at `path`. Skips `skip` bytes of that box."""
    found = list(boxes)
    for number, kind in enumerate(path):
        box = next((box for box in found if box.kind == kind), None)
        if box is None:
            return []
        own = skip if number == len(path) - 1 else 0
        found = list(_list_boxes(file, box.start + own, box.end))
    return found


def _read_body(file: IO[bytes], box: _Box) -> bytes:
    if box.end - box.start > _MAX_BODY_BYTES:
        return b""
    file.seek(box.start)
    return file.read(box.end - box.start)


def _read_head(file: IO[bytes], box: _Box) -> bytes:
    """Returns the start of the body. A file may name a large box many times."""
    file.seek(box.start)
    return file.read(min(box.end - box.start, _HEAD_BYTES))


def _list_primary_properties(file: IO[bytes], top: list[_Box]) -> Iterator[tuple[bytes, bytes]]:
    """Yields kind and start of each property of the primary item."""
    meta = _find(file, top, b"meta", skip=4)
    pitm = next((_read_body(file, box) for box in meta if box.kind == b"pitm"), b"")
    primary = int.from_bytes(pitm[4 : 6 if pitm[:1] == b"\0" else 8], "big")
    properties = _find(file, meta, b"iprp", b"ipco")
    for box in _find(file, meta, b"iprp"):
        if box.kind != b"ipma":
            continue
        numbers = _list_associations(_read_body(file, box), primary)
        for number in itertools.islice(numbers, _MAX_BOXES):
            if 1 <= number <= len(properties):
                found = properties[number - 1]
                yield found.kind, _read_head(file, found)


def _list_associations(ipma: bytes, item: int) -> Iterator[int]:
    """Yields the numbers of the properties of `item`, counted from 1."""
    if len(ipma) < 8:
        return
    id_bytes = 4 if ipma[0] else 2
    width = 2 if ipma[3] & 1 else 1
    mask = 0x7FFF if width == 2 else 0x7F  # without the bit `essential`
    at = 8
    for _ in range(int.from_bytes(ipma[4:8], "big")):
        if at + id_bytes >= len(ipma):
            return
        owner, count = int.from_bytes(ipma[at : at + id_bytes], "big"), ipma[at + id_bytes]
        at += id_bytes + 1
        numbers = ipma[at : at + count * width]
        at += count * width
        if owner == item:
            for i in range(0, len(numbers), width):
                yield int.from_bytes(numbers[i : i + width], "big") & mask


def _list_track_properties(file: IO[bytes], top: list[_Box]) -> Iterator[tuple[bytes, bytes]]:
    """Yields kind and start of the boxes that describe the first track of an image sequence."""
    table = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd")
    entries = _find(file, top, *table, skip=8)
    for box in _find(file, entries, b"av01", skip=_VISUAL_SAMPLE_ENTRY_BYTES):
        if box.kind == b"colr":
            yield box.kind, _read_head(file, box)


def _is_nclx(kind: bytes, body: bytes) -> bool:
    return kind == b"colr" and body[:4] == b"nclx" and len(body) >= 8


def _parse_nclx(body: bytes) -> tuple[int, int]:
    primaries, transfer = struct.unpack(">HH", body[4:8])
    return primaries, transfer
