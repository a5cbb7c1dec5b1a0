"""Writes zip archives whose bytes depend only on their members."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from typing import BinaryIO

_LOCAL_FILE = struct.Struct("<4s5H3I2H")
_CENTRAL_FILE = struct.Struct("<4s6H3I5H2I")
_ZIP64_END = struct.Struct("<4sQ2H2I4Q")
_ZIP64_LOCATOR = struct.Struct("<4sIQI")
END = struct.Struct("<4s4H2IH")
"""The last record of an archive; the comment follows."""

_END_SIGNATURE = b"PK\5\6"
_VERSION, _ZIP64_VERSION, _UNIX = 20, 45, 3 << 8
_MIDNIGHT, _FIRST_DAY = 0, 1 << 5 | 1  # 1 January 1980
_MODE = 0o100644 << 16
_ZIP64_TAG = 1
_MOST_EXTRA = 28  # a tag, a length, and two sizes and a place of 8 bytes
_MAX_16, _MAX_32 = 0xFFFF, 0xFFFFFFFF  # in a field, these say that ZIP64 has the value
_MOST_16, _MOST_32 = _MAX_16 - 1, _MAX_32 - 1


class ZipWriter:
    """Writes an archive to `write`, without compression; every member has the same date.

    Uses ZIP64 where sizes, offsets or the number of members need it. Needs about 20 bytes of memory
    per member, because the directory at the end of the archive is kept compressed; Python's
    `zipfile` needs some 380, which is half a gigabyte for a set like ImageNet.
    """

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._position = 0
        self._count = 0
        self._packer = zlib.compressobj(1)
        self._packed: list[bytes] = []

    def add(self, name: str, data: bytes) -> None:
        """Adds a member. `name` is ASCII."""
        place, size, checksum = self._position, len(data), zlib.crc32(data)
        shown = _show_32(size)
        large = struct.pack("<2Q", size, size) if size > _MOST_32 else b""
        common = (0, 0, _MIDNIGHT, _FIRST_DAY, checksum, shown, shown, len(name))
        extra = _pack_extra(large)
        version = _ZIP64_VERSION if extra else _VERSION
        head = _LOCAL_FILE.pack(b"PK\3\4", version, *common, len(extra))
        self._put(head + name.encode("ascii") + extra)
        self._put(data)
        if place > _MOST_32:
            large += struct.pack("<Q", place)
        extra = _pack_extra(large)
        version = _ZIP64_VERSION if extra else _VERSION
        entry = _CENTRAL_FILE.pack(
            *(b"PK\1\2", _UNIX | version, version, *common, len(extra)),
            *(0, 0, 0, _MODE, _show_32(place)),
        )
        self._keep(self._packer.compress(entry + name.encode("ascii") + extra))
        self._count += 1

    def finish(self, make_comment: Callable[[], bytes] = bytes) -> None:
        """Writes the directory and the end of the archive.

        `make_comment` returns the comment, of at most 65,535 bytes. It is called when all bytes
        before the record `END` have been written.
        """
        self._keep(self._packer.flush())
        start, unpacker = self._position, zlib.decompressobj()
        for piece in self._packed:
            self._put(unpacker.decompress(piece))
        size = self._position - start
        if self._count > _MOST_16 or max(size, start) > _MOST_32:
            self._put_zip64_end(start, size)
        comment = make_comment()
        counts = (self._count if self._count <= _MOST_16 else _MAX_16,) * 2
        place = _show_32(size), _show_32(start)
        self._put(END.pack(_END_SIGNATURE, 0, 0, *counts, *place, len(comment)) + comment)

    def _put_zip64_end(self, start: int, size: int) -> None:
        place, rest = self._position, _ZIP64_END.size - 12
        versions = _UNIX | _ZIP64_VERSION, _ZIP64_VERSION
        counts = self._count, self._count
        end = _ZIP64_END.pack(b"PK\6\6", rest, *versions, 0, 0, *counts, size, start)
        self._put(end + _ZIP64_LOCATOR.pack(b"PK\6\7", 0, place, 1))

    def _put(self, data: bytes) -> None:
        self._write(data)
        self._position += len(data)

    def _keep(self, packed: bytes) -> None:
        if packed:
            self._packed.append(packed)


def _show_32(value: int) -> int:
    return value if value <= _MOST_32 else _MAX_32


def _pack_extra(values: bytes) -> bytes:
    return struct.pack("<2H", _ZIP64_TAG, len(values)) + values if values else b""


def count_members(file: BinaryIO, end: int) -> int:
    """Returns the number of members of an archive of `ZipWriter`; its record `END` is at `end`.

    Raises OSError, ValueError or struct.error for an archive of another program.
    """
    file.seek(end)
    count = int(END.unpack(file.read(END.size))[4])
    if count < _MAX_16:
        return count
    file.seek(end - _ZIP64_LOCATOR.size - _ZIP64_END.size)
    return int(_ZIP64_END.unpack(file.read(_ZIP64_END.size))[7])


def read_last_member(file: BinaryIO, end: int, name: str) -> bytes:
    """Returns the last member of an archive of `ZipWriter`, without reading the whole directory.

    The record `END` of the archive is at `end`, and `name` is the name of the member. Raises
    OSError, ValueError or struct.error for an archive of another program.
    """
    place, size = _find_last_member(file, end, name.encode("ascii"))
    file.seek(place)
    head = _LOCAL_FILE.unpack(file.read(_LOCAL_FILE.size))
    file.seek(sum(head[-2:]), os.SEEK_CUR)
    return file.read(size)


def _find_last_member(file: BinaryIO, end: int, name: bytes) -> tuple[int, int]:
    """Returns the place and the size of the last member."""
    longest = _CENTRAL_FILE.size + len(name) + _MOST_EXTRA + _ZIP64_END.size + _ZIP64_LOCATOR.size
    file.seek(max(0, end - longest))
    tail = file.read(end - file.tell())
    start = tail.rindex(name) - _CENTRAL_FILE.size
    entry = _CENTRAL_FILE.unpack_from(tail, start)
    size, place = entry[9], entry[-1]
    extra = start + _CENTRAL_FILE.size + len(name)
    if size == _MAX_32:  # the first value after a tag and a length
        size = struct.unpack_from("<Q", tail, extra + 4)[0]
    if place == _MAX_32:  # the last value
        place = struct.unpack_from("<Q", tail, extra + entry[11] - 8)[0]
    return place, size
