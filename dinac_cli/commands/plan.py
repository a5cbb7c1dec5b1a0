"""`dinac plan`: prints what an encode run would do."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dinac_cli.commands import options as opt
from dinac_cli.commands.bucket_table import buckets_to_json, describe_buckets
from dinac_cli.commands.mask_count import describe_unmasked
from dinac_cli.commands.screen.console import Console
from dinac_cli.commands.screen.file_lines import FileLines, Topic
from dinac_cli.commands.screen.progress import show_phases
from dinac_cli.commands.screen.signals import stop_on_signals
from dinac_cli.commands.screen.tables import align, count_images, format_duration, format_size
from dinac_cli.commands.size_advice import advise_on_sizes
from dinac_cli.commands.values import real
from dinac_cli.errors import Exit, UsageError
from dinac_cli.images.formats import MAX_PIXELS

if TYPE_CHECKING:
    from dinac_cli.commands.run import ScreenOptions
    from dinac_cli.jobs.executor.phase import Watch
    from dinac_cli.jobs.plan import Plan, PlannedFile, PlanRequest, PlanRun, TimeEstimate

Quick = Annotated[
    bool,
    opt.run_option(
        "--quick", help="Skip the time estimate, which loads the model and takes a few seconds."
    ),
]

ModelRate = Annotated[
    float | None,
    opt.run_option(
        "--model-rate",
        parser=real("--model-rate", lambda value: 0 < value < math.inf, "more than 0"),
        metavar="N",
        show_default="timed here, with a sample",
        help="For shards: assume that one device computes N images per second, as dinac bench "
        "measures it there.",
    ),
]

ExitCode = Annotated[
    bool,
    opt.report_option(
        "--exit-code",
        help="Exit with 3 if an encode run would write, move or reject a file, and with 0 if "
        "nothing is left to do.",
    ),
]


def plan(
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
    device: opt.Device = "auto",
    dtype: opt.Dtype = "auto",
    batch_size: opt.BatchSize = None,
    workers: opt.Workers = None,
    shard_size: opt.ShardSize = None,
    keep: opt.Keep = None,
    image_column: opt.ImageColumn = None,
    retry_failed: opt.RetryFailed = False,
    engine: opt.EngineOption = "here",
    address: opt.Address = None,
    processes_per_gpu: opt.ProcessesPerGpu = None,
    cpus_per_process: opt.CpusPerProcess = None,
    model_rate: ModelRate = None,
    overwrite: opt.Overwrite = False,
    checksum: opt.Checksum = False,
    prune: opt.Prune = None,
    quick: Quick = False,
    exit_code: ExitCode = False,
    as_json: opt.Json = False,
    no_progress: opt.NoProgress = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Print which files are new, stale, damaged, done, in conflict or orphaned; change nothing.

    Estimates the output size from finished records. To estimate the time, encodes a sample, but
    does not keep the result. Of shards, also prints what limits the run, and its requests.
    """
    from dinac_cli.commands.run import ScreenOptions, read_inputs
    from dinac_cli.images.buckets import choose_buckets
    from dinac_cli.images.color import parse_color
    from dinac_cli.images.damage import parse_damage_choice
    from dinac_cli.images.geometry import GeometryChoice
    from dinac_cli.jobs.encode import EncodeChoice, EncodeRequest
    from dinac_cli.jobs.model_choice import ModelChoice
    from dinac_cli.jobs.plan import PlanRequest

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
    request = EncodeRequest(
        inputs=read_inputs(images, files_from, null, root, exclude, limit, shard),
        out=out,
        options=options,
        model=ModelChoice(model=model, revision=revision, device=device, dtype=dtype),
        overwrite=overwrite,
        prune=prune,
        shard_size=shard_size,
        keep=keep or (),
        image_column=image_column,
        retry_failed=retry_failed,
        engine="ray" if engine == "ray" else "here",
        cluster=opt.choose_cluster(engine, address, processes_per_gpu, cpus_per_process),
        workers=workers,
        in_flight=batch_size,
    )
    screen = ScreenOptions(json=as_json, no_progress=no_progress, quiet=quiet, verbose=verbose)
    plan_request = PlanRequest(encode=request, quick=quick, model_rate=model_rate)
    raise typer.Exit(print_plan(plan_request, screen, reports_work=exit_code))


def print_plan(request: PlanRequest, screen: ScreenOptions, *, reports_work: bool = False) -> int:
    """Makes a plan and prints it; returns the exit code. Raises DinacError if encode cannot run.

    If `reports_work` is set, the exit code also says whether there is anything left to encode.
    Raises UsageError if encode would refuse and no output says so.
    """
    from dinac_cli.commands.run import tune_process
    from dinac_cli.jobs.executor.phase import Phase
    from dinac_cli.jobs.shards.shard_run import needs_shards

    if needs_shards(request.encode):
        from dinac_cli.commands.shard_plan import print_shard_plan

        return print_shard_plan(request, screen, reports_work=reports_work)
    console = screen.open_console()
    with show_phases(console, "plan") as watch:
        run = request.open(console.say, watch)
        _list_files(run, console, watch, as_json=screen.json)
    tune_process(request.encode)
    with stop_on_signals(console) as stop, show_phases(console, "plan", stop) as watch:
        watch(Phase("encoding a sample"))
        # The estimate takes seconds: skip it if nothing prints the estimate.
        is_unread = run.refusal is not None or (console.quiet and not screen.json)
        took = run.estimate_time(request.encode.make_control(stop), quick=is_unread)
    if stop.exit_code is not None:
        return stop.exit_code
    if screen.json:
        console.print_json(plan_to_json(run.plan, took, run.refusal) | prune_to_json(run))
    else:
        masks = run.options.masks
        lines = (*describe_plan(run.plan, took, run.refusal, masks), *describe_pruning(run))
        console.print_result("\n".join(lines))
    if run.refusal is not None and console.quiet and not screen.json:
        raise UsageError(f"encode would refuse: {run.refusal}")
    return _choose_exit(run, reports_work=reports_work)


def _list_files(run: PlanRun, console: Console, watch: Watch, *, as_json: bool) -> None:
    """Makes the plan, and prints its files and why `--prune` would move nothing."""
    from dinac_cli.jobs.executor.phase import watch_items

    with closing(FileLines(console)) as lines:
        for remark in run.selection.describe_list(run.output):
            console.say(remark)
        for file in watch_items(run.list_files(), watch, "comparing with OUT", run.total):
            _print_file(file, console, lines, as_json=as_json)
        if run.prune_refusal is not None:
            reason = f"--prune would move nothing: {run.prune_refusal}"
            lines.add(Topic.FAILURE, run.output.path, reason)


def _choose_exit(run: PlanRun, *, reports_work: bool) -> Exit:
    from dinac_cli.jobs.plan import WORK, Fate

    if run.refusal is not None:
        return Exit.USAGE
    reported = [Fate.FAILED]
    if reports_work:
        reported += (Fate.CONFLICT, Fate.RENAMED, *WORK)
        reported += (Fate.ORPHANED,) if run.pruning is not None else ()
    has_reported = any(run.plan.counts[fate].files for fate in reported)
    return Exit.FAILURES if has_reported or run.prune_refusal is not None else Exit.DONE


def describe_plan(
    plan: Plan, took: TimeEstimate, refusal: str | None = None, masks: str | None = None
) -> Iterator[str]:
    """Yields the plan as lines. `refusal` is the reason why encode would not start, or None.

    `masks` is the folder of --masks.
    """
    from dinac_cli.jobs.plan import WORK, Fate

    rows = [["state", "files", "bytes"]]
    for fate, count in plan.counts.items():
        if fate is Fate.RENAMED and not count.files:
            continue
        has_bytes = fate not in (Fate.SKIPPED, Fate.CONFLICT, Fate.FAILED)
        size = format_size(plan.estimate_bytes(fate)) if has_bytes else "-"
        rows.append([fate.value, str(count.files), size])
    yield from align(rows)
    yield from advise_on_sizes(
        "{} would be scaled up", plan.upscaled, plan.too_small, plan.geometry
    )
    yield from describe_buckets(plan.buckets)
    if masks is not None and plan.unmasked:
        fates = (*WORK, Fate.DONE, Fate.RENAMED, Fate.FAILED)
        images = sum(plan.counts[fate].files for fate in fates)
        yield describe_unmasked(plan.unmasked, images, masks)
    if plan.decoded:
        yield f"skipped because dinac decoded them: {count_images(plan.decoded)}"
    files = sum(plan.counts[fate].files for fate in WORK)
    if refusal is not None or not files:
        yield "nothing to encode" if refusal is None else f"encode would refuse: {refusal}"
        return
    basis = "from finished records" if plan.is_measured else "typical of this precision"
    unknown = f", not counting {plan.unmeasured} of unknown size" if plan.unmeasured else ""
    yield (
        f"{files} to encode, about {format_size(plan.bytes_to_write)} "
        f"at {plan.bits_per_pixel:.2f} bits per pixel ({basis}){unknown}"
    )
    time = "not estimated" if took.seconds is None else f"about {format_duration(took.seconds)}"
    yield f"time: {time} ({took.basis})"


def describe_pruning(run: PlanRun) -> Iterator[str]:
    """Yields what `--prune` would do, in one line; nothing if it would do nothing."""
    from dinac_cli.jobs.plan import Fate

    if run.pruning is None or run.refusal is not None or run.prune_refusal is not None:
        return
    count = run.plan.counts[Fate.ORPHANED].files
    records = "orphaned record" if count == 1 else "orphaned records"
    yield f"{count} {records} to move to {run.pruning.place}"


def prune_to_json(run: PlanRun) -> dict[str, Any]:
    """Returns why `--prune` would move nothing, or None; no keys if the run would not prune."""
    return {} if run.pruning is None else {"prune_refused": run.prune_refusal}


def plan_to_json(plan: Plan, took: TimeEstimate, refusal: str | None = None) -> dict[str, Any]:
    """Returns the summary object of a plan."""
    from dinac_cli.jobs.plan import WORK, Fate

    return {
        "summary": True,
        "refused": refusal,
        **{fate.value: count.files for fate, count in plan.counts.items()},
        "pixels": sum(plan.counts[fate].pixels for fate in WORK),
        "bits_per_pixel": plan.bits_per_pixel,
        "bits_per_pixel_measured": plan.is_measured,
        "bytes_estimated": plan.bytes_to_write,
        "unmeasured": plan.unmeasured,
        "upscaled": plan.upscaled,
        **({"buckets": buckets_to_json(plan.buckets)} if plan.geometry.buckets else {}),
        **({} if plan.unmasked is None else {"unmasked": plan.unmasked}),
        "seconds_estimated": took.seconds,
        "tried": took.files,
        "bytes_done": plan.counts[Fate.DONE].size_bytes,
        "bytes_orphaned": plan.counts[Fate.ORPHANED].size_bytes,
    }


def _print_file(file: PlannedFile, console: Console, lines: FileLines, *, as_json: bool) -> None:
    from dinac_cli.jobs.plan import Fate

    if file.fate is Fate.FAILED:
        lines.add(Topic.FAILURE, file.file, file.reason or "")
    elif console.verbose:
        reason = f": {file.reason}" if file.reason else ""
        console.say(f"{file.fate.value} {file.file}{reason}")
    if as_json:
        console.print_json(file.to_json())
