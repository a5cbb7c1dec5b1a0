"""Encodes images into latent records."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO, ClassVar, Literal

from dinac_cli.codec.compute import Compute
from dinac_cli.codec.handle import BatchGroup, ModelHandle
from dinac_cli.codec.records import Source, build_record
from dinac_cli.container.frame import RECORD_START
from dinac_cli.container.header import PRECISIONS
from dinac_cli.container.tensors import CLASS_TOKEN, LOGSNR, Encoded
from dinac_cli.errors import (
    DecodedImageError,
    InputError,
    OutputError,
    SmallImageError,
    UsageError,
)
from dinac_cli.images.buckets import choose_buckets
from dinac_cli.images.color import name_color, parse_color
from dinac_cli.images.damage import DamageChoice, parse_damage_choice
from dinac_cli.images.formats import MAX_PIXELS
from dinac_cli.images.geometry import NO_GEOMETRY, Geometry, GeometryChoice
from dinac_cli.images.hdr import REFUSE, check_hdr
from dinac_cli.images.pixels import Pixels, mirror_pixels
from dinac_cli.images.reading import WHITE, MaskFile, SourceImage, has_alpha, read_shaped
from dinac_cli.images.revisions import current_revision
from dinac_cli.images.stamp import read_stamp
from dinac_cli.jobs.executor.busy import Span
from dinac_cli.jobs.executor.cluster import Cluster
from dinac_cli.jobs.executor.control import RunControl
from dinac_cli.jobs.executor.job import Computing, Job, Made, Work
from dinac_cli.jobs.executor.local import run_opened
from dinac_cli.jobs.executor.phase import Watch, ignore_phase
from dinac_cli.jobs.executor.pool import ignore_result, run_in_processes
from dinac_cli.jobs.freshness import (
    State,
    Verdict,
    WantedLatents,
    check_latents,
    is_latent_file,
    is_remembered,
    make_standing,
)
from dinac_cli.jobs.held import HeldRecord, announce_followed, find_held_record
from dinac_cli.jobs.image_masks import (
    MASK_OPTIONS,
    NO_MASK,
    NO_MASK_KIND,
    NO_MASKS,
    FoundMask,
    MaskKind,
    PatchMasks,
    average_masks,
    describe_mask,
    find_mask,
    require_some_mask,
    suggest_mask_folder,
)
from dinac_cli.jobs.model_choice import (
    ModelChoice,
    choose_encoder,
    explain_default,
    refuse_mixed_latents,
)
from dinac_cli.jobs.orphans import find_orphans
from dinac_cli.jobs.pruning import Prune, Pruning, require_whole_folders
from dinac_cli.jobs.renames import WAS, RenamedRecords, rename_record
from dinac_cli.jobs.request import (
    IMAGES,
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
from dinac_cli.jobs.results import FileResult, Status, drop_advice
from dinac_cli.storage.content import Content, read_content, read_stream_content
from dinac_cli.storage.inputs import STDIN, Input
from dinac_cli.storage.mask_files import MaskFiles, require_mask_folder
from dinac_cli.storage.naming import LATENT_SUFFIX, name_latents
from dinac_cli.storage.output import Output, OutputKind
from dinac_cli.storage.source_memory import NO_MEMORY, Sighting, SourceMemory

if TYPE_CHECKING:
    from dinac_cli.codec.engine import Engine

IS_DECODED = "decoded by dinac; to encode it, name the file itself"
"""Why a search does not find an image."""

Engines = Literal["here", "ray"]
"""What runs the shards: this machine, or a Ray cluster."""


@dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """The options that decide how images become records.

    `precision` is one of `container.header.PRECISIONS`. `background` is the sRGB colour behind
    transparent images. Images of more than `max_pixels` are refused. If `checksum` is set, a
    changed source is found by its hash. `anonymous` leaves the source's name, size and hash out of
    the record. `features` also stores the class token. `posterior` also stores the log-SNR.
    `geometry` says how images are scaled and cropped, and whether the mirrored image is also
    encoded. `hdr` is one of `HDR_CHOICES`. If `skip_small` is set, images smaller than the crop or
    than their bucket are skipped instead of failing. `damaged` says whether damaged images fail, or
    are encoded with a warning. `mask` also stores the alpha channel as a mask. `masks` is a folder
    of mask files with the names of the images; it excludes `mask`.
    """

    precision: str = "bf16"
    background: tuple[int, int, int] = WHITE
    max_pixels: int = MAX_PIXELS
    checksum: bool = False
    anonymous: bool = False
    features: bool = False
    posterior: bool = False
    geometry: Geometry = NO_GEOMETRY
    skip_small: bool = False
    hdr: str = REFUSE
    damaged: DamageChoice = "fail"
    mask: bool = False
    masks: str | None = None

    @property
    def background_name(self) -> str:
        """The background as `#rrggbb`."""
        return f"#{bytes(self.background).hex()}"

    @property
    def companions(self) -> frozenset[str]:
        """The tensors to store in each record in addition to the latents."""
        requested = {LOGSNR: self.posterior, CLASS_TOKEN: self.features}
        return frozenset(name for name, is_requested in requested.items() if is_requested)

    @property
    def mask_kind(self) -> MaskKind:
        """Where the masks come from."""
        if self.masks is not None:
            return "files"
        return "alpha" if self.mask else "none"

    def describe_mask(self, description: str, found: FoundMask) -> str:
        """Adds the mask to the description of an image; see `image_masks.describe_mask`."""
        return describe_mask(description, self.mask_kind, found.sha256, anonymous=self.anonymous)

    def read_image(
        self, data: bytes, hold: Callable[[int], None], mask: MaskFile | None = None
    ) -> SourceImage:
        """Decodes the bytes of an image file, and resizes and crops it; see `read_shaped`."""
        return read_shaped(
            data,
            hold,
            background=self.background,
            max_pixels=self.max_pixels,
            geometry=self.geometry,
            hdr=self.hdr,
            damaged=self.damaged,
            keep_alpha=self.mask,
            mask=mask,
        )

    def want(self, model: ModelHandle) -> WantedLatents:
        """Returns the requirements that an existing record must meet to be up to date."""
        return WantedLatents(
            model,
            self.precision,
            self.background_name,
            self.anonymous,
            self.companions,
            self.geometry,
            self.hdr,
            self.damaged,
            self.mask_kind,
        )

    def check_model(self, model: ModelHandle) -> None:
        """Raises UsageError or ModelError if the model cannot make the requested records."""
        model.check(self.precision)
        self.geometry.require_patch(model.traits.patch)

    def require_consistent(self) -> None:
        """Raises UsageError if the precision is unknown or two options contradict each other."""
        if self.precision not in PRECISIONS:
            raise UsageError(f"--precision {self.precision}: choose one of {', '.join(PRECISIONS)}")
        check_hdr(self.hdr)
        if self.anonymous and self.checksum:
            raise UsageError("--anonymous records hold no hash to compare; leave out --checksum")
        if self.masks is not None:
            require_mask_folder(self.masks)

    def list_settings(self, unlike: EncodeOptions) -> list[str]:
        """Returns the settings of records that differ from `unlike`, as options of `encode`."""
        settings = self.geometry.list_options(unlike.geometry)
        if self.precision != unlike.precision:
            settings.insert(0, f"--precision {self.precision}")
        if self.background != unlike.background:
            settings.append(f"--background {shlex.quote(name_color(self.background))}")
        if self.hdr != unlike.hdr:
            settings.append(f"--hdr {self.hdr}")
        if self.damaged != unlike.damaged:
            settings.append(f"--damaged {self.damaged}")
        if self.anonymous != unlike.anonymous:
            settings.append("--anonymous" if self.anonymous else "--no-anonymous")
        if self.features != unlike.features:
            settings.append("--features" if self.features else "--no-features")
        if self.posterior != unlike.posterior:
            settings.append("--posterior" if self.posterior else "--no-posterior")
        if self.mask_kind != unlike.mask_kind:
            settings.append(MASK_OPTIONS[self.mask_kind])
        return settings


@dataclass(frozen=True, kw_only=True)
class EncodeChoice:
    """The options of a request to encode; see `EncodeOptions`.

    `precision`, `background`, `anonymous`, `features`, `posterior`, `hdr`, `damaged`, `mask` and
    the fields of `geometry` may be None: the option is not given. Then the run follows the first
    record in OUT; if OUT holds no record, or if the run overwrites records, the run uses the
    default.
    """

    precision: str | None = None
    background: tuple[int, int, int] | None = None
    max_pixels: int = MAX_PIXELS
    checksum: bool = False
    anonymous: bool | None = None
    features: bool | None = None
    posterior: bool | None = None
    geometry: GeometryChoice = field(default_factory=GeometryChoice)
    skip_small: bool = False
    hdr: str | None = None
    damaged: DamageChoice | None = None
    mask: bool | None = None
    masks: str | None = None

    def __post_init__(self) -> None:
        """Raises UsageError if two options contradict each other."""
        if self.masks is not None and self.mask is not None:
            option = "--mask" if self.mask else "--no-mask"
            raise UsageError(f"{option} and --masks cannot be used together; leave one out")

    def fill(self) -> EncodeOptions:
        """Returns the options. Options that are not given have their defaults."""
        return EncodeOptions(
            precision="bf16" if self.precision is None else self.precision,
            background=WHITE if self.background is None else self.background,
            max_pixels=self.max_pixels,
            checksum=self.checksum,
            anonymous=self.anonymous or False,
            features=self.features or False,
            posterior=self.posterior or False,
            geometry=self.geometry.fill(),
            skip_small=self.skip_small,
            hdr=self.hdr or REFUSE,
            damaged=self.damaged or "fail",
            mask=self.mask or False,
            masks=self.masks,
        )

    def follow(self, held: HeldRecord | None) -> EncodeOptions:
        """Returns the options. Options that are not given have the values of `held`.

        Raises UsageError if `checksum` is set and the run follows an anonymous record, if an option
        needs another one that neither the user nor `held` gives, or if `held` has a mask of
        --masks, whose folder no record names.
        """
        geometry = self.geometry.follow(NO_GEOMETRY if held is None else held.geometry)
        if self.skip_small:
            geometry.require_refusal()
        options = replace(self.fill(), geometry=geometry)
        if held is None:
            return options
        follows_mask = self.masks is None and self.mask is None
        if follows_mask and held.mask_kind == "files":
            raise UsageError(
                f"{held.path} was made with --masks; name the folder with --masks again, or choose "
                "another OUT"
            )
        follows_anonymity = self.anonymous is None and held.header.is_anonymous
        if follows_anonymity and self.checksum:
            raise UsageError(
                f"{held.path} is anonymous and holds no hash to compare; "
                "leave out --checksum, or add --no-anonymous"
            )
        return replace(
            options,
            precision=held.header.precision if self.precision is None else self.precision,
            background=self.background or held.background or WHITE,
            hdr=self.hdr or held.hdr or REFUSE,
            damaged=self.damaged or held.damaged,
            anonymous=options.anonymous or follows_anonymity,
            features=CLASS_TOKEN in held.companions if self.features is None else self.features,
            posterior=LOGSNR in held.companions if self.posterior is None else self.posterior,
            mask=held.mask_kind == "alpha" if follows_mask else options.mask,
        )

    def list_followed(self, held: HeldRecord | None) -> list[str]:
        """Returns the options that `follow` takes from `held`, except those at their defaults."""
        return self.follow(held).list_settings(self.fill())


@dataclass(frozen=True, kw_only=True)
class EncodeRequest(ProcessRequest["EncodeRun"]):
    """A request to encode `inputs` into OUT: a folder, a `.dinac` file, `-`, or a URL.

    If `prune` is given, the run ends with moving the orphans in OUT away; see `Pruning`.
    OUT holds shards if `shard_size` (images in each) is given, if OUT or an input is a URL, or if
    an input is a tar or a parquet file. Then `keep` are the extensions of the files beside the
    images that are copied, `image_column` is the column of parquet files that holds the images,
    and `retry_failed` encodes shards with failures again. `engine` runs the shards: "here", or
    "ray" on `cluster`.
    """

    inputs: InputRequest
    out: str
    options: EncodeChoice = field(default_factory=EncodeChoice)
    model: ModelChoice = field(default_factory=ModelChoice)
    overwrite: bool = False
    fsync: bool = False
    prune: Prune | None = None
    shard_size: int | None = None
    keep: tuple[str, ...] = ()
    image_column: str | None = None
    retry_failed: bool = False
    engine: Engines = "here"
    cluster: Cluster = field(default_factory=Cluster)

    command: ClassVar[str] = "encode"
    bounds_memory: ClassVar[bool] = True

    @property
    def knows_processes(self) -> bool:
        return self.engine != "ray"

    @property
    def can_divide(self) -> bool:
        """False if an image comes from standard input, which stays in the caller's process."""
        return STDIN not in self.inputs.paths

    def open(self, announce: Announce = keep_quiet) -> EncodeRun:
        from dinac_cli.jobs.shards import shard_run

        if shard_run.needs_shards(self):
            return shard_run.open_shard_run(self, announce)
        if self.retry_failed or self.image_column is not None:
            option = "--retry-failed" if self.retry_failed else "--image-column"
            raise UsageError(f"{option} needs shards; name tars or parquet files, or leave it out")
        selection, output = self.open_places()
        held = find_held_record(output)
        options = self.options.follow(held)
        choice = replace(self.model, device=self.choose_device(announce))
        model = choose_encoder(choice, held, announce, companions=options.companions)
        options.check_model(model)
        refuse_mixed_latents(output, held, options.want(model))
        announce_followed(held, self.options.list_followed(held), announce)
        pruning = self.open_pruning(selection, output)
        renames = None if pruning is None else pruning.renames
        work = partial(
            encode_inputs,
            selection,
            output,
            model,
            options,
            renames=renames,
            held_compute=None if held is None else held.header.compute,
        )
        return EncodeRun(
            work=work if pruning is None else pruning.follow(work),
            selection=selection,
            output=output,
            rename=name_latents,
            model=model,
            why_model=explain_default(self.model, held, model),
            geometry=options.geometry,
            pruning=pruning,
            mask_kind=options.mask_kind,
            masks=options.masks,
            whole_folders=self.inputs.whole_folders,
        )

    def open_places(self) -> tuple[Selection, Output]:
        """Checks the options and returns the inputs and OUT. Raises UsageError."""
        self.options.fill().require_consistent()
        selection = self.image_inputs.select(IMAGES, self.out)
        if self.options.masks is not None and selection.reads_stdin:
            raise UsageError("--masks needs names, which images of standard input lack; use --mask")
        kind = choose_output_kind(self.out, selection.scan, (LATENT_SUFFIX,))
        output = Output(self.out, kind, is_latent_file, self.overwrite, self.fsync)
        if self.prune is not None:
            require_whole_folders(selection, output)
        return selection, output

    @property
    def image_inputs(self) -> InputRequest:
        """The inputs, without the mask files.

        Raises UsageError if an input is their folder or a folder in it.
        """
        masks = self.options.masks
        if masks is None:
            return self.inputs
        place = Path(os.path.realpath(masks))
        for path in filter(os.path.isdir, self.inputs.paths):
            images = Path(os.path.realpath(path))
            if images.is_relative_to(place):
                found = "is the folder of" if images == place else f"holds the folder {path} of"
                raise UsageError(
                    f"--masks {masks}: {found} the images; put the masks into another one"
                )
        return replace(self.inputs, left_out=(*self.inputs.left_out, masks))

    def open_pruning(self, selection: Selection, output: Output) -> Pruning | None:
        """Returns the pruning of this run, or None if the request has none."""
        if self.prune is None:
            return None
        renames = None if self.overwrite else RenamedRecords(selection, output)
        return Pruning(choice=self.prune, selection=selection, output=output, renames=renames)


@dataclass(kw_only=True)
class EncodeRun(Run):
    """An encode run that is ready to start, and its model.

    If the model is the machine's default, `why_model` says so. `geometry` is that of the records.
    `pruning` ends the run, if the request asks for it. `mask_kind` says where masks come from;
    `masks` is the folder of --masks, and `whole_folders` are the inputs; see `InputRequest`.
    """

    model: ModelHandle
    why_model: str | None = None
    geometry: Geometry = NO_GEOMETRY
    pruning: Pruning | None = None
    mask_kind: MaskKind = NO_MASK_KIND
    masks: str | None = None
    whole_folders: tuple[str, ...] | None = None

    writes_shards: ClassVar[bool] = False

    def count(self, watch: Watch = ignore_phase) -> int | None:
        with suggest_mask_folder(self.mask_kind):
            total = super().count(watch)
        every = None if self.selection is None else self.selection.list_all()
        if self.masks is not None and every is not None:
            require_some_mask(every, self.masks)
        return total

    def count_unmasked(self, unmasked: int, images: int) -> tuple[int, int]:
        """Returns how many images have no mask, and of how many images that is known.

        The arguments say this of the images that had results.
        """
        return unmasked, images

    def describe_orphans(self) -> str | None:
        """Says how many records in OUT have no source among the inputs; None if all have one."""
        orphans = self.count_orphans()
        if not orphans or self.output is None:
            return None
        records = "record" if orphans == 1 else "records"
        return (
            f"{orphans} orphaned {records} in {self.output.path}, without a source among "
            "the inputs; dinac plan -v names them"
        )

    def count_orphans(self) -> int:
        """Counts the records in OUT whose source is not in the input folders; see `find_orphans`.

        Returns 0 if the run has a limit or a shard: the search would take longer than the run, and
        each shard would repeat it. If the run prunes, counts only the orphans that it leaves.
        """
        if self.pruning is not None:
            return self.pruning.foreign
        if self.selection is None or self.output is None:
            return 0
        if self.selection.limit is not None or self.selection.shard is not None:
            return 0
        return sum(1 for _ in find_orphans(self.selection, self.output))


def encode_files(
    images: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    model: str = "auto",
    precision: str | None = None,
    resize: int | Literal["none"] | None = None,
    max_side: int | Literal["none"] | None = None,
    upscale: bool | None = None,
    crop: tuple[int, int] | Literal["none"] | None = None,
    buckets: str | None = None,
    bucket_min: int | None = None,
    bucket_max: int | None = None,
    skip_small: bool = False,
    flip: bool | None = None,
    background: str | None = None,
    hdr: str | None = None,
    damaged: str | None = None,
    features: bool | None = None,
    posterior: bool | None = None,
    mask: bool | None = None,
    masks: str | os.PathLike[str] | None = None,
    anonymous: bool | None = None,
    device: str = "auto",
    dtype: str = "auto",
    workers: int | None = None,
    processes: int | None = 1,
    overwrite: bool = False,
    prune: Prune | None = None,
    shard_size: int | None = None,
    keep: Iterable[str] = (),
    image_column: str | None = None,
    retry_failed: bool = False,
) -> Generator[FileResult, None, None]:
    """Encodes image files and folders into the folder `out`, as `dinac encode` does.

    The keywords are the command's options; `crop` is (width, height), `buckets` is a text such as
    "1024x1024:64", `masks` is a folder, `upscale=False` is --no-upscale, and `prune` is "some"
    (--prune) or "all". None for `processes` is --processes auto; `keep` holds extensions, such as
    "txt". An option that is None follows the first record in `out`; if `out` holds no record, it
    has its default. Yields one
    result per file as soon as the result is final. With shards, yields one per shard, which counts
    its `images`, and one per image that failed, was skipped or needs a warning. If a file fails,
    its result says so; no exception is raised. Raises UsageError, ModelError, OutputError or
    StorageError at once if the request as a whole is wrong. Raises DeviceError, OutputError or
    StorageError later if the run cannot go on.
    """
    options = EncodeChoice(
        precision=precision,
        background=None if background is None else parse_color(background),
        anonymous=anonymous,
        features=features,
        posterior=posterior,
        geometry=GeometryChoice(
            resize=resize,
            max_side=max_side,
            crop=crop,
            flip=flip,
            upscale=upscale,
            buckets=choose_buckets(buckets, bucket_min, bucket_max),
        ),
        skip_small=skip_small,
        hdr=hdr,
        damaged=None if damaged is None else parse_damage_choice(damaged),
        mask=mask,
        masks=None if masks is None else os.fspath(masks),
    )
    request = EncodeRequest(
        inputs=InputRequest(paths=list_paths(images)),
        out=name_path(out),
        options=options,
        model=ModelChoice(model=model, device=device, dtype=dtype),
        workers=workers,
        processes=processes,
        overwrite=overwrite,
        prune=prune,
        shard_size=shard_size,
        keep=tuple(keep),
        image_column=image_column,
        retry_failed=retry_failed,
    )
    return run_request(request)


def encode_inputs(
    inputs: Iterable[Input],
    output: Output,
    model: ModelHandle,
    options: EncodeOptions,
    control: RunControl,
    *,
    renames: RenamedRecords | None = None,
    held_compute: str | None = None,
) -> Generator[FileResult, None, None]:
    """Encodes every input and yields one result per file as soon as the result is final.

    The model is loaded when the first image must be encoded. If no image must be encoded, no model
    is loaded. If the record of a new input is among `renames`, the record gets the new name, and
    the input is not encoded. `held_compute` is the field `compute` of a record in OUT: if the GPU
    now computes in another way, `control.warn` says so. If `output` is a stream, records go to
    `control.stdout` in the order of the inputs. Raises DinacError if the run as a whole cannot go
    on (model, device, full disk).
    """
    options.check_model(model)
    stream = control.stdout if output.is_stream else None
    open_job = partial(open_encode_job, output, model, options, renames, held_compute)
    if control.processes > 1 and control.stdin is None:
        note = ignore_result if renames is None else renames.note_result
        return run_in_processes(open_job, inputs, control, stream, note=note)
    return run_opened(partial(open_job, control.stdin), inputs, control, stream)


@contextmanager
def open_encode_job(
    output: Output,
    model: ModelHandle,
    options: EncodeOptions,
    renames: RenamedRecords | None = None,
    held_compute: str | None = None,
    stdin: BinaryIO | None = None,
) -> Iterator[EncodeJob]:
    """Opens an `EncodeJob` and the memory of OUT."""
    with open_memory(output) as memory:
        yield EncodeJob(output, model, options, stdin, memory, renames, held_compute)


def open_memory(output: Output, *, read_only: bool = False) -> SourceMemory:
    """Opens the memory of a folder OUT. For any other OUT, remembers nothing."""
    is_folder = output.kind is OutputKind.FOLDER
    return SourceMemory(output.path if is_folder else None, read_only=read_only)


@dataclass(frozen=True)
class _ReadImage(Work):
    image: SourceImage
    source: Source
    redo_reason: str | None
    status: os.stat_result | None = None
    earlier: Sighting | None = None
    masks: PatchMasks = NO_MASKS
    found: FoundMask = NO_MASK


class EncodeJob(Job[Input, _ReadImage, "Twins"]):
    """Reads, encodes and writes each image for `encode_inputs`."""

    def __init__(
        self,
        output: Output,
        model: ModelHandle,
        options: EncodeOptions,
        stdin: BinaryIO | None = None,
        memory: SourceMemory = NO_MEMORY,
        renames: RenamedRecords | None = None,
        held_compute: str | None = None,
    ) -> None:
        """`held_compute` is the field `compute` of a record in OUT."""
        self._held_compute = held_compute
        self._renames = renames
        self._output = output
        self._model = model
        self._options = options
        self._stdin = stdin
        self._memory = memory
        self._wanted = options.want(model)
        self._masks = None if options.masks is None else MaskFiles(options.masks)

    @property
    def glances(self) -> bool:
        may_know = self._memory.knows_sources and not self._options.checksum
        return may_know and self._output.keeps_existing

    def glance(self, entry: Input) -> FileResult | None:
        if entry.problem or entry.path is None:
            return None
        target = self._output.locate(name_latents(entry.name))
        with suppress(InputError, OSError):
            found = self._find_mask(entry)
            if is_remembered(target, entry.path, self._wanted, self._memory, found):
                return self._note_done(entry, found)
        return None

    def _note_done(self, entry: Input, found: FoundMask) -> FileResult:
        target = self._output.locate(name_latents(entry.name))
        unmasked = self._count_unmasked(found)
        return FileResult(
            entry.label, Status.DONE, output=target, name=entry.name, unmasked=unmasked
        )

    def _find_mask(self, entry: Input) -> FoundMask:
        return NO_MASK if self._masks is None else find_mask(self._masks, entry.name)

    def _count_unmasked(self, found: FoundMask, alpha: PatchMasks | None = None) -> int:
        """Returns 1 if --masks has no file for an image, or if --mask finds that it is opaque.

        `alpha` is None for an image that was not read, which does not count as opaque.
        """
        if self._options.mask_kind == "alpha":
            return int(alpha is not None and alpha.upright is None)
        return int(self._masks is not None and found.path is None)

    def _leaves_out_alpha(self, work: _ReadImage) -> bool:
        """True if --masks has no file for an image that has transparency."""
        if self._masks is None or work.found.path is not None:
            return False
        return has_alpha(work.image.description)

    def read(self, entry: Input, hold: Callable[[int], None]) -> _ReadImage | FileResult:
        if entry.problem:
            raise InputError(entry.problem)
        found = self._find_mask(entry)
        verdict = self._judge(entry, found)
        if verdict.state is State.DONE:
            return self._note_done(entry, found)
        try:
            content = self._read_content(entry)
            refuse_decoded(entry, content.data)
            if content.data.startswith(RECORD_START):
                raise InputError("a latent record, not an image; use decode")
            if verdict.state is State.ABSENT:
                renamed = self._rename(entry, content, hold, found)
                if renamed is not None:
                    return renamed
            found, mask = found.read()
            image = self._options.read_image(content.data, hold, mask)
        except DecodedImageError as exc:
            return FileResult(entry.label, Status.SKIPPED, reason=str(exc), is_decoded=True)
        except SmallImageError as exc:
            reason = explain_skip(exc, entry, self._output, self._options)
            return FileResult(entry.label, Status.SKIPPED, reason=reason)
        return self._plan_work(entry, content, image, verdict, found)

    def _plan_work(
        self,
        entry: Input,
        content: Content,
        image: SourceImage,
        verdict: Verdict,
        found: FoundMask,
    ) -> _ReadImage:
        height, width, _ = image.pixels.shape
        patch = self._model.traits.patch
        masks = average_masks(image.mask, patch, flip=self._options.geometry.flip)
        image = replace(image, mask=None)  # the masks of the patches are far smaller
        description = self._options.describe_mask(image.description, found)
        source = Source(entry.name, len(content.data), content.sha256, description, height, width)
        group = BatchGroup(self._model, -(-height // patch) * patch, -(-width // patch) * patch)
        held_bytes = len(content.data) + image.pixels.nbytes + masks.nbytes
        return _ReadImage(
            entry.label,
            entry.name,
            group,
            held_bytes,
            image,
            source,
            verdict.reason,
            content.status,
            verdict.sighting,
            masks,
            found,
        )

    def use_device(self, name: str) -> None:
        self._model.use_device(name)

    @property
    def is_on_cpu(self) -> bool:
        return self._model.is_on_cpu

    def take_busy_spans(self) -> Sequence[Span]:
        return self._model.take_busy_spans()

    def take_remarks(self) -> list[str]:
        held, self._held_compute = self._held_compute, None
        remark = None if held is None else self._compare_step(held)
        return self._model.take_remarks() + ([] if remark is None else [remark])

    def _compare_step(self, held_compute: str) -> str | None:
        """Returns a remark if the GPU rounds differently than when the record in OUT was made."""
        held, own = Compute.parse(held_compute), Compute.parse(self._model.engine.compute)
        if held is None or own is None or not own.differs_in_step(held):
            return None
        return (
            f"{self._output.path} holds latents computed as {held}; this run computes as {own}, "
            "which rounds differently"
        )

    def measure_room(self) -> tuple[int, int] | None:
        return self._model.measure_room()

    def submit(self, batch: list[_ReadImage]) -> Computing[Twins]:
        engine = self._model.engine
        engine.check_size(batch[0].source.height, batch[0].source.width)
        return submit_with_twins(
            engine,
            [work.image.pixels for work in batch],
            [self._options.geometry.flip] * len(batch),
            logsnr=self._options.posterior,
            class_token=self._options.features,
        )

    def finish(self, work: _ReadImage, computed: Twins) -> Made:
        if self._options.anonymous:  # the record would not tell that its mask is an earlier one
            work.found.require_unchanged()
        computed = computed.mask(work.masks)
        record = build_record(
            work.source,
            computed.upright,
            self._model,
            self._model.engine.compute,
            self._options.precision,
            anonymous=self._options.anonymous,
            flipped=computed.flipped,
        )
        target = self._output.deliver(name_latents(work.name), record)
        if target is not None:
            self._remember(target, work.source.sha256, work.status, work.found, work.earlier)
        result = FileResult(
            work.label,
            Status.WRITTEN,
            output=target,
            reason=work.redo_reason,
            warnings=work.image.warnings,
            width=work.source.width,
            height=work.source.height,
            bytes_in=work.source.size_bytes,
            bytes_out=len(record),
            name=work.name,
            upscaled=work.image.upscaled,
            unchecked=not work.image.soundness.is_checked,
            unmasked=self._count_unmasked(work.found, work.masks),
            has_alpha=self._leaves_out_alpha(work),
        )
        return Made.from_output(result, record)

    def _rename(
        self, entry: Input, content: Content, hold: Callable[[int], None], found: FoundMask
    ) -> FileResult | None:
        """Writes the record of an earlier name of this image. Returns None if there is none."""
        if self._renames is None or entry.path is None:
            return None
        orphan = self._renames.take(len(content.data), lambda: content.sha256)
        if orphan is None:
            return None
        record = rename_record(orphan, entry.path, entry.name, self._wanted, hold, found)
        if record is None:
            return None
        target = self._output.deliver(name_latents(entry.name), record)
        assert target is not None, "a stream has no earlier records"
        self._renames.note_moved(orphan, target)
        self._remember(target, content.sha256, content.status, found)
        return FileResult(
            entry.label,
            Status.RENAMED,
            output=target,
            reason=f"{WAS}{orphan}",
            unmasked=self._count_unmasked(found),
        )

    def _remember(
        self,
        target: str,
        sha256: str,
        status: os.stat_result | None,
        found: FoundMask,
        earlier: Sighting | None = None,
    ) -> None:
        """Remembers that the record at `target` belongs to the file and the mask that were read."""
        if status is None or not self._memory.remembers:
            return
        content = None if self._options.anonymous else sha256
        with suppress(OSError):  # the record that was just written is gone
            sighting = self._memory.identify(target, content, status)
            if content is None:
                self._memory.forget(target)
            standing = make_standing(os.stat(target), self._wanted, found)
            self._memory.remember(sighting.follow(earlier), current_revision(), standing)

    def _judge(self, entry: Input, found: FoundMask) -> Verdict:
        """Checks whether the image's record already exists and is up to date."""
        target = self._output.look(name_latents(entry.name))
        if target is None:
            return Verdict(State.ABSENT)
        return check_latents(
            target,
            entry.path,
            self._wanted,
            checksum=self._options.checksum,
            memory=self._memory,
            mask=found,
        )

    def _read_content(self, entry: Input) -> Content:
        if entry.path is not None:
            return read_content(entry.path)
        assert self._stdin is not None, "the caller passes standard input if the run reads it"
        return read_stream_content(self._stdin)


def refuse_decoded(entry: Input, source: bytes | IO[bytes]) -> None:
    """Raises DecodedImageError if dinac decoded the image and its search skips such images.

    `source` is the content of the file, or the open file, at its start.
    """
    if entry.search is not None and read_stamp(source) is not None and entry.search.skips_outputs:
        raise DecodedImageError(IS_DECODED)


def explain_skip(exc: SmallImageError, entry: Input, output: Output, options: EncodeOptions) -> str:
    """Returns the reason why an image smaller than the crop or its bucket is skipped.

    Raises `exc` if the options do not request it. Raises OutputError if OUT holds a file of an
    earlier run for this image, because a dataset would take that file for a current record.
    """
    if not options.skip_small:
        raise exc
    reason = drop_advice(str(exc))
    target = output.locate(name_latents(entry.name))
    if not output.is_stream and os.path.lexists(target):
        raise OutputError(f"{reason}, but {target} exists from an earlier run; delete it")
    return reason


@dataclass(frozen=True)
class Twins:
    """One encoded image (`upright`) and, if requested, the encoded mirrored image (`flipped`)."""

    upright: Encoded
    flipped: Encoded | None = None

    def mask(self, masks: PatchMasks) -> Twins:
        """Returns these images with their masks."""
        flipped = self.flipped and self.flipped._replace(mask=masks.flipped)
        return Twins(self.upright._replace(mask=masks.upright), flipped)


def submit_with_twins(
    engine: Engine,
    images: Sequence[Pixels],
    flips: Sequence[bool],
    *,
    logsnr: bool = False,
    class_token: bool = False,
) -> Computing[Twins]:
    """Encodes uint8 images [H, W, 3] that have the same padded size.

    `flips` says which images are also encoded mirrored. See `Engine.submit_images` for `logsnr` and
    `class_token`. The mirrored images form a separate micro-batch, so they never change the latents
    of the other images. Raises ImageError if the device runs out of memory.
    """

    def submit(pixels: Sequence[Pixels]) -> Computing[Encoded]:
        return engine.submit_images(pixels, logsnr=logsnr, class_token=class_token)

    upright = submit(images)
    mirrored = [mirror_pixels(p) for p, flip in zip(images, flips, strict=True) if flip]
    return _TwinBatches(upright, submit(mirrored) if mirrored else None, flips)


@dataclass(frozen=True)
class _TwinBatches:
    """Two micro-batches that the device computes: the images, and the mirrored images."""

    upright: Computing[Encoded]
    mirrored: Computing[Encoded] | None
    flips: Sequence[bool]

    @property
    def is_done(self) -> bool:
        """True if `result` returns without waiting."""
        return self.upright.is_done and (self.mirrored is None or self.mirrored.is_done)

    def result(self) -> list[Twins]:
        """Waits for both micro-batches. Raises DeviceError."""
        twins = iter(() if self.mirrored is None else self.mirrored.result())
        return [
            Twins(encoded, next(twins) if flip else None)
            for encoded, flip in zip(self.upright.result(), self.flips, strict=True)
        ]
