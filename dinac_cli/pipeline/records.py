"""The records of a decode run: one a file, or many in a stream or a concatenation."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from dinac_cli.container.header import RecordHeader
from dinac_cli.container.record import measure_record, read_header
from dinac_cli.container.stream import read_records
from dinac_cli.errors import DinacError, FormatError, UsageError
from dinac_cli.files.content import InputError
from dinac_cli.files.inputs import Input
from dinac_cli.files.naming import CollisionCheck


@dataclass(frozen=True)
class RecordEntry:
    """One record to decode: a file of its own (`path`), or bytes that are here already (`data`).

    `name` is the relative name that the output's name is made of; `error` is set where there is
    no record to decode.
    """

    label: str
    name: str
    path: str | None = None
    data: bytes | None = None
    error: DinacError | None = None


def list_records(inputs: Iterable[Input], stdin: BinaryIO | None) -> Iterator[RecordEntry]:
    """The records of files and streams, in order; a stream is read as it arrives.

    A file of one record gives its own name to the output, in a file of several (as in a stream)
    each record's own name counts, below the folder of the file.
    """
    names = StreamNames()
    for entry in inputs:
        if entry.problem:
            yield RecordEntry(entry.label, entry.name, error=InputError(entry.problem))
        elif entry.path is None:
            assert stdin is not None, "a run that reads standard input is given it"
            yield from _split_stream(stdin, entry.label, "", names)
        elif _holds_several(entry.path):
            folder = entry.name.rpartition("/")[0]
            with open(entry.path, "rb") as file:
                yield from _split_stream(file, entry.label, folder, names)
        else:
            yield RecordEntry(entry.label, entry.name, path=entry.path)


class StreamNames:
    """Names of a stream's records: their own, or counted where that is missing; never one twice."""

    def __init__(self) -> None:
        self._check = CollisionCheck()
        self._count = itertools.count(1)

    def choose(self, header: RecordHeader) -> str:
        """The name of the next record. Raises InputError where it was there before."""
        number = next(self._count)
        name = header.name or f"{number:06d}"
        if not self._check.add(name):
            raise InputError(f"the name {name} is in the stream twice; this record is left out")
        return name


def require_single(entries: Iterator[RecordEntry]) -> Iterator[RecordEntry]:
    """The only record of a run that writes one image to standard output. Raises UsageError."""
    first = list(itertools.islice(entries, 2))
    if len(first) > 1:
        raise UsageError(
            "standard output takes one image and there is a second record: "
            "name an output folder instead of '-'"
        )
    yield from first


def _split_stream(
    stream: BinaryIO, label: str, folder: str, names: StreamNames
) -> Iterator[RecordEntry]:
    found = False
    for number, item in enumerate(read_records(stream), start=1):
        found = True
        title = f"{label} record {number}"
        if isinstance(item.record, FormatError):
            yield RecordEntry(title, title, error=item.record)
            continue
        try:
            name = names.choose(read_header(item.record))
        except DinacError as exc:
            yield RecordEntry(title, title, error=exc)
            continue
        name = f"{folder}/{name}" if folder else name
        yield RecordEntry(f"{label}: {name}", name, data=item.record)
    if not found:
        yield RecordEntry(label, label, error=InputError("is empty; pipe records into it"))


def _holds_several(path: str) -> bool:
    """True for a file that goes on after a whole first record; told by block headers alone."""
    try:
        with open(path, "rb") as file:
            size = measure_record(file)
            return size < os.fstat(file.fileno()).st_size
    except (FormatError, OSError):
        return False  # reading it will say what is wrong
