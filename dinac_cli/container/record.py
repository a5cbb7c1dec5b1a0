"""One image's latents as one record of bytes: packed, unpacked, looked into, measured."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from dinac_cli.container.content import compress_content, decompress_content, take_head
from dinac_cli.container.frame import (
    PREAMBLE,
    BytesSource,
    FileSource,
    Source,
    take_frame_header,
    take_preamble,
    walk_record,
)
from dinac_cli.container.header import RecordHeader, header_from_metadata, header_to_metadata
from dinac_cli.container.layout import TensorEntry, read_layout, write_layout
from dinac_cli.container.planes import (
    FLIPPED,
    Latents,
    Planes,
    find_planes,
    find_twin,
    join_planes,
    split_planes,
)
from dinac_cli.errors import FormatError, Rejection

_DTYPES: dict[str, npt.DTypeLike] = {"U8": "u1", "I8": "i1", "F32": "<f4"}


@dataclass(frozen=True)
class Record:
    """A record that was read whole: its header, and latents float32 [C, h, w].

    `flipped` are those of the mirrored image, where the record holds them and they were asked for.
    """

    header: RecordHeader
    latents: Latents
    flipped: Latents | None = None


@dataclass(frozen=True)
class _Contents:
    """What a record's header tells: where the tensors of its latents lie, and of their twin."""

    header: RecordHeader
    tensors: dict[str, TensorEntry]
    twin: dict[str, TensorEntry] | None
    start: int

    def view(self, content: bytes, tensors: Mapping[str, TensorEntry]) -> Latents:
        """Latents out of some of the tensors. Errors: FormatError STEP, VALUE."""
        planes = {name: _view_tensor(content, self.start, e) for name, e in tensors.items()}
        return join_planes(planes, self.header.shape)


def pack_record(
    header: RecordHeader,
    latents: Latents,
    steps: npt.NDArray[np.float32] | None = None,
    flipped: Latents | None = None,
) -> bytes:
    """Pack latents [C, h, w] into one record at the precision that the header names.

    `steps` [C] are the quantiser's, for q8 to q3, `flipped` the latents of the mirrored image,
    which go beside. Equal input gives equal bytes.
    Errors: FormatError SHAPE, VALUE, STEP, HEADER_SIZE.
    """
    planes = _split(header, latents, steps)
    if flipped is not None:
        twin = _split(header, flipped, steps)
        planes |= {FLIPPED + name: plane for name, plane in twin.items()}
        # Floats come first in the payload, where they are aligned.
        planes = dict(sorted(planes.items(), key=lambda item: -item[1].itemsize))
    head = write_layout(header_to_metadata(header), planes)
    payload = [plane.reshape(-1).view(np.uint8).data for plane in planes.values()]
    return PREAMBLE + compress_content([head, *payload])


def unpack_record(data: bytes | memoryview, *, with_twin: bool = False) -> Record:
    """Unpack exactly one record.

    Sizes are checked from the outside in, so that memory is taken for what the header describes
    and the frame can hold, and for no more. Without `with_twin` the mirrored image's latents are
    passed over, whatever they are. Errors: FormatError for each rule of the format.
    """
    size = walk_record(BytesSource(data))
    if size != len(data):
        raise FormatError(Rejection.TRAILING, f"{len(data) - size} bytes follow the record")
    contents = _take_header(BytesSource(data), with_twin=with_twin)
    try:
        content = decompress_content(memoryview(data)[len(PREAMBLE) :])
        latents = contents.view(content, contents.tensors)
        twin = None if contents.twin is None else contents.view(content, contents.twin)
        return Record(contents.header, latents, twin)
    except FormatError as error:
        error.header_name = contents.header.name or None
        raise


def read_header(source: BinaryIO | bytes | memoryview) -> RecordHeader:
    """Read the header of the record at a buffered file's position, or at the start of bytes.

    Only the first block or blocks are read, usually some 500 bytes; the rest is not looked at.
    Errors: FormatError.
    """
    if isinstance(source, (bytes, memoryview)):
        return _take_header(BytesSource(source)).header
    return _take_header(FileSource(source)).header


def declared_bytes(data: bytes | memoryview, *, with_twin: bool = False) -> int:
    """Return the memory that `unpack_record` takes for a record's content and latents, in bytes.

    Nothing is decompressed but the header. The content may be far larger than both the record and
    its latents: there may be other tensors, of zeros. Errors: FormatError.
    """
    contents = _take_header(BytesSource(data), with_twin=with_twin)
    channels, rows, columns = contents.header.shape
    copies = 1 if contents.twin is None else 2
    source = BytesSource(data)
    take_preamble(source)
    return take_frame_header(source).content_size + copies * 4 * channels * rows * columns


def read_record(path: str | os.PathLike[str], *, with_twin: bool = False) -> Record:
    """Read a file of one record.

    Errors: FormatError; OSError where the file cannot be read.
    """
    with Path(path).open("rb") as file:
        size = check_whole(file)
        file.seek(0)
        return unpack_record(file.read(size), with_twin=with_twin)


def read_latents(path: str | os.PathLike[str]) -> tuple[Latents, RecordHeader]:
    """Read a file of one record: latents float32 [C, h, w], and the header.

    Errors: FormatError; OSError where the file cannot be read.
    """
    record = read_record(path)
    return record.latents, record.header


def measure_record(file: BinaryIO) -> int:
    """Return the size in bytes of the record at the position of a seekable file.

    Only block headers are read. Errors: FormatError where they do not lead to a record's end.
    """
    return walk_record(FileSource(file))


def check_whole(file: BinaryIO) -> int:
    """Check that a seekable file is one record and nothing else, by its block headers alone.

    The file is at its start. Returns its size in bytes. Errors: FormatError.
    """
    size = measure_record(file)
    file_size = file.seek(0, os.SEEK_END)
    if size != file_size:
        raise FormatError(Rejection.TRAILING, f"{file_size - size} bytes follow the record")
    return size


def is_whole(path: str | os.PathLike[str]) -> bool:
    """Say whether a file is one whole record, by its block headers alone.

    Errors: OSError where the file cannot be read.
    """
    with Path(path).open("rb") as file:
        try:
            check_whole(file)
        except FormatError:
            return False
    return True


def hash_record(data: bytes | memoryview) -> str:
    """Return the record hash: sha256 over all bytes of the record, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def _split(header: RecordHeader, latents: Latents, steps: npt.NDArray[np.float32] | None) -> Planes:
    if latents.shape != header.shape:
        message = f"latents of shape {list(latents.shape)}, the header says {list(header.shape)}"
        raise FormatError(Rejection.SHAPE, message)
    latents = np.ascontiguousarray(latents, dtype=np.float32)
    return split_planes(latents, header.precision, steps)


def _take_header(source: Source, *, with_twin: bool = False) -> _Contents:
    """Take a record's header, and look for the tensors that will be read."""
    take_preamble(source)
    head, content_size = take_head(source)
    layout = read_layout(head)
    header = header_from_metadata(layout.metadata)
    if len(head) + layout.payload_size != content_size:
        raise FormatError(
            Rejection.LAYOUT,
            f"tensors of {layout.payload_size} bytes in a payload of {content_size - len(head)}",
        )
    tensors = find_planes(layout.tensors, header.precision, header.shape)
    twin = find_twin(layout.tensors, header.precision, header.shape) if with_twin else None
    return _Contents(header, tensors, twin, len(head))


def _view_tensor(content: bytes, start: int, entry: TensorEntry) -> npt.NDArray[Any]:
    dtype = np.dtype(_DTYPES[entry.dtype])
    count = (entry.end - entry.begin) // dtype.itemsize
    return np.frombuffer(content, dtype, count, start + entry.begin).reshape(entry.shape)
