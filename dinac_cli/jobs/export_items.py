"""Reads the records of an export. Does not import torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dinac_cli.container.header import RecordHeader
from dinac_cli.container.record import describe_latents, hash_record, list_arrays, open_record
from dinac_cli.container.tensors import COMPANIONS
from dinac_cli.errors import DinacError
from dinac_cli.jobs.entries import RecordEntry
from dinac_cli.jobs.export_forms import RECORD_KEY, Exported
from dinac_cli.jobs.results import FileResult, Status


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

    def fail(self, exc: DinacError) -> FileResult:
        """Returns the result of a record that could not be written."""
        return FileResult.fail(self.entry.label, exc, name=self.entry.name)


def read_item(
    entry: RecordEntry,
    hold: Callable[[int], None],
    *,
    find_current: Callable[[RecordEntry, str], str | None] | None,
    check: Callable[[RecordHeader], None] | None = None,
) -> ExportItem | FileResult:
    """Reads a record, unless `find_current` finds that its export is up to date.

    The result is a failure if the record is damaged, or if `check` raises a DinacError.
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
            if check is not None:
                check(opened.header)
            hold(len(data) + opened.declared_bytes(COMPANIONS, with_twin=True))
            record = opened.unpack(COMPANIONS, with_twin=True)
    except DinacError as exc:
        return FileResult.fail(entry.label, exc, name=entry.name)
    header = record.header
    facts = {**describe_latents(header), RECORD_KEY: record_hash}
    exported = Exported(facts, list_arrays(record))
    return ExportItem(entry, exported, record_hash, header.width, header.height, len(data))
