"""Latent records to DINO features, all into one file, and the images whose features are near."""

from __future__ import annotations

import itertools
import os
from collections.abc import (
    Callable,
    Collection,
    Generator,
    Hashable,
    Iterable,
    Iterator,
    Mapping,
)
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from dinac_cli.codec.handle import ModelHandle
from dinac_cli.codec.records import check_model, name_creator, name_model
from dinac_cli.container.header import RecordHeader
from dinac_cli.container.names import escape_text
from dinac_cli.container.record import Record, declared_bytes, read_outline, unpack_record
from dinac_cli.container.tensors import CLASS_TOKEN
from dinac_cli.errors import DinacError, FormatError, InputError, ModelError, Rejection, UsageError
from dinac_cli.jobs.entries import RecordEntry, list_records
from dinac_cli.jobs.executor.control import RunControl, until_stopped
from dinac_cli.jobs.executor.job import Computing, Job, Made, Work
from dinac_cli.jobs.executor.local import run_job
from dinac_cli.jobs.feature_set import FeatureSet, ImageFeatures, name_features, pack_features
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.storage.content import read_content
from dinac_cli.storage.inputs import Input
from dinac_cli.storage.output import Output


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

    @property
    def taken(self) -> tuple[str, ...]:
        """What is taken from records that hold it; patch tokens come with a class token anyway."""
        return () if self.spatial else (CLASS_TOKEN,)


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

    A class token that a record holds, by the same weights, is taken as it is, unless patch tokens
    are wanted too: where all hold one, no model is needed. The model is that of `options.similar`
    or, without it, of the first record that says one; records of another are failures. At the end
    `output`, if any, is written, unless the run was stopped or nothing was predicted. Raises
    DinacError where the run as a whole cannot go on.
    """
    records = list_records(inputs, stdin, None if output is None else name_features)
    entries: Iterator[RecordEntry] = itertools.islice(records, options.limit)
    if options.similar is not None:
        origin, features.query = _predict_query(options.similar, options)
    else:
        found, entries = _find_first_origin(until_stopped(entries, control.stop), options)
        if found is None:
            yield from _fail_all(entries, options)
            return
        origin = found
    job = FeatureJob(origin, options, features)
    yield from run_job(job, itertools.starmap(_Numbered, enumerate(entries)), control)
    if output is not None and features.rows and not control.stop:
        data = pack_features(features.list_rows(), origin.describe(features.computes))
        output.write(output.path, data)
        features.size_bytes = len(data)


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
    """What `predict_features` does with each record; one network for all."""

    def __init__(
        self, origin: FeatureOrigin, options: FeatureOptions, features: FeatureSet
    ) -> None:
        self._origin = origin
        self._options = options
        self._features = features

    def read(self, entry: _Numbered, hold: Callable[[int], None]) -> _ReadRecord | FileResult:
        with entry.entry.settle_name():
            return self._read(entry, hold)

    def _read(self, entry: _Numbered, hold: Callable[[int], None]) -> _ReadRecord | FileResult:
        data = _read_data(entry.entry)
        header, held, _ = read_outline(data, self._options.taken)
        self._origin.demand_space(header)
        is_stored = self._origin.find_token(header, held)
        if not is_stored:
            self._origin.require_model()
        taken = self._options.taken if is_stored else ()
        held_bytes = len(data) + declared_bytes(data, taken)
        hold(held_bytes)
        work = _ReadRecord(
            entry.label,
            header.shape[1:],
            held_bytes,
            entry.number,
            entry.entry.name,
            entry.entry.path,
            unpack_record(data, taken),
            len(data),
        )
        token = work.record.class_token
        return work if token is None else self._keep(work, token[None], header.compute)

    def batch_size(self, group: Hashable) -> int:
        assert isinstance(group, tuple)
        rows, columns = group
        model = self._origin.require_model()
        patch = model.config.patch_size
        return model.engine.batch_size(rows * patch, columns * patch)

    def submit(self, batch: list[_ReadRecord]) -> Computing[npt.NDArray[np.float32]]:
        model = self._origin.require_model()
        return _submit([work.record for work in batch], model, spatial=self._options.spatial)

    def finish(self, work: _ReadRecord, computed: npt.NDArray[np.float32]) -> Made:
        return Made(self._keep(work, computed, self._origin.require_model().engine.compute))

    def _keep(
        self, work: _ReadRecord, computed: npt.NDArray[np.float32], compute: str
    ) -> FileResult:
        """Put one image's features [1, D] or [1 + h·w, D] among those of the run."""
        row = _build_row(work.name, work.path, work.record.header, computed)
        self._features.rows[work.number] = row
        self._features.computes.add(compute)
        header = work.record.header
        return FileResult(
            work.label,
            Status.READ,
            width=header.width,
            height=header.height,
            bytes_in=work.size_bytes,
            facts={"name": row.name},
        )


def _predict_query(path: str, options: FeatureOptions) -> tuple[FeatureOrigin, ImageFeatures]:
    """The features of one latent file, and their origin. Raises UsageError, ModelError."""
    try:
        data = read_content(path).data
        record = unpack_record(data, options.taken)
        header, held, _ = read_outline(data, options.taken)
    except DinacError as exc:
        raise UsageError(f"--similar {path}: {exc}; name a .dinac file of one record") from exc
    try:
        origin = find_origin(header, held, options.find_model)
        origin.demand_space(header)
        if origin.find_token(header, held) and record.class_token is not None:
            computed = record.class_token[None]
        else:
            [computed] = _submit([record], origin.require_model(), spatial=False).result()
    except (ModelError, FormatError) as exc:
        raise ModelError(f"{path}: {exc}") from exc
    return origin, _build_row(os.path.basename(path), path, header, computed)


def _find_first_origin(
    entries: Iterator[RecordEntry], options: FeatureOptions
) -> tuple[FeatureOrigin | None, Iterator[RecordEntry]]:
    """The network of the first record that says one, and all the entries, those looked at too."""
    seen: list[RecordEntry] = []
    for entry in entries:
        seen.append(entry)
        try:
            header, held, _ = read_outline(_read_data(entry), options.taken)
        except DinacError:
            continue  # a failure of its own, once it is read
        try:
            return find_origin(header, held, options.find_model), itertools.chain(seen, entries)
        except ModelError as exc:
            raise ModelError(f"{entry.label}: {exc}") from exc
    return None, iter(seen)


def _fail_all(entries: Iterable[RecordEntry], options: FeatureOptions) -> Iterator[FileResult]:
    """The results of a run none of whose records can be read."""
    for entry in entries:
        try:
            read_outline(_read_data(entry), options.taken)
            raise InputError("changed while it was read; run the same command again")
        except DinacError as exc:
            yield FileResult(entry.label, Status.FAILED, reason=str(exc))


def _read_data(entry: RecordEntry) -> bytes:
    if entry.error is not None:
        raise entry.error
    return read_content(entry.path).data if entry.path is not None else entry.data or b""


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


@dataclass(frozen=True)
class FeatureOrigin:
    """The network whose features a run collects: all of one, of tokens `width` long.

    `model` is None where it is not at hand; then `missing` says why, and only stored tokens do.
    """

    label: str
    revision: str
    latent_space: str
    weights: str
    width: int
    model: ModelHandle | None = None
    missing: str = ""

    def demand_space(self, header: RecordHeader) -> None:
        """Refuse latents of another space. Raises ModelError, naming both."""
        if self.model is not None:
            check_model(header, self.model, allow_other=True)
        if header.latent_space != self.latent_space:
            raise ModelError(
                f"encoded with model {name_model(header)}, and the features of this run are those "
                f"of {self.label} (latent space {self.latent_space}): run it apart"
            )

    def find_token(self, header: RecordHeader, held: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether a record holds the token that this network predicts. Raises FormatError."""
        if CLASS_TOKEN not in held or header.weights != self.weights:
            return False
        [width] = held[CLASS_TOKEN]
        if width != self.width:
            raise FormatError(
                Rejection.TENSOR,
                f"a class token of {width} values, its model's have {self.width}: re-encode",
            )
        return True

    def require_model(self) -> ModelHandle:
        """The model, where a token must be predicted. Raises ModelError."""
        if self.model is None:
            raise ModelError(self.missing)
        return self.model

    def describe(self, computes: Collection[str]) -> dict[str, str]:
        """What a file says of where its features come from."""
        return {
            "model": escape_text(self.label),
            "revision": escape_text(self.revision),
            "latent_space": self.latent_space,
            "weights": self.weights,
            "compute": ", ".join(sorted(computes)),
            "created_by": name_creator(),
        }


def find_origin(
    header: RecordHeader,
    held: Mapping[str, tuple[int, ...]],
    find_model: Callable[[RecordHeader], ModelHandle],
) -> FeatureOrigin:
    """The network of a record: the model found for it or, with a token of its own, what it says.

    Raises ModelError where there is neither.
    """
    try:
        model = find_model(header)
    except ModelError as exc:
        if CLASS_TOKEN not in held:
            raise
        [width] = held[CLASS_TOKEN]
        label = header.model or "unknown"
        space, weights = header.latent_space, header.weights
        return FeatureOrigin(label, header.revision, space, weights, width, missing=str(exc))
    head = model.config.class_head
    assert head is not None, "models without one are refused by `find_model`"
    identity, revision = model.identity, model.resolved.revision
    space, weights = identity.latent_space, identity.weights
    return FeatureOrigin(model.label, revision, space, weights, head.model_dim, model)
