"""Latent records to images."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from dinac_cli.codec.handle import ModelHandle
from dinac_cli.codec.records import check_model
from dinac_cli.container.header import RecordHeader
from dinac_cli.container.record import (
    Record,
    declared_bytes,
    hash_record,
    read_header,
    unpack_record,
)
from dinac_cli.container.tensors import Latents
from dinac_cli.errors import FormatError, InputError, OutputError, Rejection, UsageError
from dinac_cli.images.formats import OutputFormat, looks_like_image
from dinac_cli.images.stamp import read_stamp
from dinac_cli.images.writing import write_image
from dinac_cli.jobs.entries import RecordEntry, list_records, require_single
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.executor.job import Computing, Job, Made, Work, deliver
from dinac_cli.jobs.executor.local import run_job
from dinac_cli.jobs.freshness import (
    State,
    Verdict,
    WantedImage,
    check_image,
    describe_difference,
)
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.models.dinac.config import DinacAEInferenceConfig
from dinac_cli.storage.content import read_content
from dinac_cli.storage.inputs import Input
from dinac_cli.storage.naming import ignores_case, name_image
from dinac_cli.storage.output import Output, OutputKind

_INPUTS_LOOKED_AT = 64


@dataclass(frozen=True)
class DecodeOptions:
    """How records become images.

    `find_model` gives the model for a latent space (or raises ModelError); `limit` bounds the
    number of records, `allow_other_model` decodes latents of another space all the same, `flipped`
    decodes the mirrored image of each record.
    """

    settings: DinacAEInferenceConfig
    format: OutputFormat
    find_model: Callable[[RecordHeader], ModelHandle]
    allow_other_model: bool = False
    limit: int | None = None
    flipped: bool = False


def decode_files(
    inputs: Iterable[Input],
    output: Output,
    options: DecodeOptions,
    control: RunControl,
    *,
    stdin: BinaryIO | None = None,
    stdout: BinaryIO | None = None,
) -> Generator[FileResult, None, None]:
    """Decode every record; yields one result a record as soon as it is final.

    Models are loaded when the first record needs them, each once. With `output` a stream, the
    only image goes to `stdout`. Raises DinacError where the run as a whole cannot go on.
    """
    records = list_records(
        inputs,
        stdin,
        lambda name: name_image(name, options.format.suffixes),
        fold_case=output.kind is OutputKind.FOLDER and ignores_case(output.path),
    )
    entries: Iterator[RecordEntry] = itertools.islice(records, options.limit)
    job = DecodeJob(output, options)
    if output.kind is OutputKind.FOLDER:
        return run_job(job, entries, control)
    if output.kind is OutputKind.FILE:
        return run_job(job, require_single(entries, output.path), control)
    return run_job(job, require_single(entries, "standard output"), control, stdout)


@dataclass(frozen=True)
class _ReadRecord(Work):
    name: str
    record: Record
    model: ModelHandle
    record_hash: str
    size_bytes: int
    redo_reason: str | None


@dataclass(frozen=True)
class _Group:
    """What records of one batch share: the model and the latent grid."""

    model: int
    height: int
    width: int


class DecodeJob(Job[RecordEntry, _ReadRecord, npt.NDArray[np.uint8]]):
    """What `decode_files` does with each record."""

    def __init__(self, output: Output, options: DecodeOptions) -> None:
        self._output = output
        self._options = options
        self._models: dict[int, ModelHandle] = {}

    def read(self, entry: RecordEntry, hold: Callable[[int], None]) -> _ReadRecord | FileResult:
        with entry.settle_name():
            return self._read(entry, hold)

    def _read(self, entry: RecordEntry, hold: Callable[[int], None]) -> _ReadRecord | FileResult:
        if entry.error is not None:
            raise entry.error
        data = read_content(entry.path).data if entry.path is not None else entry.data or b""
        if looks_like_image(data):
            raise InputError("an image, not a latent record: encode makes a record of it")
        header = read_header(data)
        model = self._options.find_model(header)
        check_model(header, model, allow_other=self._options.allow_other_model)
        record_hash = hash_record(data)
        verdict = self._judge(entry, record_hash, model)
        if verdict.state is State.DONE:
            return FileResult(entry.label, Status.DONE, output=self._locate(entry))
        channels, rows, columns = header.shape
        flipped = self._options.flipped
        hold(len(data) + declared_bytes(data, with_twin=flipped))  # while it is unpacked
        held_bytes = len(data) + 4 * channels * rows * columns
        self._models[id(model)] = model
        group = _Group(id(model), rows * header.patch, columns * header.patch)
        record = unpack_record(data, with_twin=flipped)
        if flipped:
            record = Record(header, require_twin(record))
        return _ReadRecord(
            entry.label,
            group,
            held_bytes,
            entry.name,
            record,
            model,
            record_hash,
            len(data),
            verdict.reason,
        )

    def batch_size(self, group: Hashable) -> int:
        assert isinstance(group, _Group)
        return self._models[group.model].engine.batch_size(group.height, group.width)

    def submit(self, batch: list[_ReadRecord]) -> Computing[npt.NDArray[np.uint8]]:
        engine = batch[0].model.engine
        headers = [work.record.header for work in batch]
        engine.check_size(headers[0].height, headers[0].width)
        sizes = [(header.height, header.width) for header in headers]
        latents = [work.record.latents for work in batch]
        return engine.submit_latents(latents, sizes, self._options.settings)

    def finish(self, work: _ReadRecord, computed: npt.NDArray[np.uint8]) -> Made:
        wanted = self._want(work.record_hash, work.model)
        form = self._options.format
        data = write_image(computed, form.name, stamp=wanted.stamp if form.has_stamp else None)
        height, width, _ = computed.shape
        result = FileResult(
            work.label,
            Status.WRITTEN,
            reason=work.redo_reason,
            width=width,
            height=height,
            bytes_in=work.size_bytes,
            bytes_out=len(data),
        )
        if not form.has_stamp and self._is_same(self._locate(work), data):
            return Made(replace(result, output=self._locate(work)))
        return deliver(self._output, name_image(work.name, form.suffixes), data, result)

    def _judge(self, entry: RecordEntry, record_hash: str, model: ModelHandle) -> Verdict:
        """What is to be done about the image that may be there already."""
        if self._output.kind is OutputKind.STREAM or self._output.overwrite:
            return Verdict(State.ABSENT)
        target = self._locate(entry)
        self._output.prepare(target)
        if not self._options.format.has_stamp:
            return Verdict(State.ABSENT)  # nothing tells whose it is before it is made again
        return check_image(target, self._want(record_hash, model))

    def _is_same(self, target: str, data: bytes) -> bool:
        """Whether an unstamped image is there already. Raises OutputError for another one."""
        is_free = self._output.kind is OutputKind.STREAM or self._output.overwrite
        if is_free or not os.path.lexists(target):
            return False
        if os.path.isfile(target) and read_content(target).data == data:
            return True
        raise OutputError(
            f"{target}: exists and is another image, and {self._options.format.name} files do not "
            "say who wrote them; choose another output folder or add --overwrite"
        )

    def _locate(self, entry: RecordEntry | _ReadRecord) -> str:
        return self._output.locate(name_image(entry.name, self._options.format.suffixes))

    def _want(self, record_hash: str, model: ModelHandle) -> WantedImage:
        options = self._options
        settings = describe_settings(options.settings, flipped=options.flipped)
        return WantedImage(record_hash, model.identity.weights, settings)


def require_twin(record: Record) -> Latents:
    """The latents of the mirrored image. Raises FormatError for a record without."""
    if record.flipped is None:
        raise FormatError(
            Rejection.TENSOR,
            "holds no mirrored image: encode with --flip, or decode without --flipped",
        )
    return record.flipped.latents


def refuse_other_settings(
    inputs: Iterable[Input], output: Output, form: OutputFormat, settings: str
) -> None:
    """Stop before any work where OUT holds images of these inputs, decoded with other settings.

    `settings` are as `describe_settings` has them. The first inputs tell; what differs further on
    is a failure of its own. Raises UsageError.
    """
    if output.overwrite or output.kind is OutputKind.STREAM:
        return
    for entry in itertools.islice(inputs, _INPUTS_LOOKED_AT):
        target = output.locate(name_image(entry.name, form.suffixes))
        stamp = read_stamp(Path(target))
        if stamp is None:
            continue
        conflict = describe_difference(stamp, "settings", settings)
        if conflict is not None:
            raise UsageError(
                f"{output.path} already holds images decoded with {conflict} ({target}): "
                "choose another OUT, or add --overwrite to decode all anew"
            )
        return


def describe_settings(settings: DinacAEInferenceConfig, *, flipped: bool = False) -> str:
    """The settings of a decode as they stand in an image's stamp: `steps=1;sampler=ddim;…`."""
    pairs: dict[str, object] = {
        "steps": settings.num_steps,
        "sampler": settings.sampler,
        "schedule": settings.schedule,
        "guidance": f"{settings.pdg_strength:g}" if settings.pdg else "off",
        "strength": f"{settings.strength:g}",
        "seed": "fresh" if settings.seed is None else settings.seed,
    }
    if flipped:
        pairs["image"] = "flipped"
    return ";".join(f"{key}={value}" for key, value in pairs.items())
