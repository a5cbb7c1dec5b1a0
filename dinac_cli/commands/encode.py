"""`dinac encode`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dinac_cli.commands import options as opt
from dinac_cli.commands.mask_count import describe_unmasked, describe_unused
from dinac_cli.commands.plan import print_plan
from dinac_cli.commands.screen.progress import RunProgress
from dinac_cli.commands.screen.summary import Summary
from dinac_cli.commands.screen.tables import count_images
from dinac_cli.commands.size_advice import advise_on_sizes
from dinac_cli.errors import SmallImageError
from dinac_cli.images.formats import MAX_PIXELS
from dinac_cli.jobs.results import FileResult, Status

if TYPE_CHECKING:
    from dinac_cli.jobs.encode import EncodeRun

DryRun = Annotated[
    bool,
    opt.run_option(
        "--dry-run", help="Print the plan of this run, as dinac plan does; encode nothing."
    ),
]


def encode(
    *,
    images: opt.Images = None,
    out: opt.EncodeOut = None,
    out_option: opt.OutOption = None,
    precision: opt.PrecisionOption = None,
    features: opt.StoreFeatures = None,
    posterior: opt.StorePosterior = None,
    mask: opt.KeepMask = None,
    masks: opt.MaskFolder = None,
    anonymous: opt.Anonymous = None,
    resize: opt.Resize = None,
    upscale: opt.Upscale = None,
    max_side: opt.MaxSide = None,
    crop: opt.CropSize = None,
    buckets: opt.BucketArea = None,
    bucket_min: opt.BucketMin = None,
    bucket_max: opt.BucketMax = None,
    skip_small: opt.SkipSmall = False,
    flip: opt.Flip = None,
    files_from: opt.FilesFrom = None,
    null: opt.Null = False,
    root: opt.Root = None,
    exclude: opt.Exclude = None,
    limit: opt.Limit = None,
    shard: opt.ShardOption = None,
    background: opt.EncodeBackground = None,
    hdr: opt.EncodeHdr = None,
    damaged: opt.EncodeDamaged = None,
    max_pixels: opt.MaxPixels = MAX_PIXELS,
    model: opt.Model = "auto",
    revision: opt.Revision = None,
    device: opt.Devices = "auto",
    dtype: opt.Dtype = "auto",
    compiled: opt.CompileSizes = False,
    batch_size: opt.BatchSize = None,
    workers: opt.Workers = None,
    processes: opt.Processes = None,
    threads: opt.Threads = None,
    shard_size: opt.ShardSize = None,
    keep: opt.Keep = None,
    image_column: opt.ImageColumn = None,
    retry_failed: opt.RetryFailed = False,
    engine: opt.EngineOption = "here",
    address: opt.Address = None,
    processes_per_gpu: opt.ProcessesPerGpu = None,
    cpus_per_process: opt.CpusPerProcess = None,
    overwrite: opt.Overwrite = False,
    checksum: opt.Checksum = False,
    prune: opt.Prune = None,
    fsync: opt.Fsync = False,
    lock: opt.Lock = False,
    fail_fast: opt.FailFast = False,
    failures: opt.Failures = None,
    known: opt.Known = None,
    log: opt.Log = None,
    dry_run: DryRun = False,
    as_json: opt.Json = False,
    no_progress: opt.NoProgress = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Encode images into files of whitened latents.

    a.jpg becomes OUT/a.jpg.dinac. To resume, rerun the command: finished outputs are kept.

    With --shard-size, tars, parquet files or URLs, OUT holds shards: tars of many records.

    Settings that are not given follow the latents in OUT, unless --overwrite is given.
    """
    from dinac_cli.commands.run import ScreenOptions, read_inputs, run_request
    from dinac_cli.errors import UsageError
    from dinac_cli.images.buckets import choose_buckets
    from dinac_cli.images.color import parse_color
    from dinac_cli.images.damage import parse_damage_choice
    from dinac_cli.images.geometry import GeometryChoice
    from dinac_cli.jobs.encode import EncodeChoice, EncodeRequest
    from dinac_cli.jobs.model_choice import ModelChoice

    images, out = opt.split_out(images, out, out_option, files_from)
    options = EncodeChoice(
        precision=precision,
        background=None if background is None else parse_color(background),
        max_pixels=max_pixels,
        checksum=checksum,
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
        masks=masks,
    )
    choice = ModelChoice(
        model=model, revision=revision, device=device, dtype=dtype, compiled=compiled
    )
    request = EncodeRequest(
        inputs=read_inputs(images, files_from, null, root, exclude, limit, shard),
        out=out,
        options=options,
        model=choice,
        overwrite=overwrite,
        fsync=fsync,
        prune=prune,
        shard_size=shard_size,
        keep=keep or (),
        image_column=image_column,
        retry_failed=retry_failed,
        engine="ray" if engine == "ray" else "here",
        cluster=opt.choose_cluster(engine, address, processes_per_gpu, cpus_per_process),
        workers=workers,
        processes=processes,
        threads=threads,
        in_flight=batch_size,
    )
    screen = ScreenOptions(
        json=as_json,
        no_progress=no_progress,
        quiet=quiet,
        verbose=verbose,
        failures=failures,
        known=known,
        log=log,
        fail_fast=fail_fast,
        lock=lock,
    )
    if dry_run:
        from dinac_cli.jobs.plan import PlanRequest

        unused = {"--failures": failures, "--known": known, "--log": log, "--lock": lock or None}
        for name, value in unused.items():
            if value is not None:
                raise UsageError(f"--dry-run only prints the plan; leave out {name}")
        raise typer.Exit(print_plan(PlanRequest(encode=request), screen))

    raise typer.Exit(run_request(request, EncodeSummary, screen, out))


class EncodeSummary(Summary):
    """The summary of an encode run. It names the model; its remarks are on sizes and orphans."""

    def __init__(self, run: EncodeRun) -> None:
        why = f" ({run.why_model})" if run.why_model else ""
        removed = None if run.pruning is None else run.pruning.place
        super().__init__(f"encoded with {run.model.label}{why}", removed)
        self._run = run
        if run.geometry.buckets is not None:
            self.skip_reason = "smaller than their bucket"
        self._upscaled = 0
        self._too_small = 0
        self._shards = 0
        self._captions = 0
        self._images = self._unmasked = self._with_alpha = 0
        self._lacking: Counter[str] = Counter()
        self._example: dict[str, str] = {}  # a file that lacks the extension
        self._parts = 0
        self._empty = 0
        self._first_empty = ""

    def add(self, result: FileResult) -> None:
        self._upscaled += result.upscaled
        self._too_small += result.error == SmallImageError.__name__
        # A failed image may have a mask, such as a damaged one.
        if result.status in (Status.WRITTEN, Status.DONE, Status.RENAMED, Status.FAILED):
            self._images += result.images
            self._unmasked += result.unmasked
        self._with_alpha += result.has_alpha
        self._lacking.update(result.lacking)
        for extension in result.lacking:  # processes finish in any order
            self._example[extension] = min(result.file, self._example.get(extension, result.file))
        if not result.is_shard:
            self._parts += 1  # the results of parts come just before that of their shard
            return
        is_written = result.status is Status.WRITTEN
        self._shards += is_written
        if is_written and not result.images and not self._parts:
            self._empty += 1
            self._first_empty = self._first_empty or result.file
        else:
            self._captions += result.captions
        self._parts = 0

    def describe(self, progress: RunProgress) -> str:
        text = super().describe(progress)
        if not self._shards:
            return text
        shards = "1 shard" if self._shards == 1 else f"{self._shards} shards"
        return text.replace(self._verb, f"{self._verb} into {shards}", 1)

    def to_json(self, progress: RunProgress) -> dict[str, Any]:
        skipped = progress.tally.counts[Status.SKIPPED]
        facts: dict[str, Any] = {
            "skipped": skipped,
            "decoded": progress.tally.decoded,
            "upscaled": self._upscaled,
        }
        if self._run.mask_kind != "none":
            facts |= {"unmasked": self._run.count_unmasked(self._unmasked, self._images)[0]}
        if self._run.writes_shards:
            facts |= {"shards": self._shards, "captions_left": self._captions}
            facts |= {"lacking": dict(sorted(self._lacking.items()))} if self._lacking else {}
        return super().to_json(progress) | facts

    def remarks(self) -> Iterator[str]:
        yield from advise_on_sizes(
            "scaled up {}", self._upscaled, self._too_small, self._run.geometry
        )
        counts = self._run.count_unmasked(self._unmasked, self._images)
        yield from describe_unmasked(*counts, self._run.masks, self._with_alpha)
        if self._run.masks is not None:
            yield from describe_unused(self._run.masks, self._run.whole_folders)
        if self._empty:
            many = f"{self._empty} archives, such as " if self._empty > 1 else ""
            yield f"found no images in {many}{self._first_empty}"
        if self._captions:
            images = "1 image" if self._captions == 1 else f"{self._captions} images"
            yield (
                f"left out what lies beside {images}, such as captions; --keep txt,json copies it "
                "into the shards"
            )
        for extension, number in sorted(self._lacking.items()):
            such = ":" if number == 1 else ", such as"
            yield (
                f"without {extension}: {count_images(number)}{such} {self._example[extension]}; "
                f"{_advise_on_lacking(extension)}"
            )
        if remark := self._run.describe_orphans():
            yield remark


def _advise_on_lacking(extension: str) -> str:
    """Says how to add a file that shards lack: finished shards do not look for it."""
    advice = "add what is missing and encode again with the same options and --overwrite"
    return f"{advice}, or train with LatentShards(captions=…)" if extension == "txt" else advice
