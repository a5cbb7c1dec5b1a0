"""One image's latents as one record of bytes: packed, unpacked, looked into, measured."""

from __future__ import annotations

import hashlib
import os
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
from dinac_cli.container.planes import Latents, find_planes, join_planes, split_planes
from dinac_cli.errors import FormatError, Rejection

_DTYPES: dict[str, npt.DTypeLike] = {"U8": "u1", "I8": "i1", "F32": "<f4"}


@dataclass(frozen=True)
class Record:
    """A record that was read whole: its header, and latents float32 [C, h, w]."""

    header: RecordHeader
    latents: Latents


def pack_record(
    header: RecordHeader, latents: Latents, steps: npt.NDArray[np.float32] | None = None
) -> bytes:
    """Pack latents [C, h, w] into one record at the precision that the header names.

    `steps` [C] are the quantiser's, for q8 to q3. Equal input gives equal bytes.
    Errors: FormatError SHAPE, VALUE, STEP, HEADER_SIZE.
    """
    if latents.shape != header.shape:
        message = f"latents of shape {list(latents.shape)}, the header says {list(header.shape)}"
        raise FormatError(Rejection.SHAPE, message)
    latents = np.ascontiguousarray(latents, dtype=np.float32)
    planes = split_planes(latents, header.precision, steps)
    head = write_layout(header_to_metadata(header), planes)
    payload = [plane.reshape(-1).view(np.uint8).data for plane in planes.values()]
    return PREAMBLE + compress_content([head, *payload])


def unpack_record(data: bytes | memoryview) -> Record:
    """Unpack exactly one record.

    Sizes are checked from the outside in, so that memory is taken for what the header describes
    and the frame can hold, and for no more. Errors: FormatError for each rule of the format.
    """
    size = walk_record(BytesSource(data))
    if size != len(data):
        raise FormatError(Rejection.TRAILING, f"{len(data) - size} bytes follow the record")
    header, tensors, start = _take_header(BytesSource(data))
    try:
        content = decompress_content(memoryview(data)[len(PREAMBLE) :])
        planes = {name: _view_tensor(content, start, entry) for name, entry in tensors.items()}
        return Record(header, join_planes(planes, header.shape))
    except FormatError as error:
        error.header_name = header.name or None
        raise


def read_header(source: BinaryIO | bytes | memoryview) -> RecordHeader:
    """Read the header of the record at a buffered file's position, or at the start of bytes.

    Only the first block or blocks are read, usually some 500 bytes; the rest is not looked at.
    Errors: FormatError.
    """
    if isinstance(source, (bytes, memoryview)):
        return _take_header(BytesSource(source))[0]
    return _take_header(FileSource(source))[0]


def declared_bytes(data: bytes | memoryview) -> int:
    """Return the memory that `unpack_record` takes for a record's content and latents, in bytes.

    Nothing is decompressed but the header. The content may be far larger than both the record and
    its latents: there may be other tensors, of zeros. Errors: FormatError.
    """
    channels, rows, columns = _take_header(BytesSource(data))[0].shape
    source = BytesSource(data)
    take_preamble(source)
    return take_frame_header(source).content_size + 4 * channels * rows * columns


def read_latents(path: str | os.PathLike[str]) -> tuple[Latents, RecordHeader]:
    """Read a file of one record: latents float32 [C, h, w], and the header.

    Errors: FormatError; OSError where the file cannot be read.
    """
    with Path(path).open("rb") as file:
        size = check_whole(file)
        file.seek(0)
        record = unpack_record(file.read(size))
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


def _take_header(source: Source) -> tuple[RecordHeader, dict[str, TensorEntry], int]:
    """Take a record's header; return it, the tensors of its latents, and where payload starts."""
    take_preamble(source)
    head, content_size = take_head(source)
    layout = read_layout(head)
    header = header_from_metadata(layout.metadata)
    if len(head) + layout.payload_size != content_size:
        raise FormatError(
            Rejection.LAYOUT,
            f"tensors of {layout.payload_size} bytes in a payload of {content_size - len(head)}",
        )
    return header, find_planes(layout.tensors, header.precision, header.shape), len(head)


def _view_tensor(content: bytes, start: int, entry: TensorEntry) -> npt.NDArray[Any]:
    dtype = np.dtype(_DTYPES[entry.dtype])
    count = (entry.end - entry.begin) // dtype.itemsize
    return np.frombuffer(content, dtype, count, start + entry.begin).reshape(entry.shape)
