"""Records to files of other tools. Free of torch."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from dinac_cli.container.layout import write_layout
from dinac_cli.container.record import (
    Record,
    declared_bytes,
    describe_latents,
    list_arrays,
    unpack_record,
)
from dinac_cli.container.tensors import COMPANIONS
from dinac_cli.errors import DinacError, OutputError, UnwritableDiskError
from dinac_cli.jobs.entries import RecordEntry, list_records
from dinac_cli.jobs.executor.budget import read_within
from dinac_cli.jobs.executor.control import RunControl, until_stopped
from dinac_cli.jobs.executor.local import READ_BYTES
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.storage.content import read_content
from dinac_cli.storage.inputs import Input
from dinac_cli.storage.naming import LATENT_SUFFIX
from dinac_cli.storage.output import Output

_TAR_BYTES = 64 * 2**20


@dataclass(frozen=True)
class _Unpacked:
    entry: RecordEntry
    record: Record
    size_bytes: int


def export_files(
    inputs: Iterable[Input],
    output: Output,
    form: str,
    control: RunControl,
    *,
    stdin: BinaryIO | None = None,
    limit: int | None = None,
) -> Generator[FileResult, None, None]:
    """Export every record below OUT in one of `FORMATS`; yields one result a record.

    `safetensors` and `npz` make a file a record, `webdataset` tars of about 64 MiB with samples
    in the order of the inputs, numbered. Raises OutputError where the disk is full.
    """
    rename = None if form == WEBDATASET else lambda name: name_export(name, form)
    entries = itertools.islice(list_records(inputs, stdin, rename), limit)
    with ThreadPoolExecutor(control.workers, "read") as pool:
        stopped = until_stopped(entries, control.stop)
        unpacked = read_within(pool, _unpack, stopped, 2 * control.workers, READ_BYTES)
        with closing(unpacked):
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
            if entry.error is not None:
                raise entry.error
            data = read_content(entry.path).data if entry.path is not None else entry.data or b""
            hold(len(data) + declared_bytes(data, COMPANIONS, with_twin=True))
            record = unpack_record(data, COMPANIONS, with_twin=True)
    except DinacError as exc:
        return FileResult(entry.label, Status.FAILED, reason=str(exc))
    return _Unpacked(entry, record, len(data))


def _write(item: _Unpacked, output: Output, form: str) -> FileResult:
    data = WRITERS[form](item.record)
    target = output.locate(name_export(item.entry.name, form))
    try:
        output.write(target, data)
    except UnwritableDiskError:
        raise
    except OutputError as exc:
        return FileResult(item.entry.label, Status.FAILED, reason=str(exc))
    return _finish(item, target, len(data))


def _write_tars(items: Iterable[_Unpacked | FileResult], output: Output) -> Iterator[FileResult]:
    """Tars one after another; a record is done when the tar that holds it is written."""
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
    data = tar.finish()
    output.write(target, data)
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
    )


def write_safetensors(record: Record) -> bytes:
    """One safetensors file: the arrays of `list_arrays` as F32, and the header as metadata."""
    plain = {name: np.ascontiguousarray(a, "<f4") for name, a in list_arrays(record).items()}
    head = write_layout(describe_latents(record.header), plain)
    return b"".join([head, *(array.tobytes() for array in plain.values())])


def write_npz(record: Record) -> bytes:
    """One npz file: the arrays of `list_arrays`, and the header as JSON in `header`."""
    file = io.BytesIO()
    header = np.array(json.dumps(describe_latents(record.header)))
    arrays: dict[str, Any] = {**list_arrays(record), "header": header}
    np.savez(file, **arrays)
    return file.getvalue()


class TarWriter:
    """A tar of WebDataset samples: `KEY.npy`, the latents, and `KEY.json`, the header.

    What else is exported is named: `KEY.logsnr.npy`, `KEY.flipped.npy`.
    """

    def __init__(self) -> None:
        self._file = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - closed in finish

    @property
    def size_bytes(self) -> int:
        """Bytes so far."""
        return self._file.tell()

    def add(self, key: str, record: Record) -> None:
        """Add a sample; its key must hold no dot, at which WebDataset would cut it."""
        assert "." not in key
        for name, values in list_arrays(record).items():
            array = io.BytesIO()
            np.save(array, values)
            title = key if name == "latents" else f"{key}.{name}"
            self._add(f"{title}.npy", array.getvalue())
        self._add(f"{key}.json", json.dumps(describe_latents(record.header)).encode())

    def finish(self) -> bytes:
        """The whole tar."""
        self._tar.close()
        return self._file.getvalue()

    def _add(self, name: str, data: bytes) -> None:
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        self._tar.addfile(entry, io.BytesIO(data))


WRITERS: dict[str, Callable[[Record], bytes]] = {
    "safetensors": write_safetensors,
    "npz": write_npz,
}
WEBDATASET = "webdataset"
FORMATS = (*WRITERS, WEBDATASET)
