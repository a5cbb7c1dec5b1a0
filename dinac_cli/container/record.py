"""One image's latents as one record of bytes: packed, unpacked, looked into, measured."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from dinac_cli.container.content import compress_content, decompress_content, take_head
from dinac_cli.container.encoded import (
    CLASS_TOKEN,
    LOGSNR,
    Encoded,
    find_companions,
    read_companion,
    split_encoded,
)
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
from dinac_cli.container.planes import Latents, find_planes, join_planes
from dinac_cli.errors import FormatError, Rejection

_DTYPES: dict[str, npt.DTypeLike] = {"U8": "u1", "I8": "i1", "F32": "<f4"}


@dataclass(frozen=True)
class Record:
    """A record that was read whole: its header, and latents float32 [C, h, w].

    `logsnr` [C, h, w] and `class_token` [D] are None where the record has none, or nobody asked.
    """

    header: RecordHeader
    latents: Latents
    logsnr: Latents | None = None
    class_token: npt.NDArray[np.float32] | None = None


def pack_record(
    header: RecordHeader, latents: Latents, steps: npt.NDArray[np.float32] | None = None
) -> bytes:
    """Pack latents [C, h, w] alone; see `pack_encoded`."""
    return pack_encoded(header, Encoded(latents), steps)


def pack_encoded(
    header: RecordHeader, encoded: Encoded, steps: npt.NDArray[np.float32] | None = None
) -> bytes:
    """Pack one encoded image into one record, latents at the precision that the header names.

    `steps` [C] are the quantiser's, for q8 to q3. Equal input gives equal bytes.
    Errors: FormatError SHAPE, VALUE, STEP, TENSOR, HEADER_SIZE.
    """
    shape = encoded.latents.shape
    if shape != header.shape:
        message = f"latents of shape {list(shape)}, the header says {list(header.shape)}"
        raise FormatError(Rejection.SHAPE, message)
    tensors = split_encoded(encoded, header.precision, steps)
    # Floats come first in the payload, where they are aligned.
    ordered = dict(sorted(tensors.items(), key=lambda item: item[1].dtype.kind != "f"))
    head = write_layout(header_to_metadata(header), ordered)
    payload = [tensor.reshape(-1).view(np.uint8).data for tensor in ordered.values()]
    return PREAMBLE + compress_content([head, *payload])


def unpack_record(data: bytes | memoryview, companions: Collection[str] = ()) -> Record:
    """Unpack exactly one record, and those of `encoded.COMPANIONS` that are asked for.

    Others are passed over. Sizes are checked from the outside in, so that memory is taken for what
    the header describes and the frame can hold, and for no more.
    Errors: FormatError for each rule of the format.
    """
    size = walk_record(BytesSource(data))
    if size != len(data):
        raise FormatError(Rejection.TRAILING, f"{len(data) - size} bytes follow the record")
    head = _take_head(BytesSource(data))
    header = head.header
    try:
        beside = find_companions(head.tensors, header.shape, companions)
        content = decompress_content(memoryview(data)[len(PREAMBLE) :])
        planes = {name: _view_tensor(content, head, entry) for name, entry in head.planes.items()}
        latents = join_planes(planes, header.shape)
        read = {
            name: read_companion(name, _view_tensor(content, head, entry))
            for name, entry in beside.items()
        }
        return Record(header, latents, read.get(LOGSNR), read.get(CLASS_TOKEN))
    except FormatError as error:
        error.header_name = header.name or None
        raise


def read_header(source: BinaryIO | bytes | memoryview) -> RecordHeader:
    """Read the header of the record at a buffered file's position, or at the start of bytes.

    Only the first block or blocks are read, usually some 500 bytes; the rest is not looked at.
    Errors: FormatError.
    """
    return _take_head(_open_source(source)).header


def read_outline(
    source: BinaryIO | bytes | memoryview, companions: Collection[str]
) -> tuple[RecordHeader, dict[str, tuple[int, ...]]]:
    """Read what `read_header` reads, and the shapes of those `encoded.COMPANIONS` that it holds.

    Errors: FormatError, also where one of these has another dtype or shape than it must.
    """
    head = _take_head(_open_source(source))
    held = find_companions(head.tensors, head.header.shape, companions)
    return head.header, {name: entry.shape for name, entry in held.items()}


def declared_bytes(data: bytes | memoryview, companions: Collection[str] = ()) -> int:
    """Return the memory that `unpack_record` takes for content, latents and `companions`, in bytes.

    Nothing is decompressed but the header. The content may be far larger than both the record and
    its latents: there may be other tensors, of zeros. Errors: FormatError.
    """
    head = _take_head(BytesSource(data))
    channels, rows, columns = head.header.shape
    beside = find_companions(head.tensors, head.header.shape, companions).values()
    source = BytesSource(data)
    take_preamble(source)
    content_size = take_frame_header(source).content_size
    return content_size + 4 * channels * rows * columns + sum(e.end - e.begin for e in beside)


def read_latents(path: str | os.PathLike[str]) -> tuple[Latents, RecordHeader]:
    """Read a file of one record: latents float32 [C, h, w], and the header.

    Errors: FormatError; OSError where the file cannot be read.
    """
    record = read_record(path)
    return record.latents, record.header


def read_record(path: str | os.PathLike[str], companions: Collection[str] = ()) -> Record:
    """Read a file of one record as `unpack_record` does.

    Errors: FormatError; OSError where the file cannot be read.
    """
    with Path(path).open("rb") as file:
        size = check_whole(file)
        file.seek(0)
        return unpack_record(file.read(size), companions)


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


@dataclass(frozen=True)
class _Head:
    """A record's header, all its tensors, those of its latents, and where their payload starts."""

    header: RecordHeader
    tensors: dict[str, TensorEntry]
    planes: dict[str, TensorEntry]
    start: int


def _open_source(source: BinaryIO | bytes | memoryview) -> Source:
    if isinstance(source, (bytes, memoryview)):
        return BytesSource(source)
    return FileSource(source)


def _take_head(source: Source) -> _Head:
    take_preamble(source)
    head, content_size = take_head(source)
    layout = read_layout(head)
    header = header_from_metadata(layout.metadata)
    if len(head) + layout.payload_size != content_size:
        raise FormatError(
            Rejection.LAYOUT,
            f"tensors of {layout.payload_size} bytes in a payload of {content_size - len(head)}",
        )
    planes = find_planes(layout.tensors, header.precision, header.shape)
    return _Head(header, layout.tensors, planes, len(head))


def _view_tensor(content: bytes, head: _Head, entry: TensorEntry) -> npt.NDArray[Any]:
    dtype = np.dtype(_DTYPES[entry.dtype])
    count = (entry.end - entry.begin) // dtype.itemsize
    return np.frombuffer(content, dtype, count, head.start + entry.begin).reshape(entry.shape)
