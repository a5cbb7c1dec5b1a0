"""Records against what they say of themselves, their model, and the images they were made of."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from dinac_cli.codec.handle import ModelHandle
from dinac_cli.codec.records import check_model
from dinac_cli.container.header import RecordHeader
from dinac_cli.container.record import Record, declared_bytes, read_header, unpack_record
from dinac_cli.container.tensors import COMPANIONS
from dinac_cli.errors import InputError
from dinac_cli.images.reading import hold_beside
from dinac_cli.jobs.encode import Twins, submit_with_twins
from dinac_cli.jobs.entries import RecordEntry, list_records
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.executor.job import Computing, Job, Made, Work
from dinac_cli.jobs.executor.local import run_job
from dinac_cli.jobs.freshness import read_description
from dinac_cli.jobs.reencode import (
    Candidate,
    Reencoding,
    choose_sample,
    describe_delta,
    measure_delta,
    read_source_pixels,
)
from dinac_cli.jobs.results import FileResult, SourceState, Status
from dinac_cli.storage.content import hash_file, read_content
from dinac_cli.storage.inputs import Input
from dinac_cli.storage.naming import LATENT_SUFFIX


@dataclass(frozen=True)
class VerifyOptions:
    """What is looked at beside the records themselves.

    `model` is the one they must be of, `source` the folder of their images, `reencoding` (with
    `source` only) the sample that is encoded anew; None leaves each out. `limit` bounds the number
    of records.
    """

    model: ModelHandle | None = None
    source: str | None = None
    reencoding: Reencoding | None = None
    limit: int | None = None


def verify_files(
    inputs: Iterable[Input],
    options: VerifyOptions,
    control: RunControl,
    *,
    stdin: BinaryIO | None = None,
) -> Generator[FileResult, None, None]:
    """Verify every record; yields one result a record, verified or failed with all its findings.

    A model is loaded only where a record is to be encoded anew. Raises DinacError where the run as
    a whole cannot go on.
    """
    entries = itertools.islice(list_records(inputs, stdin), options.limit)
    percent = 0.0 if options.reencoding is None else options.reencoding.percent
    return run_job(VerifyJob(options), choose_sample(entries, percent), control)


@dataclass(frozen=True)
class _SourcePixels(Work):
    result: FileResult
    record: Record
    model: ModelHandle
    pixels: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class _Group:
    """What images of one batch share: the model and the padded size in pixels."""

    model: int
    height: int
    width: int


class VerifyJob(Job[Candidate, _SourcePixels, Twins]):
    """What `verify_files` does with each record: the model's part is that of the sample alone."""

    def __init__(self, options: VerifyOptions) -> None:
        self._options = options
        self._models: dict[int, ModelHandle] = {}

    def read(self, candidate: Candidate, hold: Callable[[int], None]) -> _SourcePixels | FileResult:
        entry = candidate.entry
        if entry.error is not None:
            raise entry.error
        data = read_content(entry.path).data if entry.path is not None else entry.data or b""
        header = read_header(data)
        source = None
        if self._options.source is not None:
            source = check_source(self._options.source, entry, header)
        sample = source.path if source is not None and candidate.is_sampled else None
        held_bytes = len(data) + declared_bytes(data, COMPANIONS, with_twin=True)
        hold(held_bytes)
        record = unpack_record(data, COMPANIONS, with_twin=True)
        result = self._judge(entry.label, record, source, len(data))
        if sample is None or self._options.reencoding is None or result.failed:
            return result
        model = self._options.reencoding.find_model(header)
        check_model(header, model, allow_other=False)
        self._models[id(model)] = model
        _, rows, columns = header.shape
        group = _Group(id(model), rows * header.patch, columns * header.patch)
        pixels = read_source_pixels(sample, header, hold_beside(hold, held_bytes))
        held_bytes += pixels.nbytes
        hold(held_bytes)
        return _SourcePixels(entry.label, group, held_bytes, result, record, model, pixels)

    def batch_size(self, group: Hashable) -> int:
        assert isinstance(group, _Group)
        return self._models[group.model].engine.batch_size(group.height, group.width)

    def submit(self, batch: list[_SourcePixels]) -> Computing[Twins]:
        engine = batch[0].model.engine
        header = batch[0].record.header
        engine.check_size(header.height, header.width)
        flips = [work.record.flipped is not None for work in batch]
        return submit_with_twins(engine, [work.pixels for work in batch], flips)

    def finish(self, work: _SourcePixels, computed: Twins) -> Made:
        assert self._options.reencoding is not None
        deltas = measure_delta(work.record, computed, work.model)
        result = replace(work.result, delta=deltas[0])
        finding = describe_delta(deltas, self._options.reencoding.max_delta)
        if finding is not None:
            result = replace(result, status=Status.FAILED, reason=finding)
        return Made(result)

    def _judge(
        self, label: str, record: Record, source: SourceCheck | None, size_bytes: int
    ) -> FileResult:
        """The result of a record that is whole."""
        header = record.header
        other = None if self._options.model is None else describe_model(header, self._options.model)
        lone = describe_lone(record)
        findings = [text for text in (lone, other, source and source.finding) if text]
        return FileResult(
            label,
            Status.FAILED if findings else Status.VERIFIED,
            reason="; ".join(findings) or None,
            width=header.width,
            height=header.height,
            bytes_in=size_bytes,
            source=None if source is None else source.state,
        )


def describe_model(header: RecordHeader, model: ModelHandle) -> str | None:
    """How a record's model differs from the one it must be of, naming both; None if it does not."""
    own = model.identity
    if (header.latent_space, header.weights) == (own.latent_space, own.weights):
        return None
    return (
        f"encoded with model {header.model or 'unknown'} (latent space {header.latent_space}, "
        f"weights {header.weights}), not with {model.label} (latent space {own.latent_space}, "
        f"weights {own.weights})"
    )


def describe_lone(record: Record) -> str | None:
    """What is wrong with a record that tells of a mirrored twin and has none; else None."""
    if record.flipped is not None or "flip" not in read_description(record.header.image):
        return None
    return "says that it holds the latents of the mirrored image too, and does not: re-encode"


@dataclass(frozen=True)
class SourceCheck:
    """What became of a record's source; `path` is None where there is no such file.

    `finding` is one line where it is missing, changed, or cannot be read.
    """

    state: SourceState
    path: str | None = None
    finding: str | None = None


def check_source(folder: str, entry: RecordEntry, header: RecordHeader) -> SourceCheck:
    """Compare the source of a record below `folder` with the size and hash that the record holds.

    It is looked for under the name of the record's file without `.dinac` and, where nothing is
    there (the file was named by itself, or renamed), under the record's own name.
    """
    places = [os.path.join(folder, *name.split("/")) for name in _list_names(entry, header)]
    if not places:
        return SourceCheck(SourceState.UNKNOWN)
    path = next((place for place in places if os.path.isfile(place)), None)
    if path is None:
        finding = f"its source {places[0]} is not there"
        return SourceCheck(SourceState.MISSING, finding=finding)
    try:
        difference = _describe_change(path, header)
    except InputError as exc:
        return SourceCheck(SourceState.MISSING, finding=f"its source {path}: {exc}")
    if difference is not None:
        finding = f"its source {path} has changed ({difference}): encode it again"
        return SourceCheck(SourceState.CHANGED, path, finding)
    is_known = header.source_sha256 is not None
    return SourceCheck(SourceState.UNCHANGED if is_known else SourceState.UNKNOWN, path)


def _list_names(entry: RecordEntry, header: RecordHeader) -> Iterator[str]:
    """Relative names that the source may have; none for an anonymous record in a stream."""
    if entry.path is not None and entry.name.lower().endswith(LATENT_SUFFIX):
        yield entry.name[: -len(LATENT_SUFFIX)]
    elif header.name:
        yield entry.name
    if header.name:
        yield header.name


def _describe_change(path: str, header: RecordHeader) -> str | None:
    try:
        size = os.path.getsize(path)
    except OSError as exc:
        raise InputError(f"cannot read: {exc.strerror or exc}") from exc
    if header.source_bytes is not None and size != header.source_bytes:
        return f"{size} bytes, not {header.source_bytes}"
    if header.source_sha256 is not None and hash_file(path) != header.source_sha256:
        return "same size, other bytes"
    return None
