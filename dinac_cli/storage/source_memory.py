"""Remembers in OUT which state of a source file belongs to its record.

The memory is a cache: without it, sources are hashed again. It is a table on disk, like the cache
of a processor: the key of an entry chooses a bucket of 16 slots. So a lookup reads 1 KiB, a run
needs the same memory for any number of files, and a killed run keeps what it wrote.

Several runs may use one table without locks. An entry says "a file in this state has the content
that the record names"; this stays true, whoever wrote it. A lost or torn entry costs one hash.

The table holds digests only, no names, sizes or times. For an anonymous record, the key is made
from the record's own file, and no digest depends on the name or the content of the source.

An entry also remembers which state of the record met the requirements of which run. If neither the
source nor the record has changed since, a run with the same requirements opens neither file.
"""

from __future__ import annotations

import contextlib
import enum
import os
import stat
import struct
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from io import FileIO

from dinac_cli.errors import OutputError
from dinac_cli.storage.atomic import write_atomically

MEMORY_NAME = ".dinac-sources"
"""The name of the table in OUT. No version of dinac takes it for a record or an input."""

SETTLE_NS = 2 * 10**9
"""A file that changed less than this before it was read is not remembered.

A later change within the resolution of the file system's clock (2 s on FAT) would not show.
"""

_MAGIC = b"DINAC\0sources\0\1\0".ljust(64, b"\0")
_SLOT = struct.Struct("<16s16s8s8sHHH6sI")  # see `_Entry`; then the CRC-32 of the bytes before it
_SLOTS = 16
_BUCKET_BYTES = _SLOTS * _SLOT.size
_FIRST_BUCKETS, _MOST_BUCKETS = 16, 2**22
_EMPTY = bytes(_SLOT.size)
_UNCHECKED = bytes(6)
_DAY_SECONDS = 86400
_REFRESH_DAYS, _KEPT_DAYS = 30, 180
_DEVICE, _INODE = 1, 2


class Recall(enum.Enum):
    """What the memory knows of a source: nothing, the same state, or another one."""

    UNKNOWN = "unknown"
    SAME = "same"
    CHANGED = "changed"


@dataclass(frozen=True)
class Sighting:
    """A source file in one state, beside one record.

    `key` identifies the record, and `content` its source (empty for an anonymous record). `earlier`
    is the key that the record had before it was written again, or None if the key is the same.
    """

    key: bytes
    content: bytes
    status: os.stat_result
    earlier: bytes | None = None

    def follow(self, earlier: Sighting | None) -> Sighting:
        """Returns this sighting as the successor of `earlier`."""
        return self if earlier is None else replace(self, earlier=earlier.key)


@dataclass(frozen=True)
class Standing:
    """A record in one state, and a digest of the requirements that it meets."""

    status: os.stat_result
    wanted: bytes


@dataclass(frozen=True)
class _Entry:
    """One slot: digests of the state, and what is known of it.

    `core` covers size, times and content. `unstable` says which of device and inode differ from run
    to run although the file is the same, as on SMB and FUSE. `day` is the day of the last use.
    `checked` covers the states of the source and of its record, and the requirements that it meets.
    """

    key: bytes
    core: bytes
    device: bytes
    inode: bytes
    unstable: int = 0
    reader: int = 0
    day: int = 0
    checked: bytes = _UNCHECKED

    def pack(self) -> bytes:
        body = _SLOT.pack(*vars(self).values(), 0)[:-4]
        return body + zlib.crc32(body).to_bytes(4, "little")

    def compare(self, other: _Entry) -> int | None:
        """Returns which of device and inode differ; None if more than that differs."""
        if self.core != other.core:
            return None
        return _DEVICE * (self.device != other.device) | _INODE * (self.inode != other.inode)


class SourceMemory:
    """The table of one folder OUT. Used by several threads; close it at the end.

    If `folder` is None, or if the table cannot be read or written, remembers less or nothing: no
    method raises an error. If `read_only` is set, writes nothing.
    """

    def __init__(self, folder: str | None, *, read_only: bool = False) -> None:
        self._folder = folder
        self._read_only = read_only
        self._lock = threading.Lock()
        self._file: FileIO | None = None
        self._open()

    def __enter__(self) -> SourceMemory:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()
            self._file, self._read_only = None, True

    @property
    def remembers(self) -> bool:
        """True if `remember` may remember something."""
        return self._folder is not None and not self._read_only

    @property
    def knows_sources(self) -> bool:
        """True if there is a table, so that `is_current` may be true."""
        return self._file is not None

    def identify(self, target: str, content: str | None, status: os.stat_result) -> Sighting:
        """Returns the sighting of a source in the state `status` beside the record at `target`.

        `content` is the hash of the source in the record; None for an anonymous record. Such a
        record must exist. Raises OSError if its state cannot be read.
        """
        if content is not None:
            return Sighting(self._name_key(target), content.encode(), status)
        return Sighting(_name_by_end(target, os.stat(target)), b"", status)

    def recall(self, sighting: Sighting) -> tuple[Recall, int]:
        """Compares the source with what is remembered.

        Returns also the reader revision for which the source was last judged, or 0.
        """
        entry = _describe(sighting, 0, 0)
        with self._lock, contextlib.suppress(OSError):
            known = self._find(sighting.key)
            if known is None:
                return Recall.UNKNOWN, 0
            differing = known.compare(entry)
            if differing is None or differing & ~known.unstable:
                return Recall.CHANGED, 0
            if _today() - known.day >= _REFRESH_DAYS:
                self._store(replace(known, day=_today()))
            return Recall.SAME, known.reader
        return Recall.UNKNOWN, 0

    def is_current(
        self, target: str, source: os.stat_result, record: Standing, *, anonymous: bool, reader: int
    ) -> bool:
        """True if a record in this state, of a source in this state, met the same requirements.

        `anonymous` says that the record should hold nothing of its source. `reader` is the reader
        revision for which the source must have been judged.
        """
        with self._lock, contextlib.suppress(OSError):
            key = _name_by_end(target, record.status) if anonymous else self._name_key(target)
            known = self._find(key)
            if known is None or known.reader < reader or _today() - known.day >= _REFRESH_DAYS:
                return False
            return known.checked == _digest_both(source, record, known.unstable)
        return False

    def remember(self, sighting: Sighting, reader: int, standing: Standing | None = None) -> None:
        """Remembers that the source in this state belongs to its record.

        `reader` is the reader revision for which the source was judged. `standing` is the record,
        if it meets the requirements of the run. Remembers nothing if the source has just changed.
        """
        if self._folder is None or self._read_only or not is_settled(sighting.status):
            return
        entry = _describe(sighting, reader, _today())
        with self._lock, contextlib.suppress(OSError, OutputError):
            if self._file is None:
                self._create()
            known = self._find(sighting.earlier or sighting.key)
            differing = None if known is None else known.compare(entry)
            if known is not None and differing is not None:
                entry = replace(entry, unstable=known.unstable | differing)
            if standing is not None:
                checked = _digest_both(sighting.status, standing, entry.unstable)
                entry = replace(entry, checked=checked)
            if sighting.earlier not in (None, sighting.key):
                self._erase(sighting.earlier or b"")
            self._store(entry)

    def forget(self, target: str) -> None:
        """Removes the entry whose key is the name of a record: the record is anonymous now."""
        with self._lock, contextlib.suppress(OSError):
            self._erase(self._name_key(target))

    def _name_key(self, target: str) -> bytes:
        folder = self._folder or os.path.dirname(target) or "."
        prefix = os.path.join(folder, "")
        is_below = target.startswith(prefix)
        name = target[len(prefix) :] if is_below else os.path.relpath(target, folder)
        return _digest(16, b"name", os.fsencode(name.replace(os.sep, "/")))

    def _open(self) -> None:
        """Opens the table, if there is one. Ignores a file or link that dinac did not make."""
        path = self._path
        if path is None:
            return
        with contextlib.suppress(OSError):
            if not stat.S_ISREG(os.lstat(path).st_mode):
                return
            try:
                file = _open_file(path, os.O_RDONLY if self._read_only else os.O_RDWR)
            except OSError:  # a read-only OUT: what is remembered still counts
                self._read_only = True
                file = _open_file(path, os.O_RDONLY)
            if _is_table(file):
                self._file = file
            else:
                file.close()
                self._read_only = True

    @property
    def _path(self) -> str | None:
        return None if self._folder is None else os.path.join(self._folder, MEMORY_NAME)

    def _create(self) -> None:
        """Creates an empty table. After a failure, does not try again. Raises OutputError."""
        path = self._path
        assert path is not None
        try:
            empty = _MAGIC + bytes(_FIRST_BUCKETS * _BUCKET_BYTES)
            write_atomically(path, empty, replace=False, is_ours=lambda _: False)
        except OutputError:
            if not os.path.lexists(path):
                self._read_only = True
                raise
        self._open()  # another run may have created the table
        self._read_only = self._read_only or self._file is None

    def _find(self, key: bytes) -> _Entry | None:
        slots = self._read_bucket(self._locate(key, self._count_buckets()))
        at = slots.find(key)
        while at >= 0:
            if at % _SLOT.size == 0:
                for entry in _unpack(slots[at : at + _SLOT.size]):
                    return entry
            at = slots.find(key, at + 1)
        return None

    def _store(self, entry: _Entry) -> None:
        if self._file is None or self._read_only:
            return
        while True:
            buckets = self._count_buckets()
            bucket = self._locate(entry.key, buckets)
            slots = self._read_bucket(bucket)
            number = _choose_slot(slots, entry.key)
            if number is not None or buckets == 0 or not self._grow(buckets):
                break
        if buckets:
            number = entry.key[15] % _SLOTS if number is None else number
            self._write(bucket, number, entry.pack())

    def _erase(self, key: bytes) -> None:
        if self._file is None or self._read_only:
            return
        bucket = self._locate(key, self._count_buckets())
        slots = self._read_bucket(bucket)
        for number in range(len(slots) // _SLOT.size):
            if slots[number * _SLOT.size :][:16] == key:
                self._write(bucket, number, _EMPTY)

    def _count_buckets(self) -> int:
        """The size of the file gives the number of buckets: another run may have enlarged it."""
        if self._file is None:
            return 0
        count = (os.fstat(self._file.fileno()).st_size - len(_MAGIC)) // _BUCKET_BYTES
        return 0 if count < _FIRST_BUCKETS else min(1 << (count.bit_length() - 1), _MOST_BUCKETS)

    @staticmethod
    def _locate(key: bytes, buckets: int) -> int:
        return int.from_bytes(key[:8], "little") % buckets if buckets else 0

    def _read_bucket(self, bucket: int) -> bytes:
        if self._file is None:
            return b""
        self._file.seek(len(_MAGIC) + bucket * _BUCKET_BYTES)
        return self._file.read(_BUCKET_BYTES) or b""

    def _write(self, bucket: int, number: int, data: bytes) -> None:
        assert self._file is not None
        self._file.seek(len(_MAGIC) + bucket * _BUCKET_BYTES + number * _SLOT.size)
        self._file.write(data)

    def _grow(self, buckets: int) -> bool:
        """Doubles the table. The entries of each bucket stay, or move to its new counterpart."""
        if 2 * buckets > _MOST_BUCKETS:
            return False
        assert self._file is not None
        self._write(2 * buckets - 1, _SLOTS - 1, _EMPTY)
        for bucket in range(buckets):
            moved = 0
            slots = self._read_bucket(bucket)
            for number in range(len(slots) // _SLOT.size):
                slot = slots[number * _SLOT.size :][: _SLOT.size]
                if slot != _EMPTY and self._locate(slot[:16], 2 * buckets) != bucket:
                    self._write(bucket + buckets, moved, slot)
                    self._write(bucket, number, _EMPTY)
                    moved += 1
        return True


NO_MEMORY = SourceMemory(None)
"""A memory that remembers nothing."""


def _describe(sighting: Sighting, reader: int, day: int) -> _Entry:
    status = sighting.status
    core = _digest(16, status.st_size, status.st_mtime_ns, status.st_ctime_ns, sighting.content)
    device, inode = (_digest(8, core, value) for value in (status.st_dev, status.st_ino))
    return _Entry(sighting.key, core, device, inode, reader=reader, day=day)


def _digest_both(source: os.stat_result, standing: Standing, unstable: int) -> bytes:
    """Returns a digest of the states of a source and of its record, and of the requirements."""
    record = standing.status
    places = (
        b"" if unstable & _DEVICE else _digest(8, source.st_dev),
        b"" if unstable & _INODE else _digest(8, source.st_ino),
    )
    return _digest(
        6,
        b"checked",
        source.st_size,
        source.st_mtime_ns,
        source.st_ctime_ns,
        *places,
        record.st_size,
        record.st_mtime_ns,
        record.st_ctime_ns,
        record.st_dev,
        record.st_ino,
        standing.wanted,
    )


def _digest(size: int, *parts: int | bytes) -> bytes:
    texts = [part if isinstance(part, bytes) else b"%d" % part for part in parts]
    data = b"".join([b"%d:%b" % (len(text), text) for text in texts])
    return blake2b(data, digest_size=size, person=b"dinac-sources").digest()


def is_settled(status: os.stat_result) -> bool:
    """True if a change from now on gives the file another time. False for pipes and devices."""
    # On Windows, the ctime is the time of creation.
    changed = status.st_mtime_ns if sys.platform == "win32" else status.st_ctime_ns
    return stat.S_ISREG(status.st_mode) and changed < time.time_ns() - SETTLE_NS


def _today() -> int:
    return int(time.time() // _DAY_SECONDS) & 0xFFFF


def _name_by_end(target: str, status: os.stat_result) -> bytes:
    """Returns the key of an anonymous record, made from its own file."""
    return _digest(16, b"record", status.st_size, status.st_mtime_ns, _read_end(target))


def _read_end(path: str) -> bytes:
    """Returns the last bytes of a record. They hold the checksum of its content."""
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 32))
        return file.read()


def _open_file(path: str, flags: int) -> FileIO:
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    flags |= getattr(os, "O_CLOEXEC", 0)
    return FileIO(os.open(path, flags), "r+" if flags & os.O_RDWR else "r")


def _is_table(file: FileIO) -> bool:
    return file.read(len(_MAGIC)) == _MAGIC


def _unpack(slots: bytes) -> Iterator[_Entry]:
    """Yields the valid entries of a bucket."""
    for start in range(0, len(slots) - _SLOT.size + 1, _SLOT.size):
        slot = slots[start : start + _SLOT.size]
        *fields, check = _SLOT.unpack(slot)
        if check and check == zlib.crc32(slot[:-4]):
            yield _Entry(*fields)


def _choose_slot(slots: bytes, key: bytes) -> int | None:
    """Returns the slot of this key, else a free or long unused slot, else None."""
    free = None
    for number in range(len(slots) // _SLOT.size):
        entry = next(_unpack(slots[number * _SLOT.size :][: _SLOT.size]), None)
        if entry is not None and entry.key == key:
            return number
        if free is None and (entry is None or _today() - entry.day > _KEPT_DAYS):
            free = number
    return free
