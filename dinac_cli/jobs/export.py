"""Exports records as float32 in the formats of other tools. Does not import torch."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from dinac_cli.container.layout import write_layout
from dinac_cli.container.record import Record, describe_latents, list_arrays, open_record
from dinac_cli.container.tensors import COMPANIONS
from dinac_cli.errors import DinacError, OutputError, UnwritableDiskError, UsageError
from dinac_cli.jobs.entries import RecordEntry, list_records
from dinac_cli.jobs.executor.budget import map_bounded
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.request import (
    LATENTS,
    Announce,
    InputRequest,
    Request,
    Run,
    keep_quiet,
    refuse_file_name,
)
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.storage.inputs import Input
from dinac_cli.storage.naming import LATENT_SUFFIX
from dinac_cli.storage.output import STDOUT, Output, OutputKind

WEBDATASET = "webdataset"

_TAR_BYTES = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class ExportRequest(Request[Run]):
    """A request to export the records of `inputs` into the folder OUT, in one of `FORMATS`."""

    inputs: InputRequest
    out: str
    format: str = "safetensors"
    overwrite: bool = False
    fsync: bool = False

    command: ClassVar[str] = "export"

    def open(self, announce: Announce = keep_quiet) -> Run:
        if self.out == STDOUT:
            raise UsageError("OUT must be a folder here; name a folder")
        selection = self.inputs.select(LATENTS, self.out)
        refuse_file_name(self.out)
        output = Output(self.out, OutputKind.FOLDER, _is_never_ours, self.overwrite, self.fsync)
        work = partial(export_inputs, selection, output, self.format, limit=selection.limit)
        return Run(work=work, selection=selection, output=output)


def _is_never_ours(path: str) -> bool:
    """Returns False: an exported file does not show that dinac wrote it.

    Therefore a run needs --overwrite to replace any file.
    """
    return False


@dataclass(frozen=True)
class _Unpacked:
    entry: RecordEntry
    record: Record
    size_bytes: int


def export_inputs(
    inputs: Iterable[Input],
    output: Output,
    form: str,
    control: RunControl,
    *,
    limit: int | None = None,
) -> Generator[FileResult, None, None]:
    """Exports all records, or the first `limit`, to OUT. Yields one result per record.

    In the formats `safetensors` and `npz`, each record becomes one file. In the format
    `webdataset`, the records become samples in tars of about 64 MiB. The samples are numbered in
    the order of the inputs. Raises OutputError if the disk is full.
    """
    rename = None if form == WEBDATASET else lambda name: name_export(name, form)
    entries = itertools.islice(list_records(inputs, control.stdin, rename), limit)
    with closing(map_bounded(entries, _unpack, control)) as unpacked:
        if form == WEBDATASET:
            yield from _write_tars(unpacked, output)
        else:
            for item in unpacked:
                yield item if isinstance(item, FileResult) else _write(item, output, form)


def name_export(name: str, form: str) -> str:
    """`a.jpg.dinac` → `a.jpg.safetensors`."""
    stem = name[: -len(LATENT_SUFFIX)] if name.lower().endswith(LATENT_SUFFIX) else name
    return f"{stem}.{form}"


def _unpack(entry: RecordEntry, hold: Callable[[int], None]) -> _Unpacked | FileResult:
    try:
        with entry.settle_name():
            data = entry.read()
            opened = open_record(data)
            hold(len(data) + opened.declared_bytes(COMPANIONS, with_twin=True))
            record = opened.unpack(COMPANIONS, with_twin=True)
    except DinacError as exc:
        return FileResult.fail(entry.label, exc, name=entry.name)
    return _Unpacked(entry, record, len(data))


def _write(item: _Unpacked, output: Output, form: str) -> FileResult:
    data = WRITERS[form](item.record)
    target = output.locate(name_export(item.entry.name, form))
    try:
        output.write(target, data)
    except UnwritableDiskError:
        raise
    except OutputError as exc:
        return FileResult.fail(item.entry.label, exc, name=item.entry.name)
    return _finish(item, target, len(data))


def _write_tars(items: Iterable[_Unpacked | FileResult], output: Output) -> Iterator[FileResult]:
    """Writes tars. When a tar is written, yields the results of the records in this tar."""
    tar, held, number, tars = TarWriter(), list[_Unpacked](), 0, 0
    for item in items:
        if isinstance(item, FileResult):
            yield item
            continue
        tar.add(f"{number:08}", item.record)
        held.append(item)
        number += 1
        if tar.size_bytes >= _TAR_BYTES:
            yield from _close_tar(tar, held, output, tars)
            tar, held, tars = TarWriter(), [], tars + 1
    if held:
        yield from _close_tar(tar, held, output, tars)


def _close_tar(
    tar: TarWriter, held: list[_Unpacked], output: Output, number: int
) -> Iterator[FileResult]:
    target = output.locate(f"{number:06}.tar")
    output.write(target, tar.finish())
    for item in held:
        yield _finish(item, target, sum(a.nbytes for a in list_arrays(item.record).values()))


def _finish(item: _Unpacked, target: str, size_bytes: int) -> FileResult:
    return FileResult(
        item.entry.label,
        Status.WRITTEN,
        output=target,
        width=item.record.header.width,
        height=item.record.header.height,
        bytes_in=item.size_bytes,
        bytes_out=size_bytes,
        name=item.entry.name,
    )


def write_safetensors(record: Record) -> bytes:
    """Returns a safetensors file with the arrays of `list_arrays` and the header as metadata."""
    plain = {name: np.ascontiguousarray(a, "<f4") for name, a in list_arrays(record).items()}
    head = write_layout(describe_latents(record.header), plain)
    return b"".join([head, *(array.tobytes() for array in plain.values())])


def write_npz(record: Record) -> bytes:
    """Returns an npz file with the arrays of `list_arrays`, and the header as JSON text."""
    file = io.BytesIO()
    header = np.array(json.dumps(describe_latents(record.header)))
    arrays: dict[str, Any] = {**list_arrays(record), "header": header}
    np.savez(file, **arrays)
    return file.getvalue()


WRITERS: Mapping[str, Callable[[Record], bytes]] = {
    "safetensors": write_safetensors,
    "npz": write_npz,
}
"""The formats with one file per record: suffix of the file → function that makes its bytes."""

FORMATS = (*WRITERS, WEBDATASET)


class TarWriter:
    """Writes a tar of WebDataset samples.

    `KEY.npy` holds the latents, and `KEY.json` holds the header. Each other array has a file with
    the name of the array, such as `KEY.logsnr.npy` or `KEY.flipped.npy`.
    """

    def __init__(self) -> None:
        self._file = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - closed in finish

    @property
    def size_bytes(self) -> int:
        """The number of bytes written so far."""
        return self._file.tell()

    def add(self, key: str, record: Record) -> None:
        """Adds a sample. `key` has no dot, because WebDataset ends a key at the first dot."""
        assert "." not in key
        for name, values in list_arrays(record).items():
            array = io.BytesIO()
            np.save(array, values)
            title = key if name == "latents" else f"{key}.{name}"
            self._add(f"{title}.npy", array.getvalue())
        self._add(f"{key}.json", json.dumps(describe_latents(record.header)).encode())

    def finish(self) -> bytes:
        """Closes the tar and returns its content."""
        self._tar.close()
        return self._file.getvalue()

    def _add(self, name: str, data: bytes) -> None:
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        self._tar.addfile(entry, io.BytesIO(data))
