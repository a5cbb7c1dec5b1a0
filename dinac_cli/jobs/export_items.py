"""Reads the records of an export. Does not import torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy.typing as npt

from dinac_cli.container.header import RecordHeader
from dinac_cli.container.record import (
    describe_latents,
    hash_record,
    holds_mask,
    list_arrays,
    list_masks,
    open_record,
)
from dinac_cli.container.tensors import ALL_COMPANIONS, COMPANIONS
from dinac_cli.errors import DinacError
from dinac_cli.images.masks import require_masks
from dinac_cli.jobs.entries import RecordEntry, list_records
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.export_forms import RECORD_KEY, Exported
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.storage.inputs import Input


@dataclass
class ExportOutcome:
    """What an export reports beside its results.

    `twins_left_out` counts the records whose mirrored images were left out, because the form has no
    place for them. `without_deviation` counts the records without a posterior, if the form has
    deviations; they are 0. `renumbered` lists the class numbers that meant another class in OUT:
    the number, its earlier class, and its class now. `is_unwritten` is true if OUT is one file and
    the run was stopped before it was written.
    """

    twins_left_out: int = 0
    without_deviation: int = 0
    renumbered: list[tuple[int, str, str]] = field(default_factory=list)
    is_unwritten: bool = False


@dataclass(frozen=True)
class ExportItem:
    """A record in exported form. `width` and `height` are those of its image, in pixels."""

    entry: RecordEntry
    exported: Exported
    record_hash: str
    width: int
    height: int
    size_bytes: int

    @property
    def array_bytes(self) -> int:
        """The size of the exported arrays."""
        return sum(array.nbytes for array in self.exported.arrays.values())

    def finish(self, target: str, size_bytes: int, reason: str | None = None) -> FileResult:
        """Returns the result of a record that was written to `target`."""
        return FileResult(
            self.entry.label,
            Status.WRITTEN,
            output=target,
            reason=reason,
            width=self.width,
            height=self.height,
            bytes_in=self.size_bytes,
            bytes_out=size_bytes,
            name=self.entry.name,
        )

    def keep(self, target: str) -> FileResult:
        """Returns the result of a record whose export at `target` is up to date."""
        return FileResult(self.entry.label, Status.DONE, output=target, name=self.entry.name)

    def fail(self, exc: DinacError) -> FileResult:
        """Returns the result of a record that could not be written."""
        return FileResult.fail(self.entry.label, exc, name=self.entry.name)


def read_item(
    entry: RecordEntry,
    hold: Callable[[int], None],
    *,
    find_current: Callable[[RecordEntry, str], str | None] | None,
    check: Callable[[RecordHeader], None],
    masks: bool = False,
) -> ExportItem | FileResult:
    """Reads a record, unless `find_current` finds that its export is up to date.

    With `masks`, the arrays of the item also hold the masks; see `list_masks`. The result is a
    failure if the record is damaged, if `masks` is set and it was encoded without masks, or if
    `check` raises a DinacError.
    """
    try:
        with entry.settle_name():
            data = entry.read()
            record_hash = hash_record(data)
            if find_current is not None:
                target = find_current(entry, record_hash)
                if target is not None:
                    return FileResult(entry.label, Status.DONE, output=target, name=entry.name)
            opened = open_record(data)
            check(opened.header)
            companions = ALL_COMPANIONS if masks else COMPANIONS
            hold(len(data) + opened.declared_bytes(companions, with_twin=True))
            record = opened.unpack(companions, with_twin=True)
            if masks and not holds_mask(record):
                require_masks(record.header.image)
    except DinacError as exc:
        return FileResult.fail(entry.label, exc, name=entry.name)
    header = record.header
    facts = {**describe_latents(header), RECORD_KEY: record_hash}
    arrays: dict[str, npt.NDArray[Any]] = {**list_arrays(record)}
    if masks:
        arrays |= list_masks(record)
    exported = Exported(facts, arrays)
    return ExportItem(entry, exported, record_hash, header.width, header.height, len(data))


class Exporter(ABC):
    """Writes the records of an export to OUT."""

    def list_entries(
        self, inputs: Iterable[Input], stdin: BinaryIO | None
    ) -> Iterator[RecordEntry]:
        """Yields the records of the inputs."""
        return list_records(inputs, stdin)

    def check(self, header: RecordHeader) -> None:  # noqa: B027  most forms take every record
        """Raises InputError for a record that must not be exported."""

    def find_current(self, entry: RecordEntry, record_hash: str) -> str | None:
        """Returns the path of a record's export if the export is known to be up to date."""
        return None

    @abstractmethod
    def write(
        self, items: Iterable[ExportItem | FileResult], control: RunControl
    ) -> Iterator[FileResult]:
        """Writes the items, and yields one result per item."""
