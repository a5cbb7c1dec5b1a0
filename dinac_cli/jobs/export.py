"""Exports records as float32 in the formats of other tools. Does not import torch."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import BinaryIO, ClassVar, NamedTuple

from dinac_cli.container.header import RecordHeader
from dinac_cli.errors import InputError, OutputError, UnwritableDiskError, UsageError
from dinac_cli.jobs.edm2_places import ZIP_SUFFIX, is_own_zip
from dinac_cli.jobs.edm2_set import Edm2Exporter
from dinac_cli.jobs.entries import RecordEntry, list_records, name_sample
from dinac_cli.jobs.executor.budget import map_bounded
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.export_forms import (
    FORMS,
    RECORD_CHANGED,
    Exported,
    is_sealed_json,
    refuse_changed,
)
from dinac_cli.jobs.export_items import Exporter, ExportItem, ExportOutcome, read_item
from dinac_cli.jobs.lightningdit_set import LightningDitExporter
from dinac_cli.jobs.request import (
    LATENTS,
    Announce,
    InputRequest,
    Request,
    Run,
    Selection,
    keep_quiet,
    refuse_file_name,
)
from dinac_cli.jobs.results import FileResult
from dinac_cli.jobs.tar_set import KEY_KINDS, TAR_BYTES, Place, SampleName, SampleWriter, TarSet
from dinac_cli.jobs.training_set import LABEL_KINDS, TrainingSet, survey_records
from dinac_cli.storage.caption_files import CaptionFiles, open_captions
from dinac_cli.storage.inputs import Input
from dinac_cli.storage.naming import strip_suffix
from dinac_cli.storage.output import STDOUT, Output, OutputKind
from dinac_cli.storage.parts import Shard

WEBDATASET, COMFYUI = "webdataset", "comfyui"


class _TrainingForm(NamedTuple):
    """A form that needs a whole training set: what reads it, who writes it, and what it needs.

    `is_ours` is true for a file that dinac wrote and nobody changed. If `is_own_zip` is given, OUT
    may be a zip of all files; it is true for a zip that dinac wrote and nobody changed.
    """

    reader: str
    exporter: Callable[[Output, TrainingSet, ExportOutcome], Exporter]
    is_ours: Callable[[str], bool]
    twins: bool = False
    labels: bool = False
    is_own_zip: Callable[[str], bool] | None = None


TRAINING_SETS: Mapping[str, _TrainingForm] = {
    "lightningdit": _TrainingForm(
        "LightningDiT", LightningDitExporter, FORMS["safetensors"].is_ours, twins=True, labels=True
    ),
    "edm2": _TrainingForm("EDM2", Edm2Exporter, is_sealed_json, is_own_zip=is_own_zip),
}
"""The forms whose files hold or count all records of a run."""

FORMATS = (*FORMS, WEBDATASET, *TRAINING_SETS)

WITHOUT_TWINS = (COMFYUI, "edm2")
"""The formats that have no place for the mirrored image of a record."""


@dataclass(kw_only=True)
class ExportRun(Run):
    """An export that is ready to start. The run fills `outcome`."""

    outcome: ExportOutcome


@dataclass(frozen=True, kw_only=True)
class ExportRequest(Request[ExportRun]):
    """A request to export the records of `inputs` into OUT, in one of `FORMATS`.

    OUT is a folder; of a training set, it may be a zip.

    `keys`, one of `KEY_KINDS`, says what the keys of WebDataset samples are. If `force` is set,
    records are exported for readers that are made for another model. `labels`, one of
    `LABEL_KINDS`, says where the classes of `TRAINING_SETS` come from. `dtype`, one of
    `ARRAY_TYPES`, is the type of the arrays of WebDataset samples; `index` adds an index of their
    tars, `captions` is the place of their captions (see `open_captions`), and `masks` adds masks.
    """

    inputs: InputRequest
    out: str
    format: str = "safetensors"
    keys: str = "number"
    force: bool = False
    labels: str = "none"
    dtype: str = "f32"
    index: bool = False
    captions: str | None = None
    masks: bool = False
    overwrite: bool = False
    fsync: bool = False

    command: ClassVar[str] = "export"

    def open(self, announce: Announce = keep_quiet) -> ExportRun:
        if self.out == STDOUT:
            raise UsageError("OUT must be a folder here; name a folder")
        if self.force and self.format != COMFYUI:
            raise UsageError(f"--force needs --to {COMFYUI}")
        self._check_tar_options()
        self._check_labels()
        selection = self.inputs.select(LATENTS, self.out)
        self._check_training_set(selection)
        if _find_zip_rule(self.out, self.format) is None:
            self._refuse_zip()
            refuse_file_name(self.out)
        outcome = ExportOutcome()
        output = open_output(self.out, self.format, overwrite=self.overwrite, fsync=self.fsync)
        work = partial(
            export_inputs,
            selection,
            output,
            self.format,
            limit=selection.limit,
            keys=self.keys,
            shard=selection.shard,
            force=self.force,
            labels=self.labels,
            dtype=self.dtype,
            index=self.index,
            captions=None if self.captions is None else open_captions(self.captions),
            masks=self.masks,
            outcome=outcome,
        )
        return ExportRun(work=work, selection=selection, output=output, outcome=outcome)

    def _refuse_zip(self) -> None:
        if self.out.lower().endswith(ZIP_SUFFIX) and not os.path.isdir(self.out):
            zipped = " or ".join(name for name, form in TRAINING_SETS.items() if form.is_own_zip)
            raise UsageError(
                f"{self.out}: OUT must be a folder here; only --to {zipped} writes a zip"
            )

    def _check_tar_options(self) -> None:
        options = {
            f"--keys {self.keys}": self.keys != KEY_KINDS[0],
            f"--dtype {self.dtype}": self.dtype != "f32",
            "--wids": self.index,
            "--captions": self.captions is not None,
            "--masks": self.masks,
        }
        for option, is_given in options.items():
            if is_given and self.format != WEBDATASET:
                raise UsageError(f"{option} needs --to {WEBDATASET}")

    def _check_labels(self) -> None:
        form = TRAINING_SETS.get(self.format)
        is_labelled = self.labels != LABEL_KINDS[0]
        if form is None and is_labelled:
            raise UsageError(f"--labels {self.labels} needs --to {' or '.join(TRAINING_SETS)}")
        if form is not None and form.labels and not is_labelled:
            raise UsageError(
                f"--to {self.format}: {form.reader} needs a class for each image; add --labels "
                "folders, with one folder per class below the input"
            )

    def _check_training_set(self, selection: Selection) -> None:
        if self.format not in TRAINING_SETS:
            return
        if selection.reads_stdin:
            raise UsageError(
                f"--to {self.format} reads its inputs twice; name files or folders instead of -"
            )
        if selection.shard is not None:
            raise UsageError(
                f"--to {self.format} numbers all records of a set, so it cannot take one --shard"
            )


def open_output(out: str, form: str, *, overwrite: bool = False, fsync: bool = False) -> Output:
    """Returns OUT of an export in one of `FORMATS`.

    Of files with one record, it replaces those that dinac wrote and nobody changed. `TarSet`
    checks tars itself.
    """
    is_ours: Callable[[str], bool] = _is_never_ours
    if form in FORMS:
        is_ours = FORMS[form].is_ours
    elif form in TRAINING_SETS:
        is_ours = TRAINING_SETS[form].is_ours
    if (is_own_zip := _find_zip_rule(out, form)) is not None:
        return Output(out, OutputKind.FILE, is_own_zip, overwrite, fsync)
    return Output(out, OutputKind.FOLDER, is_ours, overwrite, fsync)


def _find_zip_rule(out: str, form: str) -> Callable[[str], bool] | None:
    """Returns the `is_own_zip` of a form if OUT is a zip; None if OUT is a folder."""
    if form not in TRAINING_SETS or not out.lower().endswith(ZIP_SUFFIX) or os.path.isdir(out):
        return None
    return TRAINING_SETS[form].is_own_zip


def _is_never_ours(path: str) -> bool:
    """Returns False: a new tar must not replace one that another run wrote meanwhile."""
    return False


def export_inputs(
    inputs: Iterable[Input],
    output: Output,
    form: str,
    control: RunControl,
    *,
    limit: int | None = None,
    keys: str = "number",
    shard: Shard | None = None,
    force: bool = False,
    labels: str = "none",
    dtype: str = "f32",
    index: bool = False,
    captions: CaptionFiles | None = None,
    masks: bool = False,
    outcome: ExportOutcome | None = None,
) -> Generator[FileResult, None, None]:
    """Exports all records, or the first `limit`, to OUT. Yields one result per record.

    Keeps what an earlier run exported from the same record. In the formats of `FORMS`, each record
    becomes one file; without `force`, a record that its readers would misread fails. In the format
    `webdataset`, the records become samples in tars of about 64 MiB; see `TarSet` for `keys`,
    `shard` and `dtype`. `captions` adds prompts to these samples, `masks` masks, and `index` an
    index of the tars. For `TRAINING_SETS`, all headers are read first; see `survey_records` for
    `labels`. The run fills `outcome`. Raises OutputError if the disk is full, if OUT holds files of
    others that would be read as part of the export, or if another run adds the same tars;
    UsageError if OUT holds tars with other keys or another dtype, or if the records do not make a
    training set.
    """
    exporter: Exporter
    outcome = outcome or ExportOutcome()
    if form == WEBDATASET:
        exporter = _open_tars(TarSet(output, keys, shard, dtype, masks), captions, with_index=index)
    elif form in TRAINING_SETS:
        entries = itertools.islice(list_records(inputs, None), limit)
        needs = TRAINING_SETS[form]
        surveyed = survey_records(
            entries, control, reader=needs.reader, twins=needs.twins, labels=labels
        )
        exporter = needs.exporter(output, surveyed, outcome)
    else:
        exporter = _FileExporter(output, form, force=force)
    entries = itertools.islice(exporter.list_entries(inputs, control.stdin), limit)
    find_current = exporter.find_current if output.keeps_existing else None
    read = partial(read_item, find_current=find_current, check=exporter.check, masks=masks)
    with closing(map_bounded(entries, read, control)) as items:
        counted = _count_twins(items, outcome) if form in WITHOUT_TWINS else items
        yield from exporter.write(counted, control)
    outcome.is_unwritten = output.kind is OutputKind.FILE and bool(control.stop)


def _count_twins(
    items: Iterable[ExportItem | FileResult], outcome: ExportOutcome
) -> Iterator[ExportItem | FileResult]:
    """Yields `items`, and counts those with a mirrored image."""
    for item in items:
        if isinstance(item, ExportItem) and "flipped" in item.exported.arrays:
            outcome.twins_left_out += 1
        yield item


def _open_tars(tars: TarSet, captions: CaptionFiles | None, *, with_index: bool) -> Exporter:
    tars.scan()
    return _TarExporter(tars, captions=captions, with_index=with_index)


def name_export(name: str, form: str) -> str:
    """`a.jpg.dinac` → `a.jpg.safetensors`."""
    return f"{strip_suffix(name)}.{FORMS[form].suffix}"


class _FileExporter(Exporter):
    """Writes one file per record. Without `force`, refuses what the readers would misread."""

    def __init__(self, output: Output, form: str, *, force: bool) -> None:
        self._output = output
        self._form = FORMS[form]
        self._force = force
        self._rename = partial(name_export, form=form)

    def list_entries(
        self, inputs: Iterable[Input], stdin: BinaryIO | None
    ) -> Iterator[RecordEntry]:
        """Yields the records of the inputs. Reading a record fails if its file is taken."""
        return list_records(inputs, stdin, self._rename)

    def check(self, header: RecordHeader) -> None:
        """Raises InputError for a record of a model that the form is not for."""
        if not self._force:
            self._form.check(header)

    def find_current(self, entry: RecordEntry, record_hash: str) -> str | None:
        """Returns the path of a record's file if the file is up to date."""
        target = self._output.locate(self._rename(entry.name))
        return target if self._form.is_current(target, record_hash) else None

    def write(
        self, items: Iterable[ExportItem | FileResult], control: RunControl
    ) -> Iterator[FileResult]:
        """Writes the items, and yields one result per item."""
        for item in items:
            yield item if isinstance(item, FileResult) else self._write(item)

    def _write(self, item: ExportItem) -> FileResult:
        target = self._output.locate(self._rename(item.entry.name))
        is_stale = self._output.keeps_existing and os.path.lexists(target)
        if is_stale and not self._form.is_ours(target):
            return item.fail(refuse_changed(target))
        data = self._form.write(item.exported)
        try:
            self._output.write(target, data)
        except UnwritableDiskError:
            raise
        except OutputError as exc:
            return item.fail(exc)
        return item.finish(target, len(data), RECORD_CHANGED if is_stale else None)


@dataclass(frozen=True)
class _Copy(RecordEntry):
    """A record and its number among the records of the run that have the same name."""

    copy: int = 1


def _count_copies(entries: Iterable[RecordEntry]) -> Iterator[RecordEntry]:
    """Numbers the records whose samples have the same name."""
    seen: Counter[int] = Counter()  # hashes of names, which need less memory
    for entry in entries:
        if entry.error is not None:
            yield entry
            continue
        key = hash(name_sample(entry.name))
        seen[key] += 1
        yield _Copy(**vars(entry), copy=seen[key])


def _name_entry(entry: RecordEntry) -> SampleName:
    copy = entry.copy if isinstance(entry, _Copy) else 1
    return SampleName(name_sample(entry.name), copy)


@dataclass
class _OpenTar:
    """A tar that is being filled with new samples."""

    writer: SampleWriter = field(default_factory=SampleWriter)
    items: list[ExportItem] = field(default_factory=list)


@dataclass
class _StaleTar:
    """A tar of OUT with samples to replace.

    `samples` maps the identity of each old sample to the new one. Equal anonymous records share an
    identity, so there may be more `items`. With each item, says why it was stale.
    """

    samples: dict[str, Exported] = field(default_factory=dict)
    items: list[tuple[ExportItem, str | None]] = field(default_factory=list)


class _TarExporter(Exporter):
    """Adds new samples in new tars, and replaces stale samples in their tars.

    Stale samples are collected until they have the size of a tar: stale samples of several tars may
    alternate, and each tar should be rewritten once. In memory are one new tar, the collected
    samples, and the tar that is being rewritten. A run that is stopped discards the new tar and the
    collected samples, so that later runs end with the tars of an uninterrupted run. `with_index`
    says whether a run that is not stopped ends with an index of all tars.
    """

    def __init__(self, tars: TarSet, *, captions: CaptionFiles | None, with_index: bool) -> None:
        self._tars = tars
        self._captions = captions
        self._with_index = with_index

    def list_entries(
        self, inputs: Iterable[Input], stdin: BinaryIO | None
    ) -> Iterator[RecordEntry]:
        """Yields the records of the inputs. Reading a record fails if its key is taken."""
        if self._tars.keys == "name":
            return list_records(inputs, stdin, name_sample)
        return _count_copies(list_records(inputs, stdin))

    def find_current(self, entry: RecordEntry, record_hash: str) -> str | None:
        """Returns the path of the tar with a record's sample if the sample is up to date."""
        place = self._find(entry, record_hash)
        return place.path if place is not None and place.is_current else None

    def write(
        self, items: Iterable[ExportItem | FileResult], control: RunControl
    ) -> Iterator[FileResult]:
        """Writes the items. Yields the results of a tar's items when the tar is written."""
        new = _OpenTar()
        stale: dict[str, _StaleTar] = {}
        stale_bytes = 0
        for item in items:
            if isinstance(item, FileResult):
                yield item
                continue
            try:
                item = self._describe(item)
                place = self._find(item.entry, item.record_hash)
            except InputError as exc:
                yield item.fail(exc)
                continue
            if place is None:
                self._add(item, new)
                if new.writer.size_bytes >= TAR_BYTES:
                    yield from self._close(new)
                    new = _OpenTar()
                continue
            tar = stale.setdefault(place.path, _StaleTar())
            tar.samples[place.identity] = item.exported
            tar.items.append((item, place.stale if self._tars.output.keeps_existing else None))
            stale_bytes += item.array_bytes
            if stale_bytes >= TAR_BYTES:
                yield from self._replace(stale)
                stale, stale_bytes = {}, 0
        if not control.stop:
            yield from self._replace(stale)
            yield from self._close(new)
            if self._with_index:
                self._tars.write_index()

    def _describe(self, item: ExportItem) -> ExportItem:
        name, prompt = _name_entry(item.entry), self._find_prompt(item.entry)
        return replace(item, exported=self._tars.describe(item.exported, name, prompt))

    def _find(self, entry: RecordEntry, record_hash: str) -> Place | None:
        return self._tars.find(_name_entry(entry), record_hash, self._find_prompt(entry))

    def _find_prompt(self, entry: RecordEntry) -> str | None:
        """Returns the caption of a record; None if none was asked for. Raises InputError."""
        if self._captions is None:
            return None
        name = strip_suffix(entry.name)
        prompt = self._captions.find(name)
        if prompt is None:
            raise InputError(
                f"has no caption ({self._captions.describe_lack(name)}); add it, or leave out "
                "--captions"
            )
        return prompt

    def _add(self, item: ExportItem, tar: _OpenTar) -> None:
        tar.writer.add(self._tars.draw_key(_name_entry(item.entry)), item.exported)
        tar.items.append(item)

    def _close(self, tar: _OpenTar) -> Iterator[FileResult]:
        if tar.items:
            target = self._tars.add(tar.writer.finish())
            yield from (item.finish(target, item.array_bytes) for item in tar.items)

    def _replace(self, tars: Mapping[str, _StaleTar]) -> Iterator[FileResult]:
        for path, tar in tars.items():
            try:
                self._tars.replace(path, tar.samples)
            except UnwritableDiskError:
                raise
            except OutputError as exc:
                yield from (item.fail(exc) for item, _ in tar.items)
            else:
                yield from (item.finish(path, item.array_bytes, why) for item, why in tar.items)
