"""Reads and writes tars one member at a time, from files that need not be seekable.

tarfile does not serve for hostile or damaged input: it takes a tar that was cut between two members
for a complete one, and it reads extended headers of any declared size into memory. It also needs
several times longer per member. The reader is therefore dinac's own; tarfile makes the headers.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

from dinac_cli.container.names import escape_name, find_name_fault
from dinac_cli.errors import ArchiveError
from dinac_cli.storage.content import MAX_INPUT_BYTES
from dinac_cli.storage.naming import LATENT_SUFFIX, NameSet

MAX_EXTENDED_BYTES = 2**16
"""The size limit of an extended header (PAX, or a GNU long name). Paths have at most 4 KiB."""

MAX_EXTENDED_HEADERS = 4
"""The most extended headers of one member. GNU and PAX tars have up to three."""

MAX_MEMBERS = 10_000_000
"""The most members of a tar: 1,000 times a usual shard. Their names take 128 MiB of memory."""

MAX_ARCHIVE_BYTES = 2**50
"""A member that declares more is a damaged header: no disk or bucket holds a file of 1 PiB."""

MAX_END_BYTES = 2**20
"""The most zeros after the last member. More zeros are a hole in a file that was not written to
its end: the members that belong there are lost."""

MAX_SAMPLE_BYTES = MAX_INPUT_BYTES
"""The size limit of all files of a sample together, which are in memory at the same time."""

MAX_SAMPLE_FILES = 1000
"""The most files of a sample."""

_BLOCK = 512
_RECORD_BYTES = 20 * _BLOCK
_PIECE_BYTES = 2**20

_FILE_TYPES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_PAX_TYPES = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE)
_LONG_TYPES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_EXTENDED_TYPES = (*_PAX_TYPES, *_LONG_TYPES)
# No data follows these headers, whatever size they declare.
_OTHER_TYPES = {
    tarfile.LNKTYPE: "a hard link, not a file; pack the file itself: tar --hard-dereference",
    tarfile.SYMTYPE: "a link, not a file; pack the file itself: tar --dereference",
    tarfile.CHRTYPE: "a device, not a file; leave it out of the tar",
    tarfile.BLKTYPE: "a device, not a file; leave it out of the tar",
    tarfile.FIFOTYPE: "a named pipe, not a file; leave it out of the tar",
}
_SPARSE = "a sparse file; pack it without tar --sparse"
_SPARSE_KEY = "GNU.sparse."

_PAX_RECORD = re.compile(rb"([0-9]{1,6}) ([^=\n]+)=")
_NUMBER = re.compile("[0-9]{1,20}")
_OCTAL = re.compile(b"[0-7]*")
_MAGICS = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x04\x22\x4d\x18": "lz4",
}
_NO_NAME = "(no name)"

_META = re.compile("__[^/]*__(/|$)")
_LARGE_SAMPLE = (
    f"the sample has over {MAX_SAMPLE_FILES:,} files or {MAX_SAMPLE_BYTES // 2**30} GiB; split it"
)


class Member(NamedTuple):
    """A file in a tar. `data` is None if there is a `problem`, which says what to do about it.

    `name` passes `check_name`: a name that does not is a problem, and is escaped.
    """

    name: str
    data: bytes | None
    problem: str | None = None


def begins_with_record(path: str) -> bool:
    """True if the first file of a local tar is a record, as in the shards of dinac encode."""
    if not os.path.isfile(path):  # opening a named pipe would wait for a writer
        return False
    try:
        with tarfile.open(path) as tar:
            first = next((member for member in tar if member.isfile()), None)
    except (tarfile.TarError, OSError):
        return False
    return first is not None and first.name.endswith(LATENT_SUFFIX)


def read_members(file: BinaryIO, wants: Callable[[str], bool]) -> Iterator[Member]:
    """Yields those files of a tar (ustar, PAX or GNU) whose names `wants` accepts, in their order.

    Calls nothing but `file.read`. Holds one member in memory, and 8 to 16 bytes for each name. A
    leading `./` is no part of a name. Global headers are ignored. Links, devices and members that
    break a limit are yielded with a problem; folders are skipped. Raises ArchiveError if the tar
    is damaged or has no end mark, so whatever was read before may be incomplete.
    """
    tar = _TarReader(file)
    seen = NameSet()
    while (entry := tar.read_entry()) is not None:
        name = entry.name
        if entry.is_folder or not wants(name):
            tar.skip(entry)
            continue
        problem = entry.problem
        if fault := find_name_fault(name):
            name = escape_name(name) if name else _NO_NAME
            problem = f"its name {fault}; rename it and pack the tar again"
        if not seen.add(name):
            problem = "the tar holds two files of this name; remove one"
        if problem is None:
            yield Member(name, tar.read_data(entry))
        else:
            tar.skip(entry)
            yield Member(name, None, problem)


class _Header(NamedTuple):
    """The fields of a header block that matter here. `size_bytes` is -1 if it is no number."""

    name: bytes
    size_bytes: int
    kind: bytes


class _Entry(NamedTuple):
    """A member before its data: the name as it is in the tar, and the size of the data."""

    name: str
    size_bytes: int
    problem: str | None
    is_folder: bool


class _TarReader:
    """Reads the blocks of a tar in their order."""

    def __init__(self, file: BinaryIO) -> None:
        self._read = file.read
        self._number = 0  # of the last member
        self._has_begun = False  # whether any header was valid

    def read_entry(self) -> _Entry | None:
        """Reads up to the next member's data. Returns None after the end mark and checks it."""
        fields: dict[str, str] = {}
        for count in range(MAX_EXTENDED_HEADERS + 1):
            block = self._read_header()
            if block is None and count == 0:
                self._read_end()
                return None
            if block is None:
                raise self._damaged("an extended header has no member")
            header = self._parse_header(block)
            if header.kind not in _EXTENDED_TYPES:
                return self._make_entry(header, block, fields)
            fields = {**self._read_fields(header), **fields}
        raise self._damaged(f"a member has over {MAX_EXTENDED_HEADERS} extended headers")

    def read_data(self, entry: _Entry) -> bytes:
        """Reads the data of an entry."""
        data = self._take(entry.size_bytes)
        if len(data) < entry.size_bytes:
            raise self._cut()
        self._skip(-entry.size_bytes % _BLOCK)
        return data

    def skip(self, entry: _Entry) -> None:
        """Reads past the data of an entry, in pieces."""
        self._skip(entry.size_bytes + -entry.size_bytes % _BLOCK)

    def _read_header(self) -> bytes | None:
        """Reads a header block. Returns None for a block of zeros, the end mark."""
        block = self._take(_BLOCK)
        if len(block) < _BLOCK:
            if not self._has_begun:
                raise _refuse_start(block)
            raise ArchiveError(
                f"cut off after member {self._number}: the end mark is missing; copy the file again"
            )
        return block if block[0] or block.count(0) < _BLOCK else None

    def _parse_header(self, block: bytes) -> _Header:
        if not _has_valid_checksum(block):
            if not self._has_begun:
                raise _refuse_start(block)
            raise self._damaged("the checksum of its header is wrong")
        self._has_begun = True
        kind = block[156:157]
        name = block[:100].partition(b"\0")[0]
        # GNU headers hold times in the place of the prefix; their magic ends in a space.
        if block[345] and block[257:262] == b"ustar" and block[262] != ord(" "):
            name = block[345:500].partition(b"\0")[0] + b"/" + name
        return _Header(name, _parse_number(block[124:136]), kind)

    def _read_fields(self, header: _Header) -> dict[str, str]:
        """Reads an extended header. Returns the fields of the next member."""
        if not 0 <= header.size_bytes <= MAX_EXTENDED_BYTES:
            limit = MAX_EXTENDED_BYTES // 2**10
            raise self._damaged(f"its extended header is larger than {limit} KiB")
        data = self._take(header.size_bytes)
        if len(data) < header.size_bytes:
            raise self._cut()
        self._skip(-header.size_bytes % _BLOCK)
        if header.kind in _LONG_TYPES:
            is_name = header.kind == tarfile.GNUTYPE_LONGNAME
            return {"path": _decode(data.partition(b"\0")[0])} if is_name else {}
        fields = _parse_pax(data)
        if fields is None:
            raise self._damaged("its extended header is invalid")
        if header.kind != tarfile.XGLTYPE:
            return fields
        if fields:  # other readers give this name or size to all members that follow
            raise self._damaged("a global header sets names or sizes")
        return {}

    def _make_entry(self, header: _Header, block: bytes, fields: dict[str, str]) -> _Entry:
        self._number += 1
        if self._number > MAX_MEMBERS:
            raise ArchiveError(f"has over {MAX_MEMBERS:,} members; split the tar")
        name = _choose_name(header, fields)
        kind = header.kind
        is_folder = kind == tarfile.DIRTYPE or (kind == tarfile.AREGTYPE and name.endswith("/"))
        if is_folder or kind in _OTHER_TYPES:
            return _Entry(name, 0, _OTHER_TYPES.get(kind), is_folder)
        size = self._choose_size(header, fields)
        return _Entry(name, size, self._find_problem(kind, block, fields, size), False)

    def _choose_size(self, header: _Header, fields: dict[str, str]) -> int:
        size = header.size_bytes
        if (text := fields.get("size")) is not None:
            size = int(text) if _NUMBER.fullmatch(text) else -1
        if not 0 <= size <= MAX_ARCHIVE_BYTES:
            raise self._damaged("it declares an impossible size")
        return size

    def _find_problem(
        self, kind: bytes, block: bytes, fields: dict[str, str], size: int
    ) -> str | None:
        if kind == tarfile.GNUTYPE_SPARSE:
            self._skip_sparse_map(block)
        if kind == tarfile.GNUTYPE_SPARSE or any(key.startswith(_SPARSE_KEY) for key in fields):
            return _SPARSE
        if kind not in _FILE_TYPES:
            return f"of the type {kind!a}, not a file; leave it out of the tar"
        if size > MAX_INPUT_BYTES:
            limit = MAX_INPUT_BYTES // 2**30
            return f"larger than {limit} GiB, the limit for one file; make it smaller"
        return None

    def _skip_sparse_map(self, block: bytes) -> None:
        """Skips the blocks that continue the map in the header of a GNU sparse file."""
        is_continued = block[482]
        while is_continued:
            block = self._take(_BLOCK)
            if len(block) < _BLOCK:
                raise self._cut()
            is_continued = block[504]

    def _read_end(self) -> None:
        """Checks that nothing but zeros follows the first block of the end mark."""
        total = 0
        while piece := self._read(_PIECE_BYTES):
            total += len(piece)
            if piece.count(0) < len(piece):
                raise ArchiveError(
                    f"data follows the end mark after member {self._number}; "
                    "if tars were joined, pack their files again"
                )
            if total > MAX_END_BYTES:
                raise ArchiveError(
                    f"over {MAX_END_BYTES // 2**20} MiB of zeros follow member {self._number}: "
                    "the file was not written to its end; copy it again"
                )

    def _take(self, size: int) -> bytes:
        """Reads `size` bytes, or fewer at the end of the file.

        Each read asks for no more than was read before, so that a header that declares a false
        size takes no memory.
        """
        piece = self._read(min(size, _PIECE_BYTES))
        total = len(piece)
        if total == size or not piece:
            return piece
        pieces = [piece]
        while total < size and piece:
            piece = self._read(min(size - total, max(_PIECE_BYTES, total)))
            pieces.append(piece)
            total += len(piece)
        return b"".join(pieces)

    def _skip(self, size: int) -> None:
        while size > 0:
            piece = self._read(min(size, _PIECE_BYTES))
            if not piece:
                raise self._cut()
            size -= len(piece)

    def _cut(self) -> ArchiveError:
        return ArchiveError(f"cut off after {self._number} members; copy the file again")

    def _damaged(self, reason: str, *details: str) -> ArchiveError:
        return ArchiveError(
            f"damaged near member {self._number + 1}: {reason}; copy the file again", details
        )


def _has_valid_checksum(block: bytes) -> bool:
    """Compares the sum of the bytes outside the checksum, which counts as 8 spaces."""
    own = block[148:156]
    expected = _parse_number(own)
    total = sum(block) - sum(own) + 8 * ord(" ")
    if total == expected:
        return True
    # Old tars of Sun and NeXT add bytes with a sign.
    high = sum(byte > 127 for byte in block[:148] + block[156:])
    return total - 256 * high == expected


def _parse_number(field: bytes) -> int:
    """Returns a number in octal digits, or in GNU's binary form. Returns -1 if it is neither."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.partition(b"\0")[0].strip(b" ")
    return int(digits or b"0", 8) if _OCTAL.fullmatch(digits) else -1


def _choose_name(header: _Header, fields: dict[str, str]) -> str:
    """Returns the name of a member without a leading `./`."""
    # Invalid UTF-8 becomes surrogates, which `find_name_fault` refuses.
    name = fields.get(f"{_SPARSE_KEY}name") or fields.get("path") or _decode(header.name)
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return name


def _refuse_start(block: bytes) -> ArchiveError:
    """Says why a file that begins with `block` is not a tar."""
    if not block:
        return ArchiveError("an empty file; copy it again")
    for magic, name in _MAGICS.items():
        if block.startswith(magic):
            return ArchiveError(f"a compressed tar ({name}); unpack it first")
    return ArchiveError("not a tar, or damaged at its start; copy the file again")


def _parse_pax(data: bytes) -> dict[str, str] | None:
    """Returns those fields of a PAX header that change how its member is read.

    Returns None if the header is invalid.
    """
    fields = {}
    at = 0
    while at < len(data) and data[at]:
        match = _PAX_RECORD.match(data, at)
        end = at + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(data) or data[end - 1] != ord("\n"):
            return None
        key = match[2]
        if key in (b"path", b"size") or key.startswith(_SPARSE_KEY.encode()):
            fields[_decode(key)] = _decode(data[match.end() : end - 1])
        at = end
    return fields


def _decode(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")


@dataclass
class Sample:
    """Consecutive files of a tar that have one key.

    `files` and `names` map extensions (`jpg`, `txt`, `seg.png`) to the data and to the names in the
    tar. `problems` maps the extensions of bad files to their problems. `problem` is the first of
    these, after the name of its file, or a problem of the whole sample.
    """

    key: str
    files: dict[str, bytes] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    problem: str | None = None
    size_bytes: int = 0

    def add(self, extension: str, member: Member) -> None:
        """Adds a file or its problem. A sample that breaks a limit keeps no files."""
        self.size_bytes += len(member.data or b"")
        if self.size_bytes > MAX_SAMPLE_BYTES or len(self.names) == MAX_SAMPLE_FILES:
            self.files.clear()
            self.refuse(_LARGE_SAMPLE)
            return
        problem = member.problem
        if extension in self.names:
            problem = problem or f"the sample has two files with the extension {extension}"
        elif member.data is not None:
            self.files[extension] = member.data
        self.names.setdefault(extension, member.name)
        if problem is not None:
            self.problems.setdefault(extension, problem)
            self.refuse(f"{member.name}: {problem}")

    def refuse(self, problem: str) -> None:
        """Notes a problem of the sample, if it is the first one."""
        self.problem = self.problem or problem


def make_key(name: str) -> str:
    """Returns the key of the sample called `name`, without dots: `a/b.jpg` → `a/b%2Ejpg`.

    WebDataset ends a key at the first dot. `urllib.parse.unquote` returns the name again, so two
    names never have the same key.
    """
    return name.replace("%", "%25").replace(".", "%2E")


def split_key(name: str) -> tuple[str, str] | None:
    """Returns the key and the extension of a file by WebDataset's convention.

    `a.b/c.seg.PNG` → `a.b/c`, `seg.png`. Returns None for files that belong to no sample: names
    without a dot, hidden files, and files of the form `__NAME__`.
    """
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    if not stem or not extension or _META.match(name):
        return None
    return f"{folder}{slash}{stem}", extension.lower()


def group_samples(members: Iterable[Member]) -> Iterator[Sample]:
    """Yields the samples of a tar. Skips files that belong to no sample.

    Holds one sample in memory, and 8 to 16 bytes for each key.
    """
    keys = NameSet()
    sample = None
    for member in members:
        parts = split_key(member.name)
        if parts is None:
            continue
        key, extension = parts
        if sample is None or key != sample.key:
            if sample is not None:
                yield sample
            sample = Sample(key)
            if not keys.add(key):
                sample.refuse(
                    f"an earlier sample has the key {key}; rename it, or pack its files together"
                )
        sample.add(extension, member)
    if sample is not None:
        yield sample


class TarWriter:
    """Writes a tar whose bytes depend only on the names and the data of its files.

    The files have mode 0644, time 0 and no owner. A file starts with a PAX header only if its name
    is longer than 100 characters or not ASCII, or if its size is 8 GiB or more. `write` is called
    with each piece; nothing is held in memory.
    """

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._size_bytes = 0

    @property
    def size_bytes(self) -> int:
        """The number of bytes written so far."""
        return self._size_bytes

    def add(self, name: str, data: bytes) -> None:
        """Adds a file."""
        header = tarfile.TarInfo(name)
        header.size = len(data)
        self._put(header.tobuf(tarfile.PAX_FORMAT, "utf-8"))
        self._put(data)
        self._put(bytes(-len(data) % _BLOCK))

    def finish(self) -> None:
        """Writes the end mark, and zeros up to a multiple of 10,240 bytes, as tar does."""
        self._put(bytes(2 * _BLOCK))
        self._put(bytes(-self._size_bytes % _RECORD_BYTES))

    def _put(self, data: bytes) -> None:
        if data:
            self._write(data)
            self._size_bytes += len(data)
