"""Predicts what an encode run would do, without running it. Does not import torch."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from typing import IO, Any

from dinac_cli.codec.compute import refuse_devices
from dinac_cli.codec.handle import DeviceChoice
from dinac_cli.container.record import read_header
from dinac_cli.errors import (
    DecodedImageError,
    DeviceError,
    DinacError,
    InputError,
    MissingLibraryError,
    ModelError,
    OutputError,
    SmallImageError,
    UsageError,
    describe_read_error,
)
from dinac_cli.images.geometry import NO_GEOMETRY, Geometry
from dinac_cli.images.reading import measure_file
from dinac_cli.jobs.encode import (
    EncodeOptions,
    EncodeRequest,
    explain_skip,
    open_memory,
    refuse_decoded,
)
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.executor.phase import Watch, ignore_phase
from dinac_cli.jobs.freshness import (
    Cause,
    State,
    Verdict,
    WantedLatents,
    check_latents,
)
from dinac_cli.jobs.held import HeldRecord, announce_followed, find_held_record
from dinac_cli.jobs.image_masks import (
    NO_MASK,
    FoundMask,
    find_mask,
    require_some_mask,
    suggest_mask_folder,
)
from dinac_cli.jobs.model_choice import choose_local_encoder, open_encoder, refuse_mixed_latents
from dinac_cli.jobs.orphans import find_orphans
from dinac_cli.jobs.pruning import Pruning
from dinac_cli.jobs.renames import rename_record
from dinac_cli.jobs.request import Announce, Selection, keep_quiet
from dinac_cli.jobs.trial import Trial, TrialSample, run_trial
from dinac_cli.models.registry import choose_default
from dinac_cli.storage.content import hash_file
from dinac_cli.storage.inputs import Input
from dinac_cli.storage.mask_files import MaskFiles
from dinac_cli.storage.naming import name_latents
from dinac_cli.storage.output import Output
from dinac_cli.storage.source_memory import NO_MEMORY, SourceMemory

# These values were measured with nano on photographs. The documentation has the same table.
TYPICAL_BITS_PER_PIXEL = {
    "f32": 14.49,
    "bf16": 5.28,
    "q8": 3.01,
    "q7": 2.66,
    "q6": 2.41,
    "q5": 2.15,
    "q4": 1.79,
    "q3": 1.53,
}

# This value was measured with nano in bf16, on the same photographs. In f32, the log-SNR takes
# more bytes.
POSTERIOR_BITS_PER_PIXEL = 4.53


class Fate(str, Enum):
    """What a run would do with one file."""

    NEW = "new"
    STALE = "stale"
    DAMAGED = "damaged"
    DONE = "done"
    RENAMED = "renamed"  # with --prune: the record of an earlier name gets the new name
    SKIPPED = "skipped"  # too small, with --skip-small, or decoded by dinac
    CONFLICT = "conflict"  # the existing file must not be replaced
    ORPHANED = "orphaned"  # a record whose source is not in the input folders
    FAILED = "failed"  # the input cannot be read


WORK = (Fate.NEW, Fate.STALE, Fate.DAMAGED)


@dataclass(frozen=True)
class PlannedFile:
    """One input, or one orphaned record. `reason` explains its `fate` in one line.

    `size` is the (width, height) of the encoded image, and `pixels` its number of pixels; None if
    unknown. `size_bytes` is the size of the existing record if `fate` is DONE, RENAMED or ORPHANED.
    `entry` is None if the run would not encode the input. `error` is the class of the error if
    `fate` is FAILED. `upscaled` is true if the run would scale the image up. `is_decoded` is true
    if the run would skip the image because dinac decoded it. `is_unmasked` is true if --masks has
    no file for it.
    """

    file: str
    fate: Fate
    output: str | None = None
    reason: str | None = None
    changed: str | None = None
    pixels: int | None = None
    size: tuple[int, int] | None = None
    size_bytes: int | None = None
    entry: Input | None = None
    error: str | None = None
    upscaled: bool = False
    is_decoded: bool = False
    is_unmasked: bool = False

    def to_json(self) -> dict[str, Any]:
        """Returns one flat JSON object without the empty fields."""
        facts = {
            "file": self.file,
            "state": self.fate.value,
            "output": self.output,
            "reason": self.reason,
            "changed": self.changed,
            "pixels": self.pixels,
            "bytes": self.size_bytes,
            "error": self.error,
            "upscaled": self.upscaled or None,
            "unmasked": self.is_unmasked or None,
        }
        return {key: value for key, value in facts.items() if value is not None}


@dataclass(frozen=True)
class TimeEstimate:
    """The estimated time of a run. A trial encoded `files` images to estimate this time.

    If `seconds` is None, `basis` says why.
    """

    seconds: float | None
    basis: str
    files: int = 0


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """A request to predict the run of `encode`. If `quick` is set, there is no trial.

    `model_rate` is the assumed speed of the model on one device, in images per second, for a plan
    of shards; None if it is tried here.
    """

    encode: EncodeRequest
    quick: bool = False
    model_rate: float | None = None

    def open(self, announce: Announce = keep_quiet, watch: Watch = ignore_phase) -> PlanRun:
        """Checks the request, counts the inputs and chooses the model. Downloads nothing.

        Calls `announce` if the run follows OUT. Raises UsageError if the request names several
        devices. Otherwise, raises UsageError, ModelError or OutputError only if encode would raise
        the same error. For a request that needs shards, see `shards.forecast`.
        """
        if self.model_rate is not None:
            raise UsageError("--model-rate needs shards; add --shard-size, or leave it out")
        refuse_devices(self.encode.model.device, "a plan")
        selection, output = self.encode.open_places()
        if not os.path.lexists(output.path):  # an existing OUT is checked only if there is work
            output.require_writable()
        with suggest_mask_folder(self.encode.options.fill().mask_kind):
            total = selection.count(output, name_latents, watch)
        masks, every = self.encode.options.masks, selection.list_all()
        if masks is not None and every is not None:
            require_some_mask(every, masks)
        held = find_held_record(output)
        options = self.encode.options.follow(held)
        resolved = choose_local_encoder(self.encode.model, held)
        model = open_encoder(resolved, DeviceChoice(), options.companions)
        options.check_model(model)
        width = model.traits.feature_dim if options.features else None
        plan = Plan(
            options.precision,
            posterior=options.posterior,
            token_width=width or 0,
            with_twins=options.geometry.flip,
            geometry=options.geometry,
            finds_masks=options.masks is not None,
        )
        wanted = options.want(model)
        pruning = self.encode.open_pruning(selection, output)
        run = PlanRun(self, selection, output, held, options, wanted, plan, total, pruning)
        try:
            refuse_mixed_latents(output, held, wanted)
        except UsageError as exc:
            run.refusal = str(exc)
            return run
        announce_followed(held, self.encode.options.list_followed(held), announce)
        return run


@dataclass
class PlanRun:
    """A plan that is ready to be made.

    `held` is the record in OUT that the run follows, and `options` are the run's options. `total`
    is the number of inputs (None if unknown). If encode would not start, `refusal` says why. If the
    run would prune, `pruning` is set; if it would move nothing although asked to, `prune_refusal`
    says why, after `list_files`.
    """

    request: PlanRequest
    selection: Selection
    output: Output
    held: HeldRecord | None
    options: EncodeOptions
    wanted: WantedLatents
    plan: Plan
    total: int | None
    pruning: Pruning | None = None
    refusal: str | None = None
    prune_refusal: str | None = None
    sample: TrialSample = field(default_factory=TrialSample)

    def list_files(self) -> Iterator[PlannedFile]:
        """Yields each file with its `fate`, and counts it in `plan`. Raises OutputError."""
        with open_memory(self.output, read_only=True) as memory:
            for file in self._plan_files(memory):
                self.plan.add(file)
                if file.entry is not None and file.pixels is not None:
                    self.sample.add(file.entry)
                yield file
        if any(self.plan.counts[fate].files for fate in WORK):
            self.output.require_writable()

    def _plan_files(self, memory: SourceMemory) -> Iterator[PlannedFile]:
        yield from plan_files(
            self.selection, self.output, self.wanted, self.options, memory, self.pruning
        )
        if self.pruning is not None:
            fates = (Fate.NEW, Fate.RENAMED)
            new = sum(self.plan.counts[fate].files for fate in fates)
            self.prune_refusal = self.pruning.check(new)

    def estimate_time(self, control: RunControl, *, quick: bool = False) -> TimeEstimate:
        """Times the encoding of a sample with the run's model, and discards the records."""
        request = self.request.encode
        if not self.sample.entries:
            return TimeEstimate(None, "of unknown size" if self.plan.unmeasured else "")
        if quick or self.request.quick:
            return TimeEstimate(None, "--quick")
        if request.model.compiled:
            return TimeEstimate(None, "compiled models are not tried")
        try:
            trial = self._run_trial(control)
        except (ModelError, DeviceError, MissingLibraryError) as exc:
            return TimeEstimate(None, str(exc))
        if trial is None:
            return TimeEstimate(None, "no image of the sample can be encoded")
        pixels = sum(self.plan.counts[fate].pixels for fate in WORK)
        return TimeEstimate(trial.estimate_seconds(pixels), trial.basis, trial.files)

    def _run_trial(self, control: RunControl) -> Trial | None:
        request = self.request.encode
        default = choose_default(request.model.device)
        resolved = choose_local_encoder(request.model, self.held, default)
        model = open_encoder(resolved, request.model, self.options.companions)
        return run_trial(self.sample, model, self.options, control)


def plan_files(
    selection: Selection,
    output: Output,
    wanted: WantedLatents,
    options: EncodeOptions,
    memory: SourceMemory = NO_MEMORY,
    pruning: Pruning | None = None,
) -> Iterator[PlannedFile]:
    """Yields what a run would do with each input, and then the orphaned records of a folder OUT.

    With `pruning`, the orphaned records are those that the run would move away. Makes no folder and
    removes no temporary file. If a file causes an error, its `fate` is CONFLICT or FAILED.
    """
    masks = None if options.masks is None else MaskFiles(options.masks)
    for entry in selection:
        try:
            mask = NO_MASK if masks is None else find_mask(masks, entry.name)
            planned = _plan_file(entry, output, wanted, options, memory, mask)
            if pruning is not None:
                planned = _plan_rename(entry, planned, wanted, pruning, mask) or planned
            yield replace(planned, is_unmasked=masks is not None and mask.path is None)
        except OutputError as exc:
            yield PlannedFile(entry.label, Fate.CONFLICT, reason=str(exc))
        except DinacError as exc:
            yield _fail(entry, exc)
        except OSError as exc:
            yield _fail(entry, InputError(describe_read_error(exc)))
    yield from _plan_orphans(selection, output, pruning)


def _plan_orphans(
    selection: Selection, output: Output, pruning: Pruning | None
) -> Iterator[PlannedFile]:
    orphans = find_orphans(selection, output) if pruning is None else pruning.list_orphans()
    for path in orphans:
        try:
            size = os.path.getsize(path)
        except FileNotFoundError:  # another run has moved it
            continue
        reason = "its source is not among the inputs"
        yield PlannedFile(path, Fate.ORPHANED, path, reason, size_bytes=size)


def _fail(entry: Input, exc: DinacError) -> PlannedFile:
    return PlannedFile(entry.label, Fate.FAILED, reason=str(exc), error=type(exc).__name__)


def _plan_file(
    entry: Input,
    output: Output,
    wanted: WantedLatents,
    options: EncodeOptions,
    memory: SourceMemory,
    mask: FoundMask,
) -> PlannedFile:
    if entry.problem:
        raise InputError(entry.problem)
    if output.is_stream:
        return _plan_work(entry, PlannedFile(entry.label, Fate.NEW), output, options)
    target = output.locate(name_latents(entry.name))
    output.require_inside(os.path.dirname(target) or ".")
    verdict = _judge(entry, target, output, wanted, options, memory, mask)
    if verdict.state is State.DONE:
        with open(target, "rb") as file:
            header = read_header(file)
        planned = PlannedFile(entry.label, Fate.DONE, target, size_bytes=os.path.getsize(target))
        return _set_size(planned, (header.width, header.height))
    fate, reason, changed = Fate.NEW, verdict.reason, None
    if verdict.state is not State.ABSENT:
        fate = Fate.DAMAGED if verdict.cause is Cause.DAMAGE else Fate.STALE
    if fate is Fate.STALE and verdict.cause is not None:
        changed = verdict.cause.value
        if verdict.cause is not Cause.MASK:  # whose reason names the mask already
            reason = f"{reason} ({changed})"
    planned = PlannedFile(entry.label, fate, target, reason, changed)
    return _plan_work(entry, planned, output, options)


def _plan_rename(
    entry: Input, planned: PlannedFile, wanted: WantedLatents, pruning: Pruning, mask: FoundMask
) -> PlannedFile | None:
    """Returns a new file as RENAMED if OUT holds the record of its earlier name, else None."""
    renames, target = pruning.renames, planned.output
    if planned.fate is not Fate.NEW or renames is None or target is None or entry.path is None:
        return None
    path = entry.path
    orphan = renames.take(os.path.getsize(path), lambda: hash_file(path))
    if orphan is None or rename_record(orphan, path, entry.name, wanted, mask=mask) is None:
        return None
    renames.note_moved(orphan, orphan)  # the run would make its new name
    size = os.path.getsize(orphan)
    return PlannedFile(entry.label, Fate.RENAMED, target, f"was {orphan}", size_bytes=size)


def _plan_work(
    entry: Input, planned: PlannedFile, output: Output, options: EncodeOptions
) -> PlannedFile:
    """Adds the size of the image to encode. If the image is too small, the fate is SKIPPED."""
    try:
        size = measure_original(entry.path, options, partial(refuse_decoded, entry))
        if size is None:
            return replace(planned, entry=entry)
        final = options.geometry.measure(*size)
    except DecodedImageError as exc:
        return PlannedFile(entry.label, Fate.SKIPPED, reason=str(exc), is_decoded=True)
    except SmallImageError as exc:
        return PlannedFile(
            entry.label, Fate.SKIPPED, reason=explain_skip(exc, entry, output, options)
        )
    upscaled = options.geometry.upscales(*size)
    return _set_size(replace(planned, entry=entry, upscaled=upscaled), final)


def _set_size(planned: PlannedFile, size: tuple[int, int]) -> PlannedFile:
    return replace(planned, size=size, pixels=math.prod(size))


def _judge(
    entry: Input,
    target: str,
    output: Output,
    wanted: WantedLatents,
    options: EncodeOptions,
    memory: SourceMemory,
    mask: FoundMask,
) -> Verdict:
    if not output.overwrite:
        return check_latents(
            target, entry.path, wanted, checksum=options.checksum, memory=memory, mask=mask
        )
    if os.path.lexists(target):
        return Verdict(State.STALE, "--overwrite re-encodes it")
    return Verdict(State.ABSENT)


def measure_original(
    path: str | None, options: EncodeOptions, check: Callable[[IO[bytes]], None] | None = None
) -> tuple[int, int] | None:
    """Reads the header of an image, and returns (width, height) of the upright image.

    If the geometry does not depend on it, the image need not be upright. Returns None for standard
    input and named pipes. `check` may refuse the open file. Raises ImageError, OSError.
    """
    if path is None or (os.path.exists(path) and not os.path.isfile(path)):
        return None
    return measure_file(
        path,
        max_pixels=options.max_pixels,
        upright=options.geometry.depends_on_orientation,
        hdr=options.hdr,
        check=check,
    )


@dataclass
class FateCount:
    """Totals of the files that have the same `Fate`. Unknown sizes are not included."""

    files: int = 0
    pixels: int = 0
    size_bytes: int = 0
    unmeasured: int = 0


class Plan:
    """Totals of all files of a plan, and an estimate of how many bytes a run would write.

    If `posterior` is set, records also hold the log-SNR. `token_width` is the length of the class
    token, or 0 if records hold no class token. If `with_twins` is set, records hold everything
    twice, for the image itself and for the mirrored image. `upscaled` is the number of images that
    the run would scale up. `too_small` is the number of images that fail because they are smaller
    than the crop or their bucket. `buckets` counts the images of each (width, height), finished
    ones too, if `geometry` has buckets. `decoded` is the number of images that are skipped because
    dinac decoded them. `unmasked` is the number of images without a file of --masks, finished ones
    too; None without --masks.
    """

    def __init__(
        self,
        precision: str,
        *,
        posterior: bool = False,
        token_width: int = 0,
        with_twins: bool = False,
        geometry: Geometry = NO_GEOMETRY,
        finds_masks: bool = False,
    ) -> None:
        self.geometry = geometry
        self.unmasked: int | None = 0 if finds_masks else None
        self.buckets: Counter[tuple[int, int]] = Counter()
        copies = 2 if with_twins else 1
        typical = TYPICAL_BITS_PER_PIXEL[precision]
        self._typical = copies * (typical + (POSTERIOR_BITS_PER_PIXEL if posterior else 0))
        self._token_bytes = copies * 4 * token_width
        self.counts = {fate: FateCount() for fate in Fate}
        self.upscaled = 0
        self.too_small = 0
        self.decoded = 0

    def add(self, file: PlannedFile) -> None:
        """Counts one file."""
        count = self.counts[file.fate]
        count.files += 1
        count.pixels += file.pixels or 0
        count.size_bytes += file.size_bytes or 0
        count.unmeasured += file.fate in WORK and file.pixels is None
        self.upscaled += file.upscaled
        self.too_small += file.error == SmallImageError.__name__
        self.decoded += file.is_decoded
        if self.unmasked is not None and file.fate in (*WORK, Fate.DONE, Fate.RENAMED):
            self.unmasked += file.is_unmasked
        if self.geometry.buckets is not None and file.size is not None:
            self.buckets[file.size] += 1

    @property
    def is_measured(self) -> bool:
        """True if `bits_per_pixel` is measured on finished records, and not a typical value."""
        return self.counts[Fate.DONE].pixels > 0

    @property
    def bits_per_pixel(self) -> float:
        """The bits per pixel of finished records, or a typical value if no record is finished."""
        done = self.counts[Fate.DONE]
        if not self.is_measured:
            return self._typical
        return 8 * done.size_bytes / done.pixels

    def estimate_bytes(self, fate: Fate) -> int:
        """Returns the total size, in bytes, of all records with this `fate`.

        The size of records to write is an estimate.
        """
        count = self.counts[fate]
        if fate not in WORK:
            return count.size_bytes
        tokens = 0 if self.is_measured else self._token_bytes * count.files
        return tokens + round(count.pixels * self.bits_per_pixel / 8)

    @property
    def bytes_to_write(self) -> int:
        """The estimated number of bytes that the run would write."""
        return sum(map(self.estimate_bytes, WORK))

    @property
    def unmeasured(self) -> int:
        """The number of images of unknown size to encode. The estimate does not include them."""
        return sum(self.counts[fate].unmeasured for fate in WORK)
