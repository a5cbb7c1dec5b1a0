"""Latent records to DINO features, all into one file, and the images whose features are near."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from dinac_cli.codec.loading import ModelHandle
from dinac_cli.codec.records import check_model, name_creator, name_model
from dinac_cli.container.header import RecordHeader
from dinac_cli.container.names import escape_name, escape_text
from dinac_cli.container.record import Record, read_header, unpack_record
from dinac_cli.errors import DinacError, ModelError, UsageError
from dinac_cli.files.content import InputError, read_content
from dinac_cli.files.inputs import Input
from dinac_cli.files.naming import LATENT_SUFFIX
from dinac_cli.files.output import Output
from dinac_cli.pipeline.feature_file import ImageFeatures, pack_features
from dinac_cli.pipeline.job import Computing, Job, RunControl, Work, run_job
from dinac_cli.pipeline.outbox import Made
from dinac_cli.pipeline.records import RecordEntry, list_records
from dinac_cli.pipeline.stages import until_stopped
from dinac_cli.results import FileResult, Status


@dataclass(frozen=True)
class FeatureOptions:
    """What is predicted.

    `find_model` gives the model of a record, with its class head (or raises ModelError); `spatial`
    asks for patch tokens too, `similar` is the latent file that the others are compared with,
    `limit` bounds the number of records.
    """

    find_model: Callable[[RecordHeader], ModelHandle]
    spatial: bool = False
    similar: str | None = None
    limit: int | None = None


@dataclass
class FeatureSet:
    """The features of a run, by the records' places in its order; all are kept in memory.

    `query` is the image that the others are compared with, `size_bytes` that of the file written.
    """

    rows: dict[int, ImageFeatures] = field(default_factory=dict)
    query: ImageFeatures | None = None
    size_bytes: int = 0

    def list_rows(self) -> list[ImageFeatures]:
        """The features in the order of the inputs."""
        return [self.rows[number] for number in sorted(self.rows)]


@dataclass(frozen=True)
class Neighbour:
    """An image beside the one that was asked for; `similarity` is the cosine, rank 1 the nearest.

    `path` is its record's file, None where that came in a stream.
    """

    rank: int
    similarity: float
    name: str
    path: str | None


def name_features(name: str) -> str:
    """What an image is called in a file of features: its record's name without `.dinac`."""
    if name.lower().endswith(LATENT_SUFFIX) and len(name) > len(LATENT_SUFFIX):
        name = name[: -len(LATENT_SUFFIX)]
    return escape_name(name)


def predict_features(
    inputs: Iterable[Input],
    output: Output | None,
    options: FeatureOptions,
    features: FeatureSet,
    control: RunControl,
    *,
    stdin: BinaryIO | None = None,
) -> Generator[FileResult, None, None]:
    """Predict the features of every record into `features`; yields one result a record.

    The model is that of `options.similar` or, without it, of the first record that says one;
    records of another are failures. At the end `output`, if any, is written, unless the run was
    stopped or nothing was predicted. Raises DinacError where the run as a whole cannot go on.
    """
    records = list_records(inputs, stdin, None if output is None else name_features)
    entries: Iterator[RecordEntry] = itertools.islice(records, options.limit)
    if options.similar is not None:
        model, features.query = _predict_query(options.similar, options)
    else:
        found, entries = _find_model(until_stopped(entries, control.stop), options)
        if found is None:
            yield from _fail_all(entries)
            return
        model = found
    job = FeatureJob(model, options.spatial, features)
    yield from run_job(job, itertools.starmap(_Numbered, enumerate(entries)), control)
    if output is not None and features.rows and not control.stop:
        data = pack_features(features.list_rows(), _describe_origin(model))
        output.write(output.path, data)
        features.size_bytes = len(data)


def rank_similar(features: FeatureSet, top: int) -> list[Neighbour]:
    """The `top` images nearest to the query by their class tokens; the query's own file is none."""
    query = features.query
    if query is None:
        return []
    itself = None if query.path is None else os.path.realpath(query.path)
    rows = [
        row
        for row in features.list_rows()
        if row.path is None or os.path.realpath(row.path) != itself
    ]
    similarities = np.array([_measure_cosine(row.class_token, query.class_token) for row in rows])
    nearest = np.argsort(-similarities, kind="stable")[:top]
    return [
        Neighbour(rank, float(similarities[i]), rows[i].name, rows[i].path)
        for rank, i in enumerate(nearest, start=1)
    ]


def _measure_cosine(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    x, y = a.astype(np.float64), b.astype(np.float64)
    return float(x @ y / max(float(np.linalg.norm(x) * np.linalg.norm(y)), 1e-30))


@dataclass(frozen=True)
class _Numbered:
    """A record and its place in the run: results arrive in any order."""

    number: int
    entry: RecordEntry

    @property
    def label(self) -> str:
        return self.entry.label


@dataclass(frozen=True)
class _ReadRecord(Work):
    number: int
    name: str
    path: str | None
    record: Record
    size_bytes: int


class FeatureJob(Job[_Numbered, _ReadRecord, npt.NDArray[np.float32]]):
    """What `predict_features` does with each record; one model for all."""

    def __init__(self, model: ModelHandle, spatial: bool, features: FeatureSet) -> None:
        self._model = model
        self._spatial = spatial
        self._features = features

    def read(self, entry: _Numbered, hold: Callable[[int], None]) -> _ReadRecord | FileResult:
        with entry.entry.settle_name():
            return self._read(entry, hold)

    def _read(self, entry: _Numbered, hold: Callable[[int], None]) -> _ReadRecord:
        data = _read_data(entry.entry)
        header = read_header(data)
        _demand_model(header, self._model)
        channels, rows, columns = header.shape
        held_bytes = len(data) + 4 * channels * rows * columns
        hold(held_bytes)
        return _ReadRecord(
            entry.label,
            (rows, columns),
            held_bytes,
            entry.number,
            entry.entry.name,
            entry.entry.path,
            unpack_record(data),
            len(data),
        )

    def batch_size(self, group: Hashable) -> int:
        assert isinstance(group, tuple)
        rows, columns = group
        patch = self._model.config.patch_size
        return self._model.engine.batch_size(rows * patch, columns * patch)

    def submit(self, batch: list[_ReadRecord]) -> Computing[npt.NDArray[np.float32]]:
        return _submit([work.record for work in batch], self._model, spatial=self._spatial)

    def finish(self, work: _ReadRecord, computed: npt.NDArray[np.float32]) -> Made:
        row = _build_row(work.name, work.path, work.record.header, computed)
        self._features.rows[work.number] = row
        header = work.record.header
        return Made(
            FileResult(
                work.label,
                Status.READ,
                width=header.width,
                height=header.height,
                bytes_in=work.size_bytes,
                facts={"name": row.name},
            )
        )


def _predict_query(path: str, options: FeatureOptions) -> tuple[ModelHandle, ImageFeatures]:
    """The features of one latent file, and the model. Raises UsageError, ModelError."""
    try:
        record = unpack_record(read_content(path).data)
    except DinacError as exc:
        raise UsageError(f"--similar {path}: {exc}; name a .dinac file of one record") from exc
    try:
        model = options.find_model(record.header)
        _demand_model(record.header, model)
        [computed] = _submit([record], model, spatial=False).result()
    except ModelError as exc:
        raise ModelError(f"{path}: {exc}") from exc
    return model, _build_row(os.path.basename(path), path, record.header, computed)


def _find_model(
    entries: Iterator[RecordEntry], options: FeatureOptions
) -> tuple[ModelHandle | None, Iterator[RecordEntry]]:
    """The model of the first record that says one, and all the entries, those looked at too."""
    seen: list[RecordEntry] = []
    for entry in entries:
        seen.append(entry)
        try:
            header = read_header(_read_data(entry))
        except DinacError:
            continue  # a failure of its own, once it is read
        try:
            return options.find_model(header), itertools.chain(seen, entries)
        except ModelError as exc:
            raise ModelError(f"{entry.label}: {exc}") from exc
    return None, iter(seen)


def _fail_all(entries: Iterable[RecordEntry]) -> Iterator[FileResult]:
    """The results of a run none of whose records can be read."""
    for entry in entries:
        try:
            read_header(_read_data(entry))
            raise InputError("changed while it was read; run the same command again")
        except DinacError as exc:
            yield FileResult(entry.label, Status.FAILED, reason=str(exc))


def _read_data(entry: RecordEntry) -> bytes:
    if entry.error is not None:
        raise entry.error
    return read_content(entry.path).data if entry.path is not None else entry.data or b""


def _demand_model(header: RecordHeader, model: ModelHandle) -> None:
    """Refuse latents of another model than the run's. Raises ModelError, naming both."""
    check_model(header, model, allow_other=True)
    if header.latent_space != model.identity.latent_space:
        raise ModelError(
            f"encoded with model {name_model(header)}, and the features of this run are those of "
            f"{model.label} (latent space {model.identity.latent_space}): run it apart"
        )


def _submit(
    records: list[Record], model: ModelHandle, *, spatial: bool
) -> Computing[npt.NDArray[np.float32]]:
    engine = model.engine
    engine.check_size(records[0].header.height, records[0].header.width)
    return engine.submit_features([record.latents for record in records], spatial=spatial)


def _build_row(
    name: str, path: str | None, header: RecordHeader, computed: npt.NDArray[np.float32]
) -> ImageFeatures:
    """One image's features out of [1, D] or [1 + h·w, D], copied: they would keep their batch."""
    _, rows, columns = header.shape
    patch_tokens = computed[1:].copy() if len(computed) > 1 else None
    return ImageFeatures(
        name_features(name), path, (rows, columns), computed[0].copy(), patch_tokens
    )


def _describe_origin(model: ModelHandle) -> dict[str, str]:
    """What the file says of where its features come from."""
    return {
        "model": escape_text(model.label),
        "revision": escape_text(model.resolved.revision),
        "latent_space": model.identity.latent_space,
        "weights": model.identity.weights,
        "compute": model.engine.compute,
        "created_by": name_creator(),
    }
