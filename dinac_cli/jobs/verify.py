"""Checks records for damage, and compares them with their model and their source images."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from dinac_cli.codec.compute import refuse_devices
from dinac_cli.codec.handle import BatchGroup, ModelHandle
from dinac_cli.codec.records import check_model
from dinac_cli.container.header import RecordHeader
from dinac_cli.container.record import Record, open_record
from dinac_cli.container.tensors import ALL_COMPANIONS
from dinac_cli.errors import InputError, UsageError, describe_read_error
from dinac_cli.images.description import parse_description
from dinac_cli.images.geometry import find_geometry
from dinac_cli.images.reading import hold_beside
from dinac_cli.jobs.encode import Twins, submit_with_twins
from dinac_cli.jobs.entries import RecordEntry, list_records
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.executor.job import Computing, Job, Made, Work
from dinac_cli.jobs.executor.local import run_job
from dinac_cli.jobs.image_masks import (
    MASK_OPTIONS,
    NO_MASK_KIND,
    FoundMask,
    compare_mask,
    find_mask,
    read_mask_kind,
)
from dinac_cli.jobs.model_choice import ModelChoice, choose_encoders, demand_library
from dinac_cli.jobs.reencode import (
    Candidate,
    Reencoding,
    choose_sample,
    describe_delta,
    measure_delta,
    read_source,
)
from dinac_cli.jobs.request import (
    LATENTS,
    Announce,
    InputRequest,
    Request,
    Run,
    keep_quiet,
    list_paths,
    run_request,
)
from dinac_cli.jobs.results import FileResult, SourceState, Status
from dinac_cli.jobs.shards.run_settings import RunSettings
from dinac_cli.jobs.shards.shard_folder import TarOrigin
from dinac_cli.storage.content import hash_file
from dinac_cli.storage.inputs import TAR_SUFFIX, Input
from dinac_cli.storage.markers import RUN_NAME
from dinac_cli.storage.mask_files import MaskFiles, require_mask_folder
from dinac_cli.storage.naming import LATENT_SUFFIX
from dinac_cli.storage.urls import hide_secrets, is_url


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """The checks in addition to the check for damage. If a value is None, its check is skipped.

    `model` is the model that must have encoded every record. `source` is the folder of the images.
    `masks` is the folder of --masks. `reencoding` describes the sample to re-encode, and needs
    `source`.
    """

    model: ModelHandle | None = None
    source: str | None = None
    masks: str | None = None
    reencoding: Reencoding | None = None


@dataclass(frozen=True, kw_only=True)
class VerifyRequest(Request[Run]):
    """A request to verify the records of `inputs`.

    `source` is the folder of the images that were encoded, and `masks` that of their masks, from
    `encode --masks`. `reencode` is the share of records to
    re-encode, in percent. `max_delta` is the largest difference allowed (None: see `Reencoding`).
    If a `model` is named, this model must have encoded every record.
    """

    inputs: InputRequest
    source: str | None = None
    masks: str | None = None
    reencode: float | None = None
    max_delta: float | None = None
    model: ModelChoice = field(default_factory=ModelChoice)

    command: ClassVar[str] = "verify"

    def __post_init__(self) -> None:
        """Raises UsageError if a number is out of range."""
        super().__post_init__()
        if self.max_delta is not None and not 0 <= self.max_delta < math.inf:
            raise UsageError(f"--max-delta {self.max_delta}: expected a finite number, 0 or more")
        if self.reencode is not None and not 0 < self.reencode <= 100:
            raise UsageError(
                f"--reencode {self.reencode:g}: expected a percentage above 0 and at most 100"
            )

    def open(self, announce: Announce = keep_quiet) -> Run:
        if self.source is not None:
            _require_folder(self.source)
        if self.masks is not None:
            require_mask_folder(self.masks)
        selection = self.inputs.select(LATENTS, checks=True)
        named = self.model.resolve(announce)
        model = None if named is None else ModelHandle(named, "encoder", self.model)
        if model is not None:
            model.check()
        reencoding = None
        if self.reencode is None:
            if self.max_delta is not None:
                raise UsageError("--max-delta needs --reencode")
        elif self.source is None:
            raise UsageError("--reencode reads the images again; name their folder with --source")
        else:
            models = choose_encoders(named, self.model)
            refuse_devices(self.model.device, "--reencode")
            reencoding = Reencoding(self.reencode, models, self.max_delta)
        options = VerifyOptions(
            model=model, source=self.source, masks=self.masks, reencoding=reencoding
        )
        work = partial(verify_inputs, selection, options, limit=selection.limit)
        return Run(work=work, selection=selection)


def verify_files(
    latents: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    source: str | os.PathLike[str] | None = None,
    masks: str | os.PathLike[str] | None = None,
    reencode: float | None = None,
    max_delta: float | None = None,
    model: str = "auto",
    device: str = "auto",
    dtype: str = "auto",
    workers: int | None = None,
) -> Generator[FileResult, None, None]:
    """Verifies latent files and folders, as `dinac verify` does.

    The keywords are the command's options; `reencode` is in percent. Yields results and raises
    errors as `encode_files` does.
    """
    request = VerifyRequest(
        inputs=InputRequest(paths=list_paths(latents)),
        source=None if source is None else os.fspath(source),
        masks=None if masks is None else os.fspath(masks),
        reencode=reencode,
        max_delta=max_delta,
        model=ModelChoice(model=model, device=device, dtype=dtype),
        workers=workers,
    )
    return run_request(request)


def verify_inputs(
    inputs: Iterable[Input],
    options: VerifyOptions,
    control: RunControl,
    *,
    limit: int | None = None,
) -> Generator[FileResult, None, None]:
    """Verifies all records, or the first `limit` records.

    If a record fails, the reason in its result lists all findings.

    A model is loaded only if a record is re-encoded. Raises DinacError if the run as a whole cannot
    go on.
    """
    entries = itertools.islice(list_records(inputs, control.stdin), limit)
    percent = 0.0 if options.reencoding is None else options.reencoding.percent
    return run_job(VerifyJob(options), choose_sample(entries, percent), control)


@dataclass(frozen=True)
class _SourcePixels(Work):
    result: FileResult
    record: Record
    model: ModelHandle
    pixels: npt.NDArray[np.uint8]


class VerifyJob(Job[Candidate, _SourcePixels, Twins]):
    """Checks each record for `verify_inputs`. The model encodes only the sample."""

    def __init__(self, options: VerifyOptions) -> None:
        self._options = options
        self._masks = None if options.masks is None else MaskFiles(options.masks)

    def read(self, entry: Candidate, hold: Callable[[int], None]) -> _SourcePixels | FileResult:
        data = entry.read()
        opened = open_record(data)
        header = opened.header
        source = None
        if self._options.source is not None:
            source = check_source(self._options.source, entry, header)
        sample = source.path if source is not None and entry.is_sampled else None
        held_bytes = len(data) + opened.declared_bytes(ALL_COMPANIONS, with_twin=True)
        hold(held_bytes)
        record = opened.unpack(ALL_COMPANIONS, with_twin=True)
        result = self._judge(entry, record, source, len(data))
        if sample is None or self._options.reencoding is None or result.failed:
            return result
        model = self._options.reencoding.models.find(header)
        check_model(header, model, allow_other=False)
        demand_library(self._options.reencoding.models, model)
        _, rows, columns = header.shape
        group = BatchGroup(model, rows * header.patch, columns * header.patch)
        image = read_source(sample, header, hold_beside(hold, held_bytes))
        pixels = image.pixels
        result = replace(result, unchecked=not image.soundness.is_checked)
        held_bytes += pixels.nbytes
        hold(held_bytes)
        return _SourcePixels(
            entry.label, entry.name, group, held_bytes, result, record, model, pixels
        )

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
        self, entry: RecordEntry, record: Record, source: SourceCheck | None, size_bytes: int
    ) -> FileResult:
        """Returns the result of an undamaged record."""
        header = record.header
        other = None if self._options.model is None else describe_model(header, self._options.model)
        lone = describe_lone(record)
        unlike = describe_unlike_run(entry.origin, record)
        mask = None if self._masks is None else check_mask(self._masks, entry, header)
        findings = [text for text in (lone, other, unlike, source and source.finding, mask) if text]
        return FileResult(
            entry.label,
            Status.FAILED if findings else Status.VERIFIED,
            reason="; ".join(findings) or None,
            width=header.width,
            height=header.height,
            bytes_in=size_bytes,
            source=None if source is None else source.state,
        )


def describe_model(header: RecordHeader, model: ModelHandle) -> str | None:
    """Returns a finding if another model than `model` encoded the record.

    The finding names both models.
    """
    own = model.identity
    if (header.latent_space, header.weights) == (own.latent_space, own.weights):
        return None
    return (
        f"encoded with model {header.model or 'unknown'} (latent space {header.latent_space}, "
        f"weights {header.weights}), not with {model.label} (latent space {own.latent_space}, "
        f"weights {own.weights})"
    )


def describe_lone(record: Record) -> str | None:
    """Returns a finding if a record lacks the mirrored image that its header promises."""
    if record.flipped is not None or "flip" not in parse_description(record.header.image):
        return None
    return "lacks the latents of the mirrored image, which its header promises; re-encode it"


def describe_unlike_run(origin: TarOrigin | None, record: Record) -> str | None:
    """Returns a finding if a record of a shard was not made with the settings in run.json."""
    settings = None if origin is None or origin.folder is None else origin.folder.settings
    difference = None if settings is None else find_difference(settings, record)
    return None if difference is None else f"{difference}, which {RUN_NAME} contradicts"


def find_difference(settings: RunSettings, record: Record) -> str | None:
    """Returns the first setting of a run that a record contradicts, in words."""
    header = record.header
    if (header.latent_space, header.weights) != (settings.latent_space, settings.weights):
        return f"encoded with model {header.model or 'unknown'} (weights {header.weights})"
    if header.precision != settings.precision:
        return f"encoded with --precision {header.precision}"
    if settings.anonymous and not header.is_anonymous:
        return "holds the name of its image"
    if settings.posterior and record.logsnr is None:
        return "holds no posterior"
    if settings.features and record.class_token is None:
        return "holds no class token"
    kind = read_mask_kind(header.image)
    if kind != settings.mask:
        return f"encoded with {MASK_OPTIONS[kind]}"
    geometry = find_geometry(header.image)
    return None if geometry == settings.geometry else f"encoded with {geometry or 'no geometry'}"


def _require_folder(source: str) -> None:
    if is_url(source) or source.lower().endswith(TAR_SUFFIX):
        raise UsageError(
            f"--source {hide_secrets(source)}: the images must be in a local folder; name it"
        )
    if not os.path.isdir(source):
        raise UsageError(f"--source {source}: no such folder; check the path")


@dataclass(frozen=True)
class SourceCheck:
    """The state of a record's source. `path` is None if the source does not exist.

    If the source is missing, changed or not readable, `finding` says so in one line.
    """

    state: SourceState
    path: str | None = None
    finding: str | None = None


def check_source(folder: str, entry: RecordEntry, header: RecordHeader) -> SourceCheck:
    """Finds a record's source below `folder`, and compares the source with the record.

    Compares the size and the hash. The source has the name of the record's file without `.dinac`.
    If the record was an input by itself or was renamed, this file may not exist. In this case, the
    name in the record's header is tried; so it is if that name ends with the other: `a.png` may be
    the record of `trip/a.png`, although another `a.png` exists. The source of a record in a tar may
    have come from a tar too; in this case, its state is unknown.
    """
    if entry.origin is not None and entry.origin.source:
        return SourceCheck(SourceState.UNKNOWN)
    names = list(_list_names(entry, header))
    if not names:
        return SourceCheck(SourceState.UNKNOWN)
    places = [os.path.join(folder, *name.split("/")) for name in names]
    paths = [place for place in places if os.path.isfile(place)]
    if not paths and entry.origin is not None and entry.origin.source is None:
        return SourceCheck(SourceState.UNKNOWN)
    if not paths:
        finding = f"its source {places[0]} does not exist"
        return SourceCheck(SourceState.MISSING, finding=finding)
    check = _compare_source(paths[0], header)
    if check.finding is not None and names[-1].endswith(f"/{names[0]}"):
        check = _compare_source(paths[-1], header)
    return check


def _compare_source(path: str, header: RecordHeader) -> SourceCheck:
    """Compares the size and the hash of a source with those in its record."""
    try:
        difference = _describe_change(path, header)
    except InputError as exc:
        return SourceCheck(SourceState.MISSING, finding=f"its source {path}: {exc}")
    if difference is not None:
        finding = f"its source {path} has changed ({difference}); run encode --checksum again"
        return SourceCheck(SourceState.CHANGED, path, finding)
    is_known = header.source_sha256 is not None
    return SourceCheck(SourceState.UNCHANGED if is_known else SourceState.UNKNOWN, path)


def check_mask(masks: MaskFiles, entry: RecordEntry, header: RecordHeader) -> str | None:
    """Returns a finding if the mask of a record is not what `masks` has for its image, or None.

    Looks under the names under which `check_source` looks for the source. One of them may be that
    of another image: `latents/trip/a.png.dinac`, if it is an input by itself, may be of `a.png`. So
    there is no finding if the mask of any name fits. An anonymous record of a stream has no name,
    so nothing is found.
    """
    try:
        found = [find_mask(masks, name) for name in dict.fromkeys(_list_names(entry, header))]
        found.sort(key=lambda mask: mask.path is None)
        findings = [_judge_mask(header.image, mask) for mask in found]
    except InputError as exc:
        return str(exc)
    return None if None in findings or not findings else findings[0]


def _judge_mask(description: str, mask: FoundMask) -> str | None:
    """Returns a finding if a record does not hold this mask, or None. Raises InputError."""
    kind = read_mask_kind(description)
    if kind == "alpha":
        return "was encoded with --mask, not with mask files; leave out --masks"
    if kind == NO_MASK_KIND:
        return "was encoded without --masks; run encode --masks"
    change = compare_mask(description, mask)
    if change is None:
        return None
    what = {
        "gone": "its mask is gone",
        "new": f"has a mask now, {mask.path}",
        "changed": f"its mask {mask.path} has changed",
    }[change]
    return f"{what}; run encode --masks again"


def _list_names(entry: RecordEntry, header: RecordHeader) -> Iterator[str]:
    """Yields possible relative names of the source: none for an anonymous record of a stream."""
    is_file = entry.path is not None or entry.url is not None
    if is_file and entry.name.lower().endswith(LATENT_SUFFIX):
        yield entry.name[: -len(LATENT_SUFFIX)]
    elif header.name:
        yield entry.name
    if header.name:
        yield header.name


def _describe_change(path: str, header: RecordHeader) -> str | None:
    """Returns how the file differs from the source that was encoded, or None. Raises InputError."""
    try:
        size = os.path.getsize(path)
    except OSError as exc:
        raise InputError(describe_read_error(exc)) from exc
    if header.source_bytes is not None and size != header.source_bytes:
        return f"{size} bytes, not {header.source_bytes}"
    if header.source_sha256 is not None and hash_file(path) != header.source_sha256:
        return "same size, other bytes"
    return None
