"""Packs the latents of one image into a record. Opens, unpacks and measures records."""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from dinac_cli.container.frame import PREAMBLE, FileSource, take_preamble, walk_record
from dinac_cli.container.header import RecordHeader, header_from_metadata, header_to_metadata
from dinac_cli.container.layout import LayoutWriter, TensorEntry, read_layout
from dinac_cli.container.tensors import (
    CLASS_TOKEN,
    FLIPPED,
    LOGSNR,
    MASK,
    Encoded,
    Latents,
    Mask,
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


_heads = LayoutWriter("name", "source_bytes", "source_sha256")


@dataclass(frozen=True)
class Record:
    """An unpacked record: its header, its float32 `latents` [C, h, w] and its optional tensors.

    `logsnr` has shape [C, h, w], `class_token` has shape [D], and `mask` is uint8 [h, w]; see
    `Encoded`. `flipped` holds the same tensors of the mirrored image. An optional attribute is None
    if the record does not hold it, or if it was not requested.
    """

    header: RecordHeader
    latents: Latents
    logsnr: Latents | None = None
    class_token: npt.NDArray[np.float32] | None = None
    mask: Mask | None = None
    flipped: Encoded | None = None


class Outline(NamedTuple):
    """The header of a record, and the requested tensors that the record holds.

    `held` maps the name of each of these tensors to its shape. If a tensor belongs to the mirrored
    image, its name begins with `tensors.FLIPPED`. `has_twin` is true if the mirrored image was
    requested and the record holds it.
    """

    header: RecordHeader
    held: dict[str, tuple[int, ...]]
    has_twin: bool = False


class _View(NamedTuple):
    """The tensors of one image: either the image itself or the mirrored image.

    `planes` hold its latents. `companions` are the requested `tensors.ALL_COMPANIONS`.
    """

    prefix: str
    planes: dict[str, TensorEntry]
    companions: dict[str, TensorEntry]


def pack_record(
    header: RecordHeader, latents: Latents, steps: npt.NDArray[np.float32] | None = None
) -> bytes:
    """Packs only latents [C, h, w], without other tensors; see `pack_encoded`."""
    return pack_encoded(header, Encoded(latents), steps)


def pack_encoded(
    header: RecordHeader,
    encoded: Encoded,
    steps: npt.NDArray[np.float32] | None = None,
    flipped: Encoded | None = None,
) -> bytes:
    """Packs one encoded image into one record. The header sets the precision of the latents.

    `steps` [C] are the steps of the quantiser; only the precisions q8 to q3 need them. `flipped` is
    the mirrored image, which is stored in the same record. Equal input gives equal bytes.
    Raises FormatError with rejection SHAPE, VALUE, STEP, TENSOR or HEADER_SIZE.
    """
    tensors: Planes = {}
    for prefix, image in (("", encoded), (FLIPPED, flipped)):
        if image is None:
            continue
        shape = image.latents.shape
        if shape != header.shape:
            message = f"latents of shape {list(shape)}, but the header says {list(header.shape)}"
            raise FormatError(Rejection.SHAPE, message)
        tensors |= split_encoded(image, header.precision, steps, prefix)
    if flipped is not None:
        _check_tokens(encoded.class_token, flipped.class_token)
    # Float tensors come first in the payload, so that they are aligned.
    ordered = dict(sorted(tensors.items(), key=lambda item: item[1].dtype.kind != "f"))
    head = _heads.write(header_to_metadata(header), ordered)
    payload = [tensor.reshape(-1).view(np.uint8).data for tensor in ordered.values()]
    return PREAMBLE + compress_content([head, *payload])


@dataclass(frozen=True, eq=False)
class OpenRecord:
    """A record after its header is parsed, but before its payload is read; see `open_record`."""

    header: RecordHeader
    _source: BinaryIO | bytes | memoryview
    _tensors: dict[str, TensorEntry]
    _planes: dict[str, TensorEntry]
    _payload_start: int
    _content_bytes: int

    def outline(self, companions: Collection[str], *, with_twin: bool = False) -> Outline:
        """Returns the `companions` that the record holds, and whether it holds the mirrored image.

        Raises FormatError if one of the requested tensors has the wrong dtype or shape.
        """
        views = self._find_views(companions, with_twin=with_twin)
        held = {
            view.prefix + name: entry.shape
            for view in views
            for name, entry in view.companions.items()
        }
        return Outline(self.header, held, len(views) > 1)

    def declared_bytes(self, companions: Collection[str] = (), *, with_twin: bool = False) -> int:
        """Returns how many bytes of memory `unpack` needs for the content and the result.

        The content can be far larger than the record and the latents: a hostile record may hold
        more tensors, which are full of zeros. Raises the same FormatErrors as `outline`.
        """
        views = self._find_views(companions, with_twin=with_twin)
        latents = 4 * math.prod(self.header.shape) * len(views)
        found = [entry for view in views for entry in view.companions.values()]
        return self._content_bytes + latents + sum(entry.end - entry.begin for entry in found)

    def unpack(self, companions: Collection[str] = (), *, with_twin: bool = False) -> Record:
        """Unpacks a record that was opened from a bytes object; see `unpack_record`."""
        assert isinstance(self._source, (bytes, memoryview)), "unpack needs bytes"
        _walk_whole(self._source)
        views = self._find_views(companions, with_twin=with_twin)
        content = decompress_content(memoryview(self._source)[len(PREAMBLE) :])
        upright, *twins = [self._read_view(content, view) for view in views]
        return Record(self.header, *upright, twins[0] if twins else None)

    def is_whole(self) -> bool:
        """True if the file holds exactly one complete record. The file must be seekable.

        Walks the file from its start, and reads only the preamble and the headers in the frame.
        """
        assert not isinstance(self._source, (bytes, memoryview)), "is_whole needs a file"
        self._source.seek(0)
        try:
            _walk_whole(self._source)
        except FormatError:
            return False
        return True

    def _find_views(self, companions: Collection[str], *, with_twin: bool) -> list[_View]:
        """Returns the image itself, and the mirrored image if it is requested and present."""
        shape = self.header.shape
        views = [_View("", self._planes, find_companions(self._tensors, shape, companions))]
        twin = find_twin(self._tensors, self.header.precision, shape) if with_twin else None
        if twin is not None:
            found = find_companions(self._tensors, shape, companions, FLIPPED)
            _check_tokens(views[0].companions.get(CLASS_TOKEN), found.get(CLASS_TOKEN))
            views.append(_View(FLIPPED, twin, found))
        return views

    def _read_view(self, content: bytes, view: _View) -> Encoded:
        planes = {name: self._view_tensor(content, entry) for name, entry in view.planes.items()}
        latents = join_planes(planes, self.header.shape)
        stored = {
            name: self._view_tensor(content, entry) for name, entry in view.companions.items()
        }
        mask = stored.pop(MASK, None)
        read = {name: read_companion(view.prefix + name, each) for name, each in stored.items()}
        return Encoded(
            latents,
            read.get(LOGSNR),
            read.get(CLASS_TOKEN),
            None if mask is None else mask.copy(),  # a view would keep the whole content
        )

    def _view_tensor(self, content: bytes, entry: TensorEntry) -> npt.NDArray[Any]:
        dtype = np.dtype(_DTYPES[entry.dtype])
        count = (entry.end - entry.begin) // dtype.itemsize
        start = self._payload_start + entry.begin
        return np.frombuffer(content, dtype, count, start).reshape(entry.shape)


def open_record(source: BinaryIO | bytes | memoryview) -> OpenRecord:
    """Opens the record at the position of a buffered file, or at the start of a bytes object.

    Reads only the blocks that hold the header, usually about 500 bytes. Raises FormatError.
    """
    reader = _open_source(source)
    take_preamble(reader)
    head, content_bytes = take_head(reader)
    layout = read_layout(head)
    header = header_from_metadata(layout.metadata)
    if len(head) + layout.payload_size != content_bytes:
        raise FormatError(
            Rejection.LAYOUT,
            f"the tensors fill {layout.payload_size} bytes, "
            f"but the payload has {content_bytes - len(head)}; re-encode",
        )
    planes = find_planes(layout.tensors, header.precision, header.shape)
    return OpenRecord(header, source, layout.tensors, planes, len(head), content_bytes)


def unpack_record(
    data: bytes | memoryview, companions: Collection[str] = (), *, with_twin: bool = False
) -> Record:
    """Unpacks the latents and the requested `tensors.ALL_COMPANIONS` of exactly one record.

    If `with_twin` is true, also unpacks the same tensors of the mirrored image. Ignores tensors
    that are not requested. Checks the frame before the header, and the header before the payload.
    Therefore this function never allocates more memory than the header describes and the frame can
    hold.
    Raises FormatError if the record breaks a rule of the format.
    """
    _walk_whole(data)
    return open_record(data).unpack(companions, with_twin=with_twin)


def read_header(source: BinaryIO | bytes | memoryview) -> RecordHeader:
    """Reads only the header; see `open_record`."""
    return open_record(source).header


def read_latents(path: str | os.PathLike[str]) -> tuple[Latents, RecordHeader]:
    """Reads a file that holds one record. Returns float32 latents [C, h, w] and the header.

    Raises FormatError if the record is invalid, and OSError if the file cannot be read.
    """
    record = read_record(path)
    return record.latents, record.header


def read_record(
    path: str | os.PathLike[str], companions: Collection[str] = (), *, with_twin: bool = False
) -> Record:
    """Reads and unpacks a file that holds one record; see `unpack_record`.

    Raises FormatError if the record is invalid, and OSError if the file cannot be read.
    """
    with Path(path).open("rb") as file:
        size = _walk_whole(file)
        file.seek(0)
        return unpack_record(file.read(size), companions, with_twin=with_twin)


def measure_record(file: BinaryIO) -> int:
    """Returns the size in bytes of the record at the position of a seekable file.

    Reads only the preamble and the headers in the frame. Raises FormatError if the preamble or a
    header is invalid, or if the file ends before the end of the record.
    """
    return walk_record(FileSource(file))


def hash_record(data: bytes | memoryview) -> str:
    """Returns the record hash: the SHA-256 of all bytes of the record, as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def _open_source(source: BinaryIO | bytes | memoryview) -> FileSource:
    return FileSource(io.BytesIO(source) if isinstance(source, (bytes, memoryview)) else source)


def _walk_whole(source: BinaryIO | bytes | memoryview) -> int:
    """Walks a bytes object or a seekable file, and returns the size of its record in bytes.

    Raises FormatError if the source is not exactly one complete record.
    """
    size = walk_record(_open_source(source))
    end = len(source) if isinstance(source, (bytes, memoryview)) else source.seek(0, os.SEEK_END)
    if size != end:
        raise FormatError(
            Rejection.TRAILING, f"{end - size} bytes follow the record; copy it again or re-encode"
        )
    return size


def _check_tokens(
    own: TensorEntry | npt.NDArray[Any] | None, flipped: TensorEntry | npt.NDArray[Any] | None
) -> None:
    if own is not None and flipped is not None and own.shape != flipped.shape:
        raise FormatError(
            Rejection.TENSOR,
            f"tensor {FLIPPED}{CLASS_TOKEN} has shape {list(flipped.shape)}, "
            f"but {CLASS_TOKEN} has {list(own.shape)}; re-encode",
        )


def describe_latents(header: RecordHeader) -> dict[str, Any]:
    """Returns the metadata of exported latents: the header without the keys of the coding.

    The values can be written as JSON: numbers are numbers, and `shape` is a list. Keys without a
    value are left out.
    """
    coding = ("precision", "predictor", "step")
    facts = {
        key: value
        for key, value in vars(header).items()
        if value not in ("", None) and key not in coding
    }
    return facts | {"shape": list(header.shape)}


def list_arrays(record: Record) -> dict[str, npt.NDArray[np.float32]]:
    """Returns the float32 arrays of a record. The keys are the names that exported arrays have.

    The names are `latents` [C, h, w], `logsnr` [C, h, w] of the posterior, and `class_token` [D].
    For the mirrored image, they are `flipped`, `flipped_logsnr` and `flipped_class_token`. A mask
    is not among them.
    """
    arrays = {name: getattr(record, name) for name in ("latents", "logsnr", "class_token")}
    if record.flipped is not None:
        names = ("flipped", "flipped_logsnr", "flipped_class_token")
        arrays |= zip(names, record.flipped[: len(names)], strict=True)
    return {name: array for name, array in arrays.items() if array is not None}


def holds_mask(record: Record) -> bool:
    """True if the image or the mirrored image has a mask that was requested."""
    return record.mask is not None or (
        record.flipped is not None and record.flipped.mask is not None
    )


def list_masks(record: Record) -> dict[str, Mask]:
    """Returns `mask`, uint8 [h, w], and `flipped_mask` if the record holds the mirrored image.

    A mask that the record does not hold, or that was not requested, is 255 everywhere.
    """
    masks = {"mask": record.mask}
    if record.flipped is not None:
        masks["flipped_mask"] = record.flipped.mask
    whole = np.full(record.header.shape[1:], 255, np.uint8)
    return {name: whole.copy() if mask is None else mask for name, mask in masks.items()}
