"""Paints the latents of records without decoding them. Does not import torch."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

from dinac_cli.container.record import open_record
from dinac_cli.errors import DinacError, OutputError, UsageError
from dinac_cli.jobs.color_map import ColorMaps
from dinac_cli.jobs.contact_sheet import (
    MAX_THUMBNAILS,
    Thumbnail,
    arrange_sheet,
    is_sheet,
    make_thumbnail,
    pack_sheet,
)
from dinac_cli.jobs.entries import RecordEntry, list_records, name_sample
from dinac_cli.jobs.executor.budget import map_bounded
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.request import LATENTS, Announce, InputRequest, Request, Run, keep_quiet
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.storage.inputs import Input
from dinac_cli.storage.output import Output, OutputKind

_GROUP_RECORDS = 64


@dataclass(frozen=True, kw_only=True)
class PreviewRequest(Request["PreviewRun"]):
    """A request to paint the records of `inputs`.

    The sheet is written to the PNG file OUT, unless `out` is None. `map_file` is the file of a
    colour map, or None. `inputs.limit` is the largest number of records, at most `MAX_THUMBNAILS`.
    """

    inputs: InputRequest
    out: str | None = None
    map_file: str | None = None
    overwrite: bool = False

    command: ClassVar[str] = "preview"
    uses_model: ClassVar[bool] = False
    most_workers: ClassVar[int] = 1  # more threads wait for Python's lock, also with large records

    def open(self, announce: Announce = keep_quiet) -> PreviewRun:
        limit = self.inputs.limit
        if limit is None or limit > MAX_THUMBNAILS:
            raise UsageError(f"--limit {limit}: a sheet holds at most {MAX_THUMBNAILS} records")
        selection, sheet = self.inputs.select(LATENTS, self.out), Sheet(limit)
        output = None if self.out is None else open_file(self.out, is_sheet, self.overwrite)
        maps = ColorMaps(self.map_file)
        work = partial(preview_records, selection, output, maps, sheet)
        return PreviewRun(work=work, selection=selection, output=output, sheet=sheet)


def open_file(out: str, is_ours: Callable[[str], bool], overwrite: bool) -> Output:
    """Returns OUT, one file. Raises UsageError, OutputError if OUT must not be written."""
    if os.path.isdir(out):
        raise UsageError(f"{out}: OUT, the last argument, is a folder; name a file")
    if os.path.lexists(out) and not overwrite and not is_ours(out):
        raise OutputError(
            f"{out}: exists and dinac preview did not write it; add --overwrite to replace it"
        )
    return Output(out, OutputKind.FILE, is_ours, overwrite)


@dataclass
class Sheet:
    """The pictures of a run, at most `limit`. `size_bytes` is the size of the PNG file."""

    limit: int
    thumbnails: list[Thumbnail] = field(default_factory=list)
    size_bytes: int = 0


@dataclass(kw_only=True)
class PreviewRun(Run):
    """A preview run that is ready to start. The run fills `sheet`."""

    sheet: Sheet


def preview_records(
    inputs: Iterable[Input],
    output: Output | None,
    maps: ColorMaps,
    sheet: Sheet,
    control: RunControl,
) -> Generator[FileResult, None, None]:
    """Adds the pictures of the first `sheet.limit` records to `sheet`, in order.

    At the end, writes the sheet to `output`, unless it is None. If the run was stopped or no
    record could be painted, writes nothing.
    """
    entries = itertools.islice(list_records(inputs, control.stdin), sheet.limit)
    groups = _group_entries(entries)
    with closing(map_bounded(groups, partial(_paint_group, maps), control)) as painted:
        for result, thumbnail in itertools.chain.from_iterable(painted):
            if thumbnail is not None:
                sheet.thumbnails.append(thumbnail)
            yield result
    if output is not None and sheet.thumbnails and not control.stop:
        data = pack_sheet(arrange_sheet(sheet.thumbnails))
        output.write(output.path, data)
        sheet.size_bytes = len(data)


def _group_entries(entries: Iterable[RecordEntry]) -> Iterator[list[RecordEntry]]:
    """Yields groups of records, each for one thread.

    Handing over a small record takes as long as reading it. A record that is already in memory ends
    its group, so that few of them wait.
    """
    group: list[RecordEntry] = []
    for entry in entries:
        group.append(entry)
        if len(group) == _GROUP_RECORDS or entry.held_bytes:
            yield group
            group = []
    if group:
        yield group


def _paint_group(
    maps: ColorMaps, entries: list[RecordEntry], hold: Callable[[int], None]
) -> list[tuple[FileResult, Thumbnail | None]]:
    return [_paint(maps, entry, hold) for entry in entries]


def _paint(
    maps: ColorMaps, entry: RecordEntry, hold: Callable[[int], None]
) -> tuple[FileResult, Thumbnail | None]:
    try:
        data = entry.read()
        opened = open_record(data)
        color_map = maps.find(opened.header)
        hold(len(data) + 2 * opened.declared_bytes())  # the latents, and their copy for the product
        pixels = color_map.paint(opened.unpack().latents)
    except DinacError as exc:
        return FileResult.fail(entry.label, exc, name=entry.name), None
    name = name_sample(entry.name)
    header = opened.header
    result = FileResult(
        entry.label,
        Status.READ,
        width=header.width,
        height=header.height,
        bytes_in=len(data),
        name=entry.name,
    )
    return result, make_thumbnail(name, pixels)
