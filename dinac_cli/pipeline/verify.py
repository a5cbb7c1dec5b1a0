"""Records against what they say of themselves, their model, and the images they were made of."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Hashable, Iterable
from dataclasses import dataclass, replace
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from dinac_cli.codec.loading import ModelHandle
from dinac_cli.codec.records import check_model
from dinac_cli.container.encoded import COMPANIONS
from dinac_cli.container.header import RecordHeader
from dinac_cli.container.record import Record, declared_bytes, read_header, unpack_record
from dinac_cli.files.content import read_content
from dinac_cli.files.inputs import Input
from dinac_cli.pipeline.freshness import read_description
from dinac_cli.pipeline.job import Computing, Job, RunControl, Work, run_job
from dinac_cli.pipeline.outbox import Made
from dinac_cli.pipeline.records import list_records
from dinac_cli.pipeline.reencode import (
    Candidate,
    Reencoding,
    choose_sample,
    describe_delta,
    measure_delta,
    read_source_pixels,
)
from dinac_cli.pipeline.shaping import hold_beside
from dinac_cli.pipeline.sources import SourceCheck, check_source
from dinac_cli.pipeline.twins import Twins, submit_with_twins
from dinac_cli.results import FileResult, Status


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
