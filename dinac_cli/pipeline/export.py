"""Records to files of other tools. Free of torch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import BinaryIO

from dinac_cli.container.encoded import COMPANIONS
from dinac_cli.container.exchange import TarWriter, list_arrays, write_npz, write_safetensors
from dinac_cli.container.record import Record, declared_bytes, unpack_record
from dinac_cli.errors import DinacError, OutputError
from dinac_cli.files.atomic import UnwritableDiskError
from dinac_cli.files.content import read_content
from dinac_cli.files.inputs import Input
from dinac_cli.files.naming import LATENT_SUFFIX
from dinac_cli.files.output import Output
from dinac_cli.pipeline.job import READ_BYTES, RunControl
from dinac_cli.pipeline.records import RecordEntry, list_records
from dinac_cli.pipeline.stages import read_within, until_stopped
from dinac_cli.results import FileResult, Status

WRITERS: dict[str, Callable[[Record], bytes]] = {
    "safetensors": write_safetensors,
    "npz": write_npz,
}
WEBDATASET = "webdataset"
FORMATS = (*WRITERS, WEBDATASET)

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
