"""Measures images with one model: encodes each one, decodes it in every variant, and compares.

An image is encoded once. Its latents are packed into a record of each precision, and what a reader
of the record finds is decoded with each number of steps: the same bytes as `encode` and `decode`
make. Nothing is written but the figures, and the pictures of the images that are shown.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt

from dinac_cli.codec.records import Source, build_record
from dinac_cli.compare.gallery import Gallery
from dinac_cli.compare.result_files import Measure, ResultFile, SourceStat
from dinac_cli.compare.variants import ComparedModel, Variant
from dinac_cli.container.frame import RECORD_START
from dinac_cli.container.record import hash_record, open_record
from dinac_cli.container.tensors import Encoded
from dinac_cli.errors import (
    DecodedImageError,
    DinacError,
    ImageError,
    InputError,
    SmallImageError,
)
from dinac_cli.images.metrics import measure_psnr
from dinac_cli.images.pixels import Pixels
from dinac_cli.images.reading import SourceImage
from dinac_cli.images.structural_similarity import measure_ms_ssim, measure_ssim
from dinac_cli.jobs.encode import EncodeOptions, refuse_decoded
from dinac_cli.jobs.executor.busy import Span
from dinac_cli.jobs.executor.job import Computing, Job, Made, Work
from dinac_cli.jobs.results import FileResult, Status, drop_advice
from dinac_cli.storage.content import hash_file, read_content
from dinac_cli.storage.inputs import Input

_PACKERS = 4  # threads that pack records while the device computes; zstd releases the lock


@dataclass
class Board:
    """The outcome of the images in one run. Several threads may use it.

    `measured` holds, for each variant, the images whose figures are up to date. `failed` holds the
    images that failed in any variant, `passed_over` those that are no inputs after all.
    """

    measured: dict[Variant, set[str]] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    passed_over: set[str] = field(default_factory=set)

    def is_complete(self, name: str) -> bool:
        """True if an image was measured in all variants."""
        return name not in self.failed and all(name in done for done in self.measured.values())


@dataclass(frozen=True)
class _Group:
    """What the images of a batch share: their padded size, and the variants that they need."""

    model: ComparedModel
    height: int
    width: int
    variants: tuple[Variant, ...]


@dataclass(frozen=True)
class _Original(Work):
    image: SourceImage
    source: Source
    stat: SourceStat
    variants: tuple[Variant, ...]


@dataclass(frozen=True)
class _RoundTrip:
    """An image after all its variants: the records by precision, the pixels by variant."""

    records: Mapping[str, bytes]
    pixels: Mapping[Variant, Pixels]


@dataclass(frozen=True, eq=False)
class _Packed:
    """The record of an image, and the latents in it, float32 [C, h, w]; or why there is none."""

    record: bytes
    latents: npt.NDArray[np.float32]
    error: DinacError | None = None


class MeasureJob(Job[Input, _Original, "_RoundTrip | DinacError"]):
    """Measures every image in all variants of one model that OUT does not hold yet.

    Only `shown` images leave pictures.
    """

    def __init__(
        self,
        model: ComparedModel,
        results: Mapping[Variant, ResultFile],
        options: EncodeOptions,
        gallery: Gallery,
        shown: Collection[str],
        board: Board,
        packers: ThreadPoolExecutor,
    ) -> None:
        self._model = model
        self._results = results
        self._options = options
        self._gallery = gallery
        self._shown = shown
        self._board = board
        self._packers = packers
        self._last: _Batch | None = None

    @property
    def glances(self) -> bool:
        return True

    def glance(self, entry: Input) -> FileResult | None:
        if entry.problem or entry.path is None:
            return None
        try:
            stat = SourceStat.of(os.stat(entry.path))
        except OSError:
            return None
        if self._list_missing(entry.name, lambda measure: measure.source == stat):
            return None
        return self._report_done(entry)

    def read(self, entry: Input, hold: Callable[[int], None]) -> _Original | FileResult:
        try:
            return self._read(entry, hold)
        except (DecodedImageError, SmallImageError) as exc:
            is_decoded = isinstance(exc, DecodedImageError)
            if not (is_decoded or self._options.skip_small):
                raise
            self._board.passed_over.add(entry.name)
            reason = drop_advice(str(exc))
            return FileResult(entry.label, Status.SKIPPED, reason=reason, is_decoded=is_decoded)

    def _read(self, entry: Input, hold: Callable[[int], None]) -> _Original | FileResult:
        if entry.problem or entry.path is None:
            raise InputError(entry.problem or "standard input cannot be compared; name a file")
        missing = self._list_missing(entry.name, _SourceCheck(entry.path).holds)
        if not missing:
            return self._report_done(entry)
        content = read_content(entry.path)
        refuse_decoded(entry, content.data)
        if content.data.startswith(RECORD_START):
            raise InputError("a latent record, not an image; name the images")
        assert content.status is not None, "a file has a status"
        image = self._options.read_image(content.data, hold)
        height, width, _ = image.pixels.shape
        hold(len(content.data) + (2 + len(missing)) * image.pixels.nbytes)
        source = Source(
            entry.name, len(content.data), content.sha256, image.description, height, width
        )
        patch = self._model.handle.traits.patch
        padded = -(-height // patch) * patch, -(-width // patch) * patch
        return _Original(
            entry.label,
            entry.name,
            _Group(self._model, *padded, missing),
            (1 + len(missing)) * image.pixels.nbytes,
            image,
            source,
            SourceStat.of(content.status),
            missing,
        )

    def batch_size(self, group: Hashable) -> int:
        assert isinstance(group, _Group)
        return group.model.handle.engine.batch_size(group.height, group.width)

    @property
    def is_on_cpu(self) -> bool:
        return self._model.handle.is_on_cpu

    def take_busy_spans(self) -> Sequence[Span]:
        return self._model.handle.take_busy_spans()

    def take_remarks(self) -> list[str]:
        return self._model.handle.take_remarks()

    def submit(self, batch: list[_Original]) -> Computing[_RoundTrip | DinacError]:
        source = batch[0].source
        self._model.handle.engine.check_size(source.height, source.width)
        submitted = _Batch(self._model, batch, self._packers)
        # While the device encodes this batch, the host packs the records of the batch before.
        if self._last is not None:
            self._last.decode()
        self._last = submitted
        return submitted

    def finish(self, work: _Original, computed: _RoundTrip | DinacError) -> Made:
        if isinstance(computed, DinacError):
            raise computed
        if work.name in self._shown:
            sha256 = work.source.sha256
            self._gallery.keep_original(work.name, work.image.pixels, sha256)
        for variant in work.variants:
            measure = self._measure(work, computed, variant)
            self._results[variant].add(work.name, measure)
        self._note_measured(work.name)
        result = FileResult(
            work.label,
            Status.MEASURED,
            warnings=work.image.warnings,
            width=work.source.width,
            height=work.source.height,
            name=work.name,
            unchecked=not work.image.soundness.is_checked,
        )
        return Made(result)

    def _measure(self, work: _Original, computed: _RoundTrip, variant: Variant) -> Measure:
        record, pixels = computed.records[variant.precision], computed.pixels[variant]
        record_sha256 = hash_record(record)
        if work.name in self._shown:
            self._gallery.keep(variant, work.name, pixels, record, record_sha256)
        return Measure(
            source_sha256=work.source.sha256,
            source=work.stat,
            record_sha256=record_sha256,
            record_bytes=len(record),
            height=work.source.height,
            width=work.source.width,
            psnr_db=measure_psnr(work.image.pixels, pixels),
            ssim=measure_ssim(work.image.pixels, pixels),
            ms_ssim=measure_ms_ssim(work.image.pixels, pixels),
        )

    def _list_missing(
        self, name: str, is_current: Callable[[Measure], bool]
    ) -> tuple[Variant, ...]:
        """Returns the variants in which an image must be measured, or a picture must be made."""
        return tuple(
            variant
            for variant, results in self._results.items()
            if (measure := results.find(name)) is None
            or not is_current(measure)
            or (name in self._shown and not self._gallery.has(variant, name, measure))
        )

    def _report_done(self, entry: Input) -> FileResult:
        self._note_measured(entry.name)
        return FileResult(entry.label, Status.DONE, name=entry.name)

    def _note_measured(self, name: str) -> None:
        """Notes that the figures of an image are up to date in all variants of the model."""
        for variant in self._results:
            self._board.measured[variant].add(name)


@dataclass(frozen=True)
class _SourceCheck:
    """Compares a source with what was measured: by its size and times, or else by its hash."""

    path: str

    @cached_property
    def _stat(self) -> SourceStat:
        return SourceStat.of(os.stat(self.path))

    @cached_property
    def _sha256(self) -> str:
        return hash_file(self.path)

    def holds(self, measure: Measure) -> bool:
        """True if the source is as it was measured."""
        if measure.source == self._stat:
            return True
        is_same_size = measure.source.size_bytes == self._stat.size_bytes
        return is_same_size and measure.source_sha256 == self._sha256


class _Batch:
    """A batch on its way through encoder, records and decoder.

    An image whose record cannot be built, or a batch that does not fit into memory, fails alone: it
    has an error instead of a result.
    """

    def __init__(
        self, model: ComparedModel, batch: Sequence[_Original], packers: ThreadPoolExecutor
    ) -> None:
        """Starts the encoder. Raises ImageError, DeviceError."""
        self._model = model
        self._batch = batch
        self._packers = packers
        self._encoding: Computing[Encoded] = model.handle.engine.submit_images(
            [work.image.pixels for work in batch]
        )
        self._packed: dict[str, list[_Packed]] = {}
        self._decoding: dict[Variant, Computing[Pixels]] | None = None
        self._error: ImageError | None = None

    def decode(self) -> None:
        """Waits for the encoder, packs the records, and starts the decoder. Later calls do nothing.

        Raises DeviceError.
        """
        if self._decoding is not None:
            return
        self._decoding = {}
        try:
            encoded = self._encoding.result()
            for variant in self._batch[0].variants:
                if variant.precision not in self._packed:
                    pack = partial(self._pack, variant.precision)
                    packed = list(self._packers.map(pack, self._batch, encoded))
                    self._packed[variant.precision] = packed
                self._decoding[variant] = self._submit(variant)
        except ImageError as exc:
            self._error = exc

    def _submit(self, variant: Variant) -> Computing[Pixels]:
        return self._model.handle.engine.submit_latents(
            [one.latents for one in self._packed[variant.precision]],
            [(work.source.height, work.source.width) for work in self._batch],
            variant.settings,
        )

    @property
    def is_done(self) -> bool:
        """True if `result` returns without waiting."""
        return self._decoding is not None and all(one.is_done for one in self._decoding.values())

    def result(self) -> list[_RoundTrip | DinacError]:
        """Waits for the decoder. Raises DeviceError."""
        self.decode()
        assert self._decoding is not None
        if self._error is not None:
            return [self._error] * len(self._batch)
        try:
            pixels = {variant: one.result() for variant, one in self._decoding.items()}
        except ImageError as exc:
            return [exc] * len(self._batch)
        return [self._collect(place, pixels) for place in range(len(self._batch))]

    def _collect(
        self, place: int, pixels: Mapping[Variant, Sequence[Pixels]]
    ) -> _RoundTrip | DinacError:
        """Returns the records and pixels of one image, or its first error."""
        packed = {precision: images[place] for precision, images in self._packed.items()}
        error = next((one.error for one in packed.values() if one.error is not None), None)
        if error is not None:
            return error
        records = {precision: one.record for precision, one in packed.items()}
        return _RoundTrip(records, {variant: images[place] for variant, images in pixels.items()})

    def _pack(self, precision: str, work: _Original, encoded: Encoded) -> _Packed:
        handle = self._model.handle
        try:
            record = build_record(work.source, encoded, handle, handle.engine.compute, precision)
            return _Packed(record, open_record(record).unpack().latents)
        except DinacError as exc:
            return _Packed(b"", np.zeros_like(encoded.latents), exc)


@contextmanager
def open_measure_job(
    model: ComparedModel,
    results: Mapping[Variant, ResultFile],
    options: EncodeOptions,
    gallery: Gallery,
    shown: Collection[str],
    board: Board,
) -> Iterator[MeasureJob]:
    """Opens a job that measures all variants in `results`, which are of one model."""
    for variant in results:
        board.measured.setdefault(variant, set())
    with ThreadPoolExecutor(_PACKERS, "pack") as packers:
        yield MeasureJob(model, results, options, gallery, shown, board, packers)
