"""Decodes latent records into images."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from dinac_cli.codec.handle import BatchGroup, ModelHandle
from dinac_cli.codec.records import check_model
from dinac_cli.container.record import Record, hash_record, open_record
from dinac_cli.container.tensors import Latents
from dinac_cli.errors import FormatError, InputError, Rejection, UsageError
from dinac_cli.images.description import format_description
from dinac_cli.images.formats import (
    OUTPUT_FORMATS,
    OUTPUT_SUFFIXES,
    OutputFormat,
    format_of_suffix,
    looks_like_image,
)
from dinac_cli.images.stamp import read_stamp
from dinac_cli.images.writing import write_image
from dinac_cli.jobs.entries import (
    RecordEntry,
    close_claim,
    list_records,
    require_single,
    settle_names,
)
from dinac_cli.jobs.executor.busy import Span
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.executor.job import Computing, Job, Made, Work
from dinac_cli.jobs.executor.local import run_job
from dinac_cli.jobs.executor.pool import hold_job, run_in_processes
from dinac_cli.jobs.freshness import (
    NO_STEPS,
    STEPS,
    State,
    Verdict,
    WantedImage,
    check_image,
    compare_settings,
    describes_steps,
    is_stamped_image,
    list_settings,
)
from dinac_cli.jobs.held import (
    DEFAULT_IMAGE,
    DEFAULT_SETTINGS,
    HeldImage,
    announce_followed,
    find_held_image,
)
from dinac_cli.jobs.model_choice import (
    FixedModel,
    ModelChoice,
    ModelFinder,
    choose_models,
    demand_library,
)
from dinac_cli.jobs.orphans import DECODE_SOURCES
from dinac_cli.jobs.pruning import Prune, Pruning, require_whole_folders
from dinac_cli.jobs.request import (
    LATENTS,
    Announce,
    InputRequest,
    ProcessRequest,
    Run,
    Selection,
    choose_output_kind,
    keep_quiet,
    list_paths,
    name_path,
    run_request,
)
from dinac_cli.jobs.results import FileResult, Status
from dinac_cli.models.interface import DinacAEInferenceConfig, is_int
from dinac_cli.storage.inputs import Input
from dinac_cli.storage.markers import holds_shards
from dinac_cli.storage.naming import name_image
from dinac_cli.storage.output import Output, OutputKind

_INPUTS_LOOKED_AT = 64


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """The options that decide how records become images.

    `quality` is None for the default quality of the format. If `allow_other_model` is set, latents
    of another latent space are also decoded. If `flipped` is set, the mirrored image of each record
    is decoded. `asked` are the options of the diffusion that the user gave, if they are not the
    defaults, such as `--steps 4`.
    """

    settings: DinacAEInferenceConfig
    format: OutputFormat
    quality: int | None = None
    allow_other_model: bool = False
    flipped: bool = False
    asked: tuple[str, ...] = field(default=(), compare=False)

    def list_settings(self, unlike: DecodeOptions) -> list[str]:
        """Returns the settings of images that differ from `unlike`, as options of `decode`."""
        settings = list_settings(describe_settings(self), unlike=describe_settings(unlike))
        if self.format is not unlike.format:
            settings.append(f"--format {self.format.name}")
        return settings


@dataclass(frozen=True, kw_only=True)
class DecodeChoice:
    """The options of a request to decode; see `DecodeOptions` and `DinacAEInferenceConfig`.

    `guidance` is the strength of the guidance, or "off". `format` is a name in `OUTPUT_FORMATS`.
    `quality` is 1 to 100, or "default". A field may be None: the option is not given. Then the run
    follows the first decoded image in OUT; if OUT holds no such image, or if the run overwrites
    images, the run uses the default. The format of OUT's own suffix wins over both. Raises
    UsageError if a field is out of range.
    """

    steps: int | None = None
    sampler: str | None = None
    schedule: str | None = None
    guidance: float | Literal["off"] | None = None
    strength: float | None = None
    seed: int | None = None
    format: str | None = None
    quality: int | Literal["default"] | None = None
    flipped: bool | None = None

    def __post_init__(self) -> None:
        self._change(DEFAULT_SETTINGS)
        quality = self.quality
        if quality not in (None, "default") and not (is_int(quality) and 1 <= quality <= 100):
            raise UsageError(f"--quality {quality}: expected 1 to 100")

    def _change(self, settings: DinacAEInferenceConfig) -> DinacAEInferenceConfig:
        """Returns the settings with the values of the given options."""
        is_off = self.guidance == "off"
        given = {
            "num_steps": self.steps,
            "sampler": self.sampler,
            "schedule": self.schedule,
            "pdg": None if self.guidance is None else not is_off,
            "pdg_strength": DEFAULT_SETTINGS.pdg_strength if is_off else self.guidance,
            "strength": self.strength,
            "seed": self.seed,
        }
        changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        return replace(settings, **changes)

    def follow(self, held: HeldImage, form: OutputFormat | None) -> DecodeOptions:
        """Returns the options. Options that are not given have the values of `held`.

        `form` is the given format, or None. The quality of another format is not followed. Raises
        UsageError if the quality does not suit the format.
        """
        form = form or held.format
        held_quality = held.quality if form is held.format else None
        return DecodeOptions(
            settings=self._change(held.settings),
            format=form,
            quality=held_quality if self.quality is None else choose_quality(self.quality, form),
            flipped=held.flipped if self.flipped is None else self.flipped,
            asked=self._list_asked(),
        )

    def _list_asked(self) -> tuple[str, ...]:
        """Returns the options of the diffusion that are given and are not the defaults."""
        default = DecodeOptions(settings=DEFAULT_SETTINGS, format=DEFAULT_IMAGE.format)
        asked = replace(default, settings=self._change(DEFAULT_SETTINGS))
        return tuple(asked.list_settings(unlike=default))


@dataclass(frozen=True, kw_only=True)
class DecodeRequest(ProcessRequest["DecodeRun"]):
    """A request to decode `inputs` into OUT: a folder, an image file, or `-`.

    If `prune` is given, the run ends with moving the orphans in OUT away; see `Pruning`.
    """

    inputs: InputRequest
    out: str
    options: DecodeChoice = field(default_factory=DecodeChoice)
    model: ModelChoice = field(default_factory=ModelChoice)
    allow_other_model: bool = False
    overwrite: bool = False
    fsync: bool = False
    prune: Prune | None = None

    command: ClassVar[str] = "decode"

    def open(self, announce: Announce = keep_quiet) -> DecodeRun:
        selection = self.inputs.select(LATENTS, self.out)
        kind = choose_output_kind(self.out, selection.scan, OUTPUT_SUFFIXES)
        output = Output(self.out, kind, is_stamped_image, self.overwrite, self.fsync)
        pruning = self._open_pruning(selection, output)
        form = choose_format(self.options.format, self.out, kind)
        held = find_held_image(output, form)
        options = replace(
            self.options.follow(held or DEFAULT_IMAGE, form),
            allow_other_model=self.allow_other_model,
        )
        refuse_other_settings(selection, output, options, held)
        choice = replace(self.model, device=self.choose_device(announce))
        models = choose_models("decoder", choice, announce)
        if isinstance(models, FixedModel):
            refuse_steps(models.handle, options)
        followed = options.list_settings(unlike=self.options.follow(DEFAULT_IMAGE, form))
        announce_followed(held, followed, announce)
        limit = selection.limit
        work = partial(
            decode_inputs, selection, output, models, options, limit=limit, pruning=pruning
        )
        return DecodeRun(
            work=work if pruning is None else pruning.follow(work),
            selection=selection,
            output=output,
            rename=partial(name_image, suffixes=options.format.suffixes),
            pruning=pruning,
        )

    def _open_pruning(self, selection: Selection, output: Output) -> Pruning | None:
        if self.prune is None:
            return None
        if any(map(holds_shards, selection.scan.paths)):
            raise UsageError("--prune needs folders of loose records; leave it out for shards")
        require_whole_folders(selection, output)
        return Pruning(
            choice=self.prune, selection=selection, output=output, source_files=DECODE_SOURCES
        )


@dataclass(kw_only=True)
class DecodeRun(Run):
    """A decode run that is ready to start. `pruning` ends the run, if the request asks for it."""

    pruning: Pruning | None = None


def decode_files(
    latents: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    model: str = "auto",
    steps: int | None = None,
    sampler: str | None = None,
    schedule: str | None = None,
    guidance: float | Literal["off"] | None = None,
    strength: float | None = None,
    seed: int | None = None,
    format: str | None = None,
    quality: int | Literal["default"] | None = None,
    flipped: bool | None = None,
    device: str = "auto",
    dtype: str = "auto",
    workers: int | None = None,
    processes: int | None = 1,
    overwrite: bool = False,
    prune: Prune | None = None,
) -> Generator[FileResult, None, None]:
    """Decodes latent files and folders into the folder `out`, as `dinac decode` does.

    The keywords are the command's options; `prune` is "some" (--prune) or "all". An option
    that is None follows the first decoded image in `out`; if `out` holds no such image, it has its
    default. Yields results and raises errors as `encode_files` does.
    """
    options = DecodeChoice(
        steps=steps,
        sampler=sampler,
        schedule=schedule,
        guidance=guidance,
        strength=strength,
        seed=seed,
        format=format,
        quality=quality,
        flipped=flipped,
    )
    request = DecodeRequest(
        inputs=InputRequest(paths=list_paths(latents)),
        out=name_path(out),
        options=options,
        model=ModelChoice(model=model, device=device, dtype=dtype),
        workers=workers,
        processes=processes,
        overwrite=overwrite,
        prune=prune,
    )
    return run_request(request)


def choose_format(name: str | None, out: str, kind: OutputKind) -> OutputFormat | None:
    """Returns the named image format.

    Without a name, returns the format of OUT's suffix, or None if OUT has no such suffix. Raises
    UsageError if the name is unknown or contradicts the suffix.
    """
    by_suffix = format_of_suffix(out) if kind is OutputKind.FILE else None
    if name is None:
        return by_suffix
    chosen = OUTPUT_FORMATS.get(name.lower()) or format_of_suffix(f"x.{name}")
    if chosen is None:
        raise UsageError(f"--format {name}: choose one of {', '.join(OUTPUT_FORMATS)}")
    if by_suffix not in (None, chosen):
        raise UsageError(f"--format {name} contradicts the suffix of {out}; leave out one of them")
    return chosen


def choose_quality(quality: int | Literal["default"], form: OutputFormat) -> int | None:
    """Returns the quality to write with; None is the format's default.

    The default itself also becomes None, because it gives the same files. Raises UsageError if
    files of this format have no quality.
    """
    if quality == "default":
        return None
    if form.lossy_options is None:
        lossy = ", ".join(name for name, f in OUTPUT_FORMATS.items() if f.lossy_options is not None)
        raise UsageError(
            f"--quality {quality}: {form.name} is lossless; leave out --quality, or choose one of "
            f"{lossy} with --format"
        )
    return None if quality == form.quality else quality


def decode_inputs(
    inputs: Iterable[Input],
    output: Output,
    models: ModelFinder,
    options: DecodeOptions,
    control: RunControl,
    *,
    limit: int | None = None,
    pruning: Pruning | None = None,
) -> Generator[FileResult, None, None]:
    """Decodes all records, or the first `limit` records, and yields one result per record.

    Each model is loaded when the first record needs it. If an input does not hold exactly one
    record, its images are not named after it, so `pruning` must not move any image. If
    `output` is a stream, the only image goes to `control.stdout`. Raises DinacError if the run as a
    whole cannot go on.
    """
    records = list_records(
        inputs,
        control.stdin,
        partial(name_image, suffixes=options.format.suffixes),
        fold_case=output.folds_case,
    )
    entries: Iterator[RecordEntry] = itertools.islice(records, limit)
    if output.kind is not OutputKind.FOLDER:
        entries = require_single(entries, "standard output" if output.is_stream else output.path)
    if pruning is not None:
        entries = _watch_streams(entries, pruning)
    job = DecodeJob(output, models, options)
    stream = control.stdout if output.is_stream else None
    if control.processes > 1:
        entries = settle_names(entries, control.stop)
        return run_in_processes(hold_job(job), entries, control, stream, note=_settle)
    return run_job(job, entries, control, stream)


def _settle(entry: RecordEntry, result: FileResult) -> None:
    close_claim(entry, takes_name=not result.failed)


def _watch_streams(entries: Iterator[RecordEntry], pruning: Pruning) -> Iterator[RecordEntry]:
    for entry in entries:
        if entry.path is None:
            pruning.obstacle = f"{entry.label} is not one file of one record"
        yield entry


@dataclass(frozen=True)
class _ReadRecord(Work):
    record: Record
    model: ModelHandle
    record_hash: str
    size_bytes: int
    redo_reason: str | None


class DecodeJob(Job[RecordEntry, _ReadRecord, npt.NDArray[np.uint8]]):
    """Reads, decodes and writes each record for `decode_inputs`."""

    def __init__(self, output: Output, models: ModelFinder, options: DecodeOptions) -> None:
        self._output = output
        self._models = models
        self._options = options
        self._used: ModelHandle | None = None

    def read(self, entry: RecordEntry, hold: Callable[[int], None]) -> _ReadRecord | FileResult:
        with entry.settle_name():
            data = entry.read()
            if looks_like_image(data):
                raise InputError("an image, not a latent record; use encode")
            opened = open_record(data)
            header = opened.header
            model = self._models.find(header)
            check_model(header, model, allow_other=self._options.allow_other_model)
            refuse_steps(model, self._options)
            record_hash = hash_record(data)
            verdict = self._judge(entry, record_hash, model)
            if verdict.state is State.DONE:
                return FileResult(entry.label, Status.DONE, output=self._locate(entry.name))
            demand_library(self._models, model)
            channels, rows, columns = header.shape
            flipped = self._options.flipped
            hold(len(data) + opened.declared_bytes(with_twin=flipped))  # to unpack it
            record = opened.unpack(with_twin=flipped)
            return _ReadRecord(
                entry.label,
                entry.name,
                BatchGroup(model, rows * header.patch, columns * header.patch),
                len(data) + 4 * channels * rows * columns,
                Record(header, require_twin(record)) if flipped else record,
                model,
                record_hash,
                len(data),
                verdict.reason,
            )

    def use_device(self, name: str) -> None:
        self._models.use_device(name)

    @property
    def is_on_cpu(self) -> bool:
        return self._used is not None and self._used.is_on_cpu

    def take_busy_spans(self) -> Sequence[Span]:
        return () if self._used is None else self._used.take_busy_spans()

    def take_remarks(self) -> list[str]:
        return [] if self._used is None else self._used.take_remarks()

    def measure_room(self) -> tuple[int, int] | None:
        return None if self._used is None else self._used.measure_room()

    def submit(self, batch: list[_ReadRecord]) -> Computing[npt.NDArray[np.uint8]]:
        self._used = batch[0].model
        engine = self._used.engine
        headers = [work.record.header for work in batch]
        engine.check_size(headers[0].height, headers[0].width)
        sizes = [(header.height, header.width) for header in headers]
        latents = [work.record.latents for work in batch]
        return engine.submit_latents(latents, sizes, self._options.settings)

    def finish(self, work: _ReadRecord, computed: npt.NDArray[np.uint8]) -> Made:
        wanted = self._want(work.record_hash, work.model)
        form = self._options.format
        data = write_image(computed, form.name, quality=self._options.quality, stamp=wanted.stamp)
        target = self._output.deliver(name_image(work.name, form.suffixes), data)
        height, width, _ = computed.shape
        result = FileResult(
            work.label,
            Status.WRITTEN,
            output=target,
            reason=work.redo_reason,
            width=width,
            height=height,
            bytes_in=work.size_bytes,
            bytes_out=len(data),
            name=work.name,
        )
        return Made.from_output(result, data)

    def _judge(self, entry: RecordEntry, record_hash: str, model: ModelHandle) -> Verdict:
        """Checks whether the record's image already exists and is up to date."""
        target = self._output.look(name_image(entry.name, self._options.format.suffixes))
        if target is None:
            return Verdict(State.ABSENT)
        return check_image(target, self._want(record_hash, model))

    def _locate(self, name: str) -> str:
        return self._output.locate(name_image(name, self._options.format.suffixes))

    def _want(self, record_hash: str, model: ModelHandle) -> WantedImage:
        settings = describe_settings(self._options, has_steps=model.traits.has_steps)
        return WantedImage(record_hash, model.identity.weights, settings)


def require_twin(record: Record) -> Latents:
    """Returns the latents of the mirrored image. Raises FormatError if the record lacks them."""
    if record.flipped is None:
        raise FormatError(
            Rejection.TENSOR,
            "holds no mirrored image; encode with --flip, or decode without --flipped",
        )
    return record.flipped.latents


def refuse_other_settings(
    inputs: Iterable[Input], output: Output, options: DecodeOptions, held: HeldImage | None
) -> None:
    """Raises UsageError if images of these inputs in OUT were decoded with other settings.

    `held` is the image that the run follows. Checks only the first inputs. If the image of a later
    input has other settings, that input fails.
    """
    if not output.keeps_existing:
        return
    for name in itertools.islice(_list_names(inputs), _INPUTS_LOOKED_AT):
        target = output.locate(name_image(name, options.format.suffixes))
        stamp = read_stamp(Path(target))
        if stamp is None:
            continue
        has_steps = describes_steps(stamp.get("settings", ""))
        conflict = compare_settings(stamp, describe_settings(options, has_steps=has_steps))
        if conflict is not None:
            is_asked = held is not None and held.path == target  # otherwise followed, or default
            raise UsageError(
                f"{output.path} holds images decoded with {conflict.held}; "
                f"{'you asked for' if is_asked else 'this run uses'} {conflict.wanted} ({target}); "
                "choose another OUT, or add --overwrite to decode everything again"
            )
        return


def _list_names(inputs: Iterable[Input]) -> Iterator[str]:
    """Yields the names of the inputs, and those of the records in tars."""
    for entry in inputs:
        if entry.is_archive:
            yield from (record.name for record in list_records([entry], None) if not record.error)
        else:
            yield entry.name


def refuse_steps(model: ModelHandle, options: DecodeOptions) -> None:
    """Raises UsageError if the user asks a decoder without steps for settings of the diffusion."""
    if options.asked and not model.traits.has_steps:
        raise UsageError(
            f"{' '.join(options.asked)}: model {model.label} decodes without diffusion steps; "
            f"leave {'it' if len(options.asked) == 1 else 'them'} out"
        )


def describe_settings(options: DecodeOptions, *, has_steps: bool = True) -> str:
    """Returns the settings as an image's stamp holds them: `steps=1;sampler=ddim;…`.

    If the decoder has no steps, `steps=none` replaces the settings of the diffusion: the images are
    the same for all of them.
    """
    settings = options.settings
    pairs: dict[str, object] = {
        STEPS: settings.num_steps,
        "sampler": settings.sampler,
        "schedule": settings.schedule,
        "guidance": f"{settings.pdg_strength:g}" if settings.pdg else "off",
        "strength": f"{settings.strength:g}",
        "seed": "fresh" if settings.seed is None else settings.seed,
    }
    if not has_steps:
        pairs = {STEPS: NO_STEPS}
    if options.flipped:
        pairs["image"] = "flipped"
    if options.quality is not None:
        pairs["quality"] = options.quality
    return format_description(pairs)
