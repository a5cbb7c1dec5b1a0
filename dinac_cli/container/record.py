"""One image's latents as one record of bytes: packed, unpacked, looked into, measured."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

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
from dinac_cli.container.tensors import (
    CLASS_TOKEN,
    FLIPPED,
    LOGSNR,
    Encoded,
    Latents,
    Planes,
    find_companions,
    find_planes,
    find_twin,
    join_planes,
    read_companion,
    split_encoded,
)
from dinac_cli.container.zstd import compress_content, decompress_content, take_head
from dinac_cli.errors import FormatError, Rejection

_DTYPES: dict[str, npt.DTypeLike] = {"U8": "u1", "I8": "i1", "F32": "<f4"}


@dataclass(frozen=True)
class Record:
    """A record that was read whole: its header, and latents float32 [C, h, w].

    `logsnr` [C, h, w] and `class_token` [D] are None where the record has none, or nobody asked;
    `flipped` is all three of the mirrored image, and None likewise.
    """

    header: RecordHeader
    latents: Latents
    logsnr: Latents | None = None
    class_token: npt.NDArray[np.float32] | None = None
    flipped: Encoded | None = None


class Outline(NamedTuple):
    """What a record holds, without its payload: the header, and what was asked for beside it.

    `held` are the shapes of `encoded.COMPANIONS`, those of the mirrored image behind
    `planes.FLIPPED`; `has_twin` where that image's latents are there.
    """

    header: RecordHeader
    held: dict[str, tuple[int, ...]]
    has_twin: bool = False


def pack_record(
    header: RecordHeader, latents: Latents, steps: npt.NDArray[np.float32] | None = None
) -> bytes:
    """Pack latents [C, h, w] alone; see `pack_encoded`."""
    return pack_encoded(header, Encoded(latents), steps)


def pack_encoded(
    header: RecordHeader,
    encoded: Encoded,
    steps: npt.NDArray[np.float32] | None = None,
    flipped: Encoded | None = None,
) -> bytes:
    """Pack one encoded image into one record, latents at the precision that the header names.

    `steps` [C] are the quantiser's, for q8 to q3; `flipped` is the mirrored image, which goes
    beside. Equal input gives equal bytes.
    Errors: FormatError SHAPE, VALUE, STEP, TENSOR, HEADER_SIZE.
    """
    tensors = _split(header, encoded, steps)
    if flipped is not None:
        tensors |= _split(header, flipped, steps, FLIPPED)
        _check_tokens(encoded.class_token, flipped.class_token)
    # Floats come first in the payload, where they are aligned.
    ordered = dict(sorted(tensors.items(), key=lambda item: item[1].dtype.kind != "f"))
    head = write_layout(header_to_metadata(header), ordered)
    payload = [tensor.reshape(-1).view(np.uint8).data for tensor in ordered.values()]
    return PREAMBLE + compress_content([head, *payload])


def unpack_record(
    data: bytes | memoryview, companions: Collection[str] = (), *, with_twin: bool = False
) -> Record:
    """Unpack exactly one record, and those of `encoded.COMPANIONS` that are asked for.

    Of the mirrored image too where `with_twin` asks for that; what nobody asked for is passed
    over, whatever it is. Sizes are checked from the outside in, so that memory is taken for what
    the header describes and the frame can hold, and for no more.
    Errors: FormatError for each rule of the format.
    """
    size = walk_record(BytesSource(data))
    if size != len(data):
        raise FormatError(Rejection.TRAILING, f"{len(data) - size} bytes follow the record")
    head = _take_head(BytesSource(data))
    try:
        views = _find_views(head, companions, with_twin=with_twin)
        content = decompress_content(memoryview(data)[len(PREAMBLE) :])
        upright, *twins = [_read_view(content, head, view) for view in views]
        return Record(head.header, *upright, twins[0] if twins else None)
    except FormatError as error:
        error.header_name = head.header.name or None
        raise


def read_header(source: BinaryIO | bytes | memoryview) -> RecordHeader:
    """Read the header of the record at a buffered file's position, or at the start of bytes.

    Only the first block or blocks are read, usually some 500 bytes; the rest is not looked at.
    Errors: FormatError.
    """
    return _take_head(_open_source(source)).header


def read_outline(
    source: BinaryIO | bytes | memoryview,
    companions: Collection[str],
    *,
    with_twin: bool = False,
) -> Outline:
    """Read what `read_header` reads, and what else of `companions` and twin the record holds.

    Errors: FormatError, also where one of these has another dtype or shape than it must.
    """
    head = _take_head(_open_source(source))
    views = _find_views(head, companions, with_twin=with_twin)
    shapes = {
        view.prefix + name: entry.shape for view in views for name, entry in view.beside.items()
    }
    return Outline(head.header, shapes, len(views) > 1)


def declared_bytes(
    data: bytes | memoryview, companions: Collection[str] = (), *, with_twin: bool = False
) -> int:
    """Return the memory that `unpack_record` takes for content and all it gives, in bytes.

    Nothing is decompressed but the header. The content may be far larger than both the record and
    its latents: there may be other tensors, of zeros. Errors: FormatError.
    """
    head = _take_head(BytesSource(data))
    views = _find_views(head, companions, with_twin=with_twin)
    source = BytesSource(data)
    take_preamble(source)
    content_size = take_frame_header(source).content_size
    latents = 4 * math.prod(head.header.shape) * len(views)
    return content_size + latents + sum(e.end - e.begin for v in views for e in v.beside.values())


def read_latents(path: str | os.PathLike[str]) -> tuple[Latents, RecordHeader]:
    """Read a file of one record: latents float32 [C, h, w], and the header.

    Errors: FormatError; OSError where the file cannot be read.
    """
    record = read_record(path)
    return record.latents, record.header


def read_record(
    path: str | os.PathLike[str], companions: Collection[str] = (), *, with_twin: bool = False
) -> Record:
    """Read a file of one record as `unpack_record` does.

    Errors: FormatError; OSError where the file cannot be read.
    """
    with Path(path).open("rb") as file:
        size = check_whole(file)
        file.seek(0)
        return unpack_record(file.read(size), companions, with_twin=with_twin)


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


@dataclass(frozen=True)
class _View:
    """The tensors of one image, upright or mirrored: of its latents, and what is asked beside."""

    prefix: str
    planes: dict[str, TensorEntry]
    beside: dict[str, TensorEntry]


def _split(
    header: RecordHeader,
    encoded: Encoded,
    steps: npt.NDArray[np.float32] | None,
    prefix: str = "",
) -> Planes:
    shape = encoded.latents.shape
    if shape != header.shape:
        message = f"latents of shape {list(shape)}, the header says {list(header.shape)}"
        raise FormatError(Rejection.SHAPE, message)
    return split_encoded(encoded, header.precision, steps, prefix)


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


def _find_views(head: _Head, companions: Collection[str], *, with_twin: bool) -> list[_View]:
    """The image and, where that is asked for and there, its mirrored twin."""
    shape, precision = head.header.shape, head.header.precision
    views = [_View("", head.planes, find_companions(head.tensors, shape, companions))]
    twin = find_twin(head.tensors, precision, shape) if with_twin else None
    if twin is not None:
        beside = find_companions(head.tensors, shape, companions, FLIPPED)
        views.append(_View(FLIPPED, twin, beside))
        _check_tokens(views[0].beside.get(CLASS_TOKEN), beside.get(CLASS_TOKEN))
    return views


def _read_view(content: bytes, head: _Head, view: _View) -> Encoded:
    planes = {name: _view_tensor(content, head, entry) for name, entry in view.planes.items()}
    latents = join_planes(planes, head.header.shape)
    read = {
        name: read_companion(view.prefix + name, _view_tensor(content, head, entry))
        for name, entry in view.beside.items()
    }
    return Encoded(latents, read.get(LOGSNR), read.get(CLASS_TOKEN))


def _check_tokens(
    own: TensorEntry | npt.NDArray[Any] | None, flipped: TensorEntry | npt.NDArray[Any] | None
) -> None:
    if own is not None and flipped is not None and own.shape != flipped.shape:
        raise FormatError(
            Rejection.TENSOR,
            f"tensor {FLIPPED}{CLASS_TOKEN} has shape {list(flipped.shape)}, "
            f"{CLASS_TOKEN} {list(own.shape)}: re-encode",
        )


def _view_tensor(content: bytes, head: _Head, entry: TensorEntry) -> npt.NDArray[Any]:
    dtype = np.dtype(_DTYPES[entry.dtype])
    count = (entry.end - entry.begin) // dtype.itemsize
    return np.frombuffer(content, dtype, count, head.start + entry.begin).reshape(entry.shape)


def describe_latents(header: RecordHeader) -> Mapping[str, str]:
    """What goes along with exported latents: the record's header, without what coded it."""
    metadata = header_to_metadata(header)
    coding = ("dinac", "precision", "predictor", "step")
    return {key: value for key, value in metadata.items() if value and key not in coding}


def list_arrays(record: Record) -> dict[str, npt.NDArray[np.float32]]:
    """What is exported of a record: `latents` [C, h, w] and, where it was read with the record,
    `logsnr` [C, h, w] of the posterior, `class_token` [D], and all of these of the mirrored image:
    `flipped`, `flipped_logsnr`, `flipped_class_token`."""
    arrays = {
        "latents": record.latents,
        "logsnr": record.logsnr,
        "class_token": record.class_token,
    }
    if record.flipped is not None:
        arrays |= {
            "flipped": record.flipped.latents,
            "flipped_logsnr": record.flipped.logsnr,
            "flipped_class_token": record.flipped.class_token,
        }
    return {name: array for name, array in arrays.items() if array is not None}
