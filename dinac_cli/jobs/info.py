"""Reads records and summarises their contents. Does not import torch."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from dinac_cli.container.header import RecordHeader
from dinac_cli.container.record import Record, open_record
from dinac_cli.container.tensors import ALL_COMPANIONS, Encoded
from dinac_cli.errors import DinacError, InputError, StorageError
from dinac_cli.images.geometry import allows_scaling, allows_upscaling, has_buckets
from dinac_cli.images.masks import FULL
from dinac_cli.jobs.entries import RecordEntry, list_records
from dinac_cli.jobs.executor.budget import map_bounded
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.image_masks import NO_MASK_KIND, read_mask_kind
from dinac_cli.jobs.request import (
    LATENTS,
    Announce,
    InputRequest,
    Request,
    Run,
    Selection,
    keep_quiet,
)
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.jobs.shards.record_tars import RecordFinder
from dinac_cli.jobs.shards.shard_folder import ShardFolder
from dinac_cli.storage.inputs import Input
from dinac_cli.storage.markers import Failure
from dinac_cli.storage.urls import hide_secrets


@dataclass(frozen=True, kw_only=True)
class InfoRequest(Request["InfoRun"]):
    """A request to read and count the records of `inputs`."""

    inputs: InputRequest

    command: ClassVar[str] = "info"

    def open(self, announce: Announce = keep_quiet) -> InfoRun:
        selection, catalogue = self.inputs.select(LATENTS), Catalogue()
        work = partial(catalogue_inputs, selection, catalogue, limit=selection.limit)
        return InfoRun(work=work, selection=selection, catalogue=catalogue)


@dataclass(kw_only=True)
class InfoRun(Run):
    """An info run that is ready to start. The run fills `catalogue`."""

    selection: Selection
    catalogue: Catalogue

    @cached_property
    def shards(self) -> list[ShardFacts]:
        """Facts about the folders of shards among the inputs."""
        finder = self.selection.scan.finder
        folders = finder.folders.values() if isinstance(finder, RecordFinder) else ()
        return [ShardFacts.of(folder) for folder in folders]


@dataclass(frozen=True, kw_only=True)
class ShardFacts:
    """Facts about a folder of shards: its path or URL, its tars, and how they were encoded.

    `options` are the options of encode in run.json, without the defaults; None if run.json is
    damaged. `failures` are the images that have no record because they failed; if they are not
    known, `problem` says why.
    """

    place: str
    shards: int
    size_bytes: int
    options: str | None
    compute: str
    failures: tuple[Failure, ...] = ()
    problem: str | None = None

    @classmethod
    def of(cls, folder: ShardFolder) -> ShardFacts:
        """Reads the facts of a folder."""
        settings = folder.settings
        try:
            failures, problem = tuple(folder.list_failures()), None
        except (InputError, StorageError) as exc:
            failures, problem = (), str(exc)
        return cls(
            place=hide_secrets(folder.store.place),
            shards=len(folder.tars),
            size_bytes=folder.size_bytes,
            options=None if settings is None else " ".join(settings.list_options()),
            compute="" if settings is None else settings.compute,
            failures=failures,
            problem=problem,
        )

    def to_json(self) -> dict[str, Any]:
        """Returns one JSON object."""
        return {
            "place": self.place,
            "shards": self.shards,
            "bytes": self.size_bytes,
            "options": self.options,
            "compute": self.compute,
            "failures": [vars(failure) for failure in self.failures],
            **({} if self.problem is None else {"problem": self.problem}),
        }


@dataclass(frozen=True)
class Beside:
    """Tells which tensors of an image are stored in addition to its latents.

    `token_width` is 0 if there is no class token. `mask_share` is the mean of the mask, from 0 to
    1, or None if there is no mask, so that everything counts.
    """

    has_posterior: bool = False
    token_width: int = 0
    mask_share: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns one flat JSON object, in which `mask` is missing if there is none."""
        facts: dict[str, Any] = {"posterior": self.has_posterior, "class_token": self.token_width}
        return facts if self.mask_share is None else {**facts, "mask": self.mask_share}


@dataclass(frozen=True)
class RecordFacts:
    """Facts about one record: its header, its size in bytes, and the sums over its latents.

    `upright` tells which other tensors are stored for the image itself. `flipped` tells the same
    for the mirrored image (None if the record has no mirrored image). The sums do not include the
    latents of the mirrored image.
    """

    header: RecordHeader
    size_bytes: int
    moments: ChannelMoments
    upright: Beside
    flipped: Beside | None

    @property
    def bits_per_pixel(self) -> float:
        """The size of the record in bits, divided by the image's number of pixels."""
        return 8 * self.size_bytes / (self.header.height * self.header.width)

    def to_json(self) -> dict[str, Any]:
        """Returns one flat JSON object. `mean` and `std` are taken over all latent values."""
        header = self.header
        facts: dict[str, Any] = {
            "bytes": self.size_bytes,
            "bits_per_pixel": self.bits_per_pixel,
            **{key: value for key, value in vars(header).items() if value not in ("", None)},
        }
        count = self.moments.count * len(self.moments.totals)
        mean = self.moments.totals.sum() / count
        facts["shape"] = list(header.shape)
        facts |= self.upright.to_json()
        facts["flipped"] = self.flipped is not None
        if self.flipped is not None:
            facts |= {f"flipped_{key}": value for key, value in self.flipped.to_json().items()}
        facts["mean"] = float(mean)
        variance = self.moments.squares.sum() / count - mean**2
        facts["std"] = float(max(variance, 0.0) ** 0.5)
        return facts


@dataclass
class Catalogue:
    """Totals of all records of a run.

    `moments` has one entry for each pair of latent space and number of channels. `buckets` counts
    the records of each (width, height) that `encode --buckets` made. `masks` counts the records
    that hold a mask, and `mask_shares` sums the means of these masks. `asked_masks` counts the
    records that were made with masks; if everything counts, they hold none. The memory grows with
    the number of models and buckets, but not with the number of records.
    """

    records: int = 0
    size_bytes: int = 0
    pixels: int = 0
    posteriors: int = 0
    class_tokens: int = 0
    twins: int = 0
    maybe_upscaled: int = 0
    maybe_scaled: int = 0
    flipped_posteriors: int = 0
    flipped_class_tokens: int = 0
    masks: int = 0
    mask_shares: float = 0.0
    asked_masks: int = 0
    models: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    precisions: Counter[str] = field(default_factory=Counter)
    buckets: Counter[tuple[int, int]] = field(default_factory=Counter)
    moments: dict[tuple[str, int], ChannelMoments] = field(default_factory=dict)
    last: RecordFacts | None = None

    def add(self, facts: RecordFacts) -> None:
        """Counts one record."""
        header = facts.header
        self.last = facts
        self.records += 1
        self.size_bytes += facts.size_bytes
        self.pixels += header.height * header.width
        self.posteriors += facts.upright.has_posterior
        self.class_tokens += facts.upright.token_width > 0
        self.masks += facts.upright.mask_share is not None
        self.mask_shares += facts.upright.mask_share or 0.0
        self.asked_masks += read_mask_kind(header.image) != NO_MASK_KIND
        if facts.flipped is not None:
            self.twins += 1
            self.flipped_posteriors += facts.flipped.has_posterior
            self.flipped_class_tokens += facts.flipped.token_width > 0
        self.models[header.model, header.latent_space, header.weights] += 1
        self.precisions[header.precision] += 1
        self.maybe_upscaled += allows_upscaling(header.image)
        self.maybe_scaled += allows_scaling(header.image)
        if has_buckets(header.image):
            self.buckets[header.width, header.height] += 1
        key = (header.latent_space, header.shape[0])
        earlier = self.moments.get(key)
        self.moments[key] = facts.moments if earlier is None else earlier + facts.moments


def catalogue_inputs(
    inputs: Iterable[Input],
    catalogue: Catalogue,
    control: RunControl,
    *,
    limit: int | None = None,
) -> Generator[FileResult, None, None]:
    """Adds all records, or the first `limit`, to `catalogue`. Yields one result per record."""
    entries = itertools.islice(list_records(inputs, control.stdin), limit)
    with closing(map_bounded(entries, _read, control)) as reads:
        for entry, facts in reads:
            yield _count(entry, facts, catalogue)


def _count(entry: RecordEntry, facts: RecordFacts | DinacError, catalogue: Catalogue) -> FileResult:
    if isinstance(facts, DinacError):
        return FileResult.fail(entry.label, facts, name=entry.name)
    catalogue.add(facts)
    return FileResult(
        entry.label,
        Status.READ,
        width=facts.header.width,
        height=facts.header.height,
        facts=facts.to_json(),
        name=entry.name,
    )


def _read(
    entry: RecordEntry, hold: Callable[[int], None]
) -> tuple[RecordEntry, RecordFacts | DinacError]:
    try:
        data = entry.read()
        opened = open_record(data)
        hold(len(data) + opened.declared_bytes(ALL_COMPANIONS, with_twin=True))
        record = opened.unpack(ALL_COMPANIONS, with_twin=True)
    except DinacError as exc:
        return entry, exc
    return entry, RecordFacts(
        record.header,
        len(data),
        measure_moments(record.latents),
        _look_beside(record),
        None if record.flipped is None else _look_beside(record.flipped),
    )


def _look_beside(image: Record | Encoded) -> Beside:
    token = image.class_token
    share = None if image.mask is None else float(image.mask.mean()) / FULL
    return Beside(image.logsnr is not None, 0 if token is None else token.size, share)


@dataclass(frozen=True, eq=False)
class ChannelMoments:
    """Sums over the latents at `count` positions. `totals` and `squares` are float64 [C].

    `totals` sums the values of each channel, and `squares` sums their squares.
    """

    count: int
    totals: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]

    def __add__(self, other: ChannelMoments) -> ChannelMoments:
        """Adds the sums of both operands. Both must have the same number of channels."""
        return ChannelMoments(
            self.count + other.count, self.totals + other.totals, self.squares + other.squares
        )

    @property
    def mean(self) -> npt.NDArray[np.float64]:
        """The mean of each channel, [C]."""
        return self.totals / self.count

    @property
    def std(self) -> npt.NDArray[np.float64]:
        """The population standard deviation of each channel, [C]."""
        variance = self.squares / self.count - self.mean**2
        return np.sqrt(np.maximum(variance, 0.0))


def measure_moments(latents: npt.NDArray[np.float32]) -> ChannelMoments:
    """Returns the sums over one image's latents [C, h, w]."""
    values = latents.reshape(len(latents), -1).astype(np.float64)  # [C, h·w]
    return ChannelMoments(values.shape[1], values.sum(axis=1), np.square(values).sum(axis=1))
