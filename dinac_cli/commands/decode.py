"""`dinac decode`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dinac_cli.commands import options as opt
from dinac_cli.commands.screen.summary import Summary
from dinac_cli.commands.values import choices, complete, parse_guidance, parse_quality, real, whole
from dinac_cli.images.formats import OUTPUT_FORMATS
from dinac_cli.models.interface import SCHEDULES

if TYPE_CHECKING:
    from dinac_cli.jobs.decode import DecodeRun

DecodeOut = Annotated[
    str | None,
    typer.Argument(
        metavar="OUT",
        help="The last argument: a folder, an image file (for one input file), or - for one image "
        "on standard output.",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        "--steps",
        "-n",
        parser=whole("--steps", 1),
        show_default=opt.follow("1"),
        metavar="N",
        help="Number of decoder evaluations (NFE); 1 gives the best PSNR.",
    ),
]
Sampler = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        show_default=opt.follow("ddim"),
        **choices("--sampler", ("ddim", "dpmpp-2m")),
        help="ddim or dpmpp-2m.",
    ),
]
Schedule = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        show_default=opt.follow("linear"),
        **choices("--schedule", SCHEDULES),
        help="Spacing of the diffusion times: linear or cosine.",
    ),
]
Guidance = Annotated[
    Any,
    typer.Option(
        metavar="G",
        show_default=opt.follow("off"),
        parser=parse_guidance,
        help="Strength of path-drop guidance, or off; guidance doubles the work.",
    ),
]
Strength = Annotated[
    float | None,
    typer.Option(
        metavar="S",
        parser=real("--strength", lambda value: 0 < value <= 1, "more than 0 and at most 1"),
        show_default=opt.follow("1"),
        help="Scale of the diffusion times: more than 0 and at most 1 (full noise).",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        parser=whole("--seed", -(2**63), 2**64 - 1, "a 64-bit integer"),
        show_default=opt.follow("0"),
        help="Seed of the noise.",
    ),
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        "-f",
        metavar="NAME",
        show_default="the format of OUT's suffix, else of the images in OUT, else png",
        autocompletion=complete(tuple(OUTPUT_FORMATS)),
        help=f"Image format: {', '.join(OUTPUT_FORMATS)}. jpg and avif are lossy; the others, webp "
        "included, are lossless.",
    ),
]
Quality = Annotated[
    Any,  # a number or `default`
    typer.Option(
        "--quality",
        metavar="N",
        parser=parse_quality,
        show_default=opt.follow("jpg 95, avif 90, webp lossless"),
        help="Quality of jpg, avif or lossy webp: 1 to 100, or default.",
    ),
]
Flipped = Annotated[
    bool | None,
    typer.Option(
        "--flipped/--no-flipped",
        show_default=opt.follow("--no-flipped"),
        help="Decode the mirrored images that encode --flip stored.",
    ),
]
AllowOtherModel = Annotated[
    bool,
    opt.model_option(
        "--allow-other-model", help="Also decode latents of another model, if their shape fits."
    ),
]


def decode(
    *,
    latents: opt.Latents = None,
    out: DecodeOut = None,
    out_option: opt.OutOption = None,
    steps: Steps = None,
    sampler: Sampler = None,
    schedule: Schedule = None,
    guidance: Guidance = None,
    strength: Strength = None,
    seed: Seed = None,
    image_format: Format = None,
    quality: Quality = None,
    flipped: Flipped = None,
    files_from: opt.FilesFrom = None,
    null: opt.Null = False,
    root: opt.Root = None,
    exclude: opt.Exclude = None,
    limit: opt.Limit = None,
    shard: opt.ShardOption = None,
    model: opt.RecordModel = "auto",
    revision: opt.Revision = None,
    allow_other_model: AllowOtherModel = False,
    device: opt.Devices = "auto",
    dtype: opt.Dtype = "auto",
    compiled: opt.CompileSizes = False,
    batch_size: opt.BatchSize = None,
    workers: opt.Workers = None,
    processes: opt.Processes = None,
    threads: opt.Threads = None,
    overwrite: opt.Overwrite = False,
    prune: opt.Prune = None,
    fsync: opt.Fsync = False,
    lock: opt.Lock = False,
    fail_fast: opt.FailFast = False,
    failures: opt.Failures = None,
    known: opt.Known = None,
    log: opt.Log = None,
    as_json: opt.Json = False,
    no_progress: opt.NoProgress = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Decode files of latents into images of the exact size that was encoded.

    a.jpg.dinac becomes OUT/a.jpg.png; a.png.dinac becomes OUT/a.png. To resume, rerun the command.

    Settings that are not given follow the images in OUT, unless --overwrite is given.
    """
    from dinac_cli.commands.run import ScreenOptions, read_inputs, run_request
    from dinac_cli.jobs.decode import DecodeChoice, DecodeRequest
    from dinac_cli.jobs.model_choice import ModelChoice

    latents, out = opt.split_out(latents, out, out_option, files_from)
    options = DecodeChoice(
        steps=steps,
        sampler=sampler,
        schedule=schedule,
        guidance=guidance,
        strength=strength,
        seed=seed,
        format=image_format,
        quality=quality,
        flipped=flipped,
    )
    choice = ModelChoice(
        model=model, revision=revision, device=device, dtype=dtype, compiled=compiled
    )
    request = DecodeRequest(
        inputs=read_inputs(latents, files_from, null, root, exclude, limit, shard),
        out=out,
        options=options,
        model=choice,
        allow_other_model=allow_other_model,
        overwrite=overwrite,
        fsync=fsync,
        prune=prune,
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
    raise typer.Exit(run_request(request, _start_summary, screen, out))


def _start_summary(run: DecodeRun) -> Summary:
    return Summary("decoded", None if run.pruning is None else run.pruning.place)
