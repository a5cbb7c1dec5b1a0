"""Predicts DINO features from latent records, and writes all of them to one file."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from dinac_cli.codec.compute import refuse_devices
from dinac_cli.codec.handle import BatchGroup, ModelHandle
from dinac_cli.codec.records import check_model, name_creator, name_model
from dinac_cli.container.header import RecordHeader
from dinac_cli.container.names import escape_text
from dinac_cli.container.record import Record, open_record
from dinac_cli.container.tensors import CLASS_TOKEN
from dinac_cli.errors import (
    DinacError,
    FormatError,
    InputError,
    ModelError,
    OutputError,
    Rejection,
    UsageError,
)
from dinac_cli.jobs.entries import RecordEntry, drop_label, list_records, name_sample
from dinac_cli.jobs.executor.control import RunControl, until_stopped
from dinac_cli.jobs.executor.job import Computing, Job, Made, Work
from dinac_cli.jobs.executor.local import run_job
from dinac_cli.jobs.feature_set import (
    FeatureSet,
    ImageFeatures,
    is_feature_file,
    pack_features,
)
from dinac_cli.jobs.model_choice import ModelChoice, ModelFinder, choose_models
from dinac_cli.jobs.request import LATENTS, Announce, InputRequest, Request, Run, keep_quiet
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.storage.content import read_content
from dinac_cli.storage.inputs import Input
from dinac_cli.storage.output import Output, OutputKind
from dinac_cli.storage.store import read_place, split_place
from dinac_cli.storage.urls import hide_secrets, is_url


@dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """The features to predict: class tokens and, if `spatial` is set, patch tokens.

    `similar` is the latent file with which all other images are compared.
    """

    spatial: bool = False
    similar: str | None = None

    @property
    def stored(self) -> tuple[str, ...]:
        """The tensors of a record that can replace a prediction. Empty if `spatial` is set."""
        return () if self.spatial else (CLASS_TOKEN,)


@dataclass(frozen=True, kw_only=True)
class FeaturesRequest(Request["FeaturesRun"]):
    """A request to predict the features of `inputs`.

    The features are written to the file OUT, unless `out` is None.
    """

    inputs: InputRequest
    out: str | None = None
    options: FeatureOptions = field(default_factory=FeatureOptions)
    model: ModelChoice = field(default_factory=ModelChoice)
    overwrite: bool = False
    fsync: bool = False

    command: ClassVar[str] = "features"

    def open(self, announce: Announce = keep_quiet) -> FeaturesRun:
        refuse_devices(self.model.device, self.command)
        selection = self.inputs.select(LATENTS, self.out)
        output = None if self.out is None else self._open_output(self.out)
        models = choose_models("class_head", self.model, announce)
        features = FeatureSet()
        arguments = (selection, output, models, self.options, features)
        return FeaturesRun(
            work=partial(predict_features, *arguments, limit=selection.limit),
            selection=selection,
            output=output,
            rename=name_sample,
            features=features,
        )

    def _open_output(self, out: str) -> Output:
        if os.path.isdir(out):
            raise UsageError(f"{out}: OUT, the last argument, is a folder; name a file")
        if os.path.lexists(out) and not self.overwrite and not is_feature_file(out):
            raise OutputError(
                f"{out}: exists and is no feature file of dinac; add --overwrite to replace it"
            )
        return Output(out, OutputKind.FILE, is_feature_file, self.overwrite, self.fsync)


@dataclass(kw_only=True)
class FeaturesRun(Run):
    """A features run that is ready to start. The run fills `features`."""

    features: FeatureSet


def predict_features(
    inputs: Iterable[Input],
    output: Output | None,
    models: ModelFinder,
    options: FeatureOptions,
    features: FeatureSet,
    control: RunControl,
    *,
    limit: int | None = None,
) -> Generator[FileResult, None, None]:
    """Adds the features of all records, or of the first `limit`, to `features`.

    One model is used for all records: the model for the file `options.similar`, or for the first
    readable record if `options.similar` is None. Records of another model fail. A class token
    that a record holds is used if the same weights predicted it and no patch tokens are requested.
    If all records hold such a token, no model is needed. At the end, the features are written
    to `output`, unless it is None. If the run was stopped or there are no features, nothing is
    written. Raises DinacError if the whole run cannot go on.
    """
    records = list_records(inputs, control.stdin, None if output is None else name_sample)
    entries: Iterator[RecordEntry] = itertools.islice(records, limit)
    origin: FeatureOrigin | None
    if options.similar is not None:
        origin, features.query = _predict_query(options.similar, models, options)
    else:
        origin, entries = _find_first_origin(until_stopped(entries, control.stop), models, options)
    job = FeatureJob(origin, options, features)
    numbered = (_Numbered(**vars(entry), number=n) for n, entry in enumerate(entries))
    yield from run_job(job, numbered, control)
    if output is not None and origin is not None and features.rows and not control.stop:
        data = pack_features(features.list_rows(), origin.describe(features.computes))
        output.write(output.path, data)
        features.size_bytes = len(data)


@dataclass(frozen=True)
class _Numbered(RecordEntry):
    """A record and its position in the run. The position is needed: results arrive in any order."""

    number: int = 0


@dataclass(frozen=True)
class _ReadRecord(Work):
    number: int
    path: str | None
    record: Record
    size_bytes: int


class FeatureJob(Job[_Numbered, _ReadRecord, npt.NDArray[np.float32]]):
    """Predicts the features of each record, with one model for all records.

    `origin` is None if no record could be read. In this case, every record fails.
    """

    def __init__(
        self, origin: FeatureOrigin | None, options: FeatureOptions, features: FeatureSet
    ) -> None:
        self._found = origin
        self._options = options
        self._features = features

    def read(self, entry: _Numbered, hold: Callable[[int], None]) -> _ReadRecord | FileResult:
        with entry.settle_name():
            data = entry.read()
            opened = open_record(data)
            header, held, _ = opened.outline(self._options.stored)
            self._origin.demand_space(header)
            is_stored = self._origin.find_token(header, held)
            stored = self._options.stored if is_stored else ()
            group = None  # a stored token needs no model, so the work joins no batch
            if not is_stored:
                _, rows, columns = header.shape
                model = self._origin.require_model()
                group = BatchGroup(model, rows * header.patch, columns * header.patch)
            held_bytes = len(data) + opened.declared_bytes(stored)
            hold(held_bytes)
            work = _ReadRecord(
                entry.label,
                entry.name,
                group,
                held_bytes,
                entry.number,
                entry.path,
                opened.unpack(stored),
                len(data),
            )
            token = work.record.class_token
            return work if token is None else self._keep(work, token[None], header.compute)

    @property
    def _origin(self) -> FeatureOrigin:
        if self._found is None:
            raise InputError("changed while it was read; run the same command again")
        return self._found

    def submit(self, batch: list[_ReadRecord]) -> Computing[npt.NDArray[np.float32]]:
        model = self._origin.require_model()
        return _submit([work.record for work in batch], model, spatial=self._options.spatial)

    def finish(self, work: _ReadRecord, computed: npt.NDArray[np.float32]) -> Made:
        return Made(self._keep(work, computed, self._origin.require_model().engine.compute))

    def _keep(
        self, work: _ReadRecord, computed: npt.NDArray[np.float32], compute: str
    ) -> FileResult:
        """Adds one image's features, [1, D] or [1 + h·w, D], to the run's features."""
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


def _predict_query(
    path: str, models: ModelFinder, options: FeatureOptions
) -> tuple[FeatureOrigin, ImageFeatures]:
    """Returns the features of one latent file, and their origin. Raises UsageError, ModelError."""
    try:
        data = read_place(path) if is_url(path) else read_content(path).data
        opened = open_record(data)
        record = opened.unpack(options.stored)
        header, held, _ = opened.outline(options.stored)
    except DinacError as exc:
        place = hide_secrets(path)
        problem = drop_label(exc, place)
        raise UsageError(f"--similar {place}: {problem}; name a .dinac file of one record") from exc
    try:
        origin = find_origin(header, held, models)
        origin.demand_space(header)
        if origin.find_token(header, held) and record.class_token is not None:
            computed = record.class_token[None]
        else:
            [computed] = _submit([record], origin.require_model(), spatial=False).result()
    except UsageError as exc:
        raise UsageError(f"{hide_secrets(path)}: {exc}") from exc
    except (ModelError, FormatError) as exc:
        raise ModelError(f"{hide_secrets(path)}: {exc}") from exc
    local = None if is_url(path) else path
    return origin, _build_row(split_place(path)[1], local, header, computed)


def _find_first_origin(
    entries: Iterator[RecordEntry], models: ModelFinder, options: FeatureOptions
) -> tuple[FeatureOrigin | None, Iterator[RecordEntry]]:
    """Returns the origin of the first readable record, and an iterator of all entries."""
    seen: list[RecordEntry] = []
    for entry in entries:
        seen.append(entry)
        try:
            header, held, _ = open_record(entry.read()).outline(options.stored)
        except DinacError:
            continue  # the run reports the error when it reads the record
        try:
            return find_origin(header, held, models), itertools.chain(seen, entries)
        except (ModelError, UsageError) as exc:
            raise type(exc)(f"{entry.label}: {exc}") from exc
    return None, iter(seen)


def _submit(
    records: list[Record], model: ModelHandle, *, spatial: bool
) -> Computing[npt.NDArray[np.float32]]:
    engine = model.engine
    engine.check_size(records[0].header.height, records[0].header.width)
    return engine.submit_features([record.latents for record in records], spatial=spatial)


def _build_row(
    name: str, path: str | None, header: RecordHeader, computed: npt.NDArray[np.float32]
) -> ImageFeatures:
    """Copies one image's features, because a view would keep the whole batch in memory."""
    _, rows, columns = header.shape
    patch_tokens = computed[1:].copy() if len(computed) > 1 else None
    return ImageFeatures(name_sample(name), path, (rows, columns), computed[0].copy(), patch_tokens)


@dataclass(frozen=True)
class FeatureOrigin:
    """The model whose features a run collects. Its class tokens have `width` values.

    If the model is not on this machine, `model` is None and `missing` gives the reason. In this
    case, the run can use only class tokens that the records hold.
    """

    label: str
    revision: str
    latent_space: str
    weights: str
    width: int
    model: ModelHandle | None = None
    missing: str = ""

    def demand_space(self, header: RecordHeader) -> None:
        """Raises ModelError if the latent space of the record differs from the model's.

        The message names both latent spaces.
        """
        if self.model is not None:
            check_model(header, self.model, allow_other=True)
        if header.latent_space != self.latent_space:
            raise ModelError(
                f"encoded with model {name_model(header)}, but the features of this run are of "
                f"{self.label} (latent space {self.latent_space}); process it in a separate run"
            )

    def find_token(self, header: RecordHeader, held: Mapping[str, tuple[int, ...]]) -> bool:
        """Returns True if a record holds a class token that this model's weights predicted.

        Raises FormatError.
        """
        if CLASS_TOKEN not in held or header.weights != self.weights:
            return False
        [width] = held[CLASS_TOKEN]
        if width != self.width:
            raise FormatError(
                Rejection.TENSOR,
                f"holds a class token of {width} values, but its model predicts {self.width}; "
                "re-encode",
            )
        return True

    def require_model(self) -> ModelHandle:
        """Returns the model. Raises ModelError if the model is not on this machine."""
        if self.model is None:
            raise ModelError(self.missing)
        return self.model

    def describe(self, computes: Collection[str]) -> dict[str, str]:
        """Returns the metadata of a feature file. `computes` are the devices and dtypes used."""
        return {
            "model": escape_text(self.label),
            "revision": escape_text(self.revision),
            "latent_space": self.latent_space,
            "weights": self.weights,
            "compute": ", ".join(sorted(computes)),
            "created_by": name_creator(),
        }


def find_origin(
    header: RecordHeader, held: Mapping[str, tuple[int, ...]], models: ModelFinder
) -> FeatureOrigin:
    """Returns the model that predicts, or predicted, the features of a record.

    If the model is not on this machine, but the record holds a class token, returns a description
    of the model without the model itself. If the record holds no class token, raises ModelError.
    Raises UsageError if the model has no class head.
    """
    try:
        model = models.find(header)
    except ModelError as exc:
        if CLASS_TOKEN not in held:
            raise
        [width] = held[CLASS_TOKEN]
        label = header.model or "unknown"
        space, weights = header.latent_space, header.weights
        return FeatureOrigin(label, header.revision, space, weights, width, missing=str(exc))
    feature_dim = model.traits.feature_dim
    assert feature_dim is not None, "`choose_models` refuses models without a class head"
    identity, revision = model.identity, model.resolved.revision
    space, weights = identity.latent_space, identity.weights
    return FeatureOrigin(model.label, revision, space, weights, feature_dim, model)
