"""`dinac encode`."""

import typer

from dinac_cli.commands import options as opt
from dinac_cli.images.formats import MAX_PIXELS


def encode(
    *,
    images: opt.Images = None,
    out: opt.EncodeOut,
    precision: opt.PrecisionOption = "bf16",
    features: opt.StoreFeatures = False,
    posterior: opt.StorePosterior = False,
    anonymous: opt.Anonymous = False,
    resize: opt.Resize = None,
    max_side: opt.MaxSide = None,
    crop: opt.CropSize = None,
    flip: opt.Flip = False,
    files_from: opt.FilesFrom = None,
    null: opt.Null = False,
    root: opt.Root = None,
    limit: opt.Limit = None,
    shard: opt.ShardOption = None,
    background: opt.Background = "white",
    max_pixels: opt.MaxPixels = MAX_PIXELS,
    model: opt.Model = "auto",
    revision: opt.Revision = None,
    device: opt.Device = "auto",
    dtype: opt.Dtype = "auto",
    compiled: opt.CompileSizes = False,
    batch_size: opt.BatchSize = "auto",
    workers: opt.Workers = None,
    overwrite: opt.Overwrite = False,
    checksum: opt.Checksum = False,
    fsync: opt.Fsync = False,
    fail_fast: opt.FailFast = False,
    failures: opt.Failures = None,
    dry_run: opt.DryRun = False,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Encode images into files of whitened latents.

    a.jpg becomes OUT/a.jpg.dinac. Run it again to go on: what is done is left alone.
    """
    from dinac_cli.codec.handle import DeviceChoice
    from dinac_cli.commands.inputs import IMAGES, InputOptions, select_inputs
    from dinac_cli.commands.run import ReportOptions, end_with
    from dinac_cli.commands.running import RunOptions, open_stdout, prepare_out, run_batch
    from dinac_cli.commands.screen.console import Console
    from dinac_cli.commands.values import choose_geometry, parse_color
    from dinac_cli.errors import UsageError
    from dinac_cli.jobs.encode import EncodeOptions, encode_files
    from dinac_cli.jobs.freshness import is_latent_file
    from dinac_cli.jobs.model_choice import choose_encoder, refuse_mixed_latents
    from dinac_cli.jobs.request import (
        choose_output_kind,
        count_inputs,
        require_existing,
    )
    from dinac_cli.storage.naming import LATENT_SUFFIX, name_latents
    from dinac_cli.storage.output import Output

    console = Console(quiet=quiet, verbose=verbose)
    settings = EncodeOptions(
        precision,
        parse_color(background),
        max_pixels,
        checksum,
        anonymous,
        features,
        posterior,
        choose_geometry(resize, max_side, crop, flip=flip),
    )
    inputs = InputOptions(images, files_from, null, root, limit, shard)
    choice = DeviceChoice(device, dtype, compiled)
    run = RunOptions(workers, batch_size, is_bounded=True)
    if dry_run:
        from dinac_cli.commands.planning import PlanOptions, run_plan

        if failures is not None:
            raise UsageError("--dry-run writes nothing: leave out --failures")
        plan = PlanOptions(settings, model, revision, overwrite, choice, run)
        raise typer.Exit(run_plan(inputs, out, plan, console, as_json))
    stdout = open_stdout(out)
    if anonymous and checksum:
        raise UsageError("--anonymous records hold no hash to compare: leave out --checksum")
    selection = select_inputs(inputs, IMAGES, out)
    require_existing(selection)
    kind = choose_output_kind(out, selection.scan, (LATENT_SUFFIX,))
    output = Output(out, kind, is_latent_file, overwrite, fsync)
    total = count_inputs(selection, output, name_latents)
    encoder = choose_encoder(model, revision, choice, output, console, features=features)
    refuse_mixed_latents(output, settings.want(encoder))
    prepare_out(output)
    code = run_batch(
        "encode",
        end_with(f"encoded with {encoder.label}"),
        lambda control, stdin: encode_files(
            selection, output, encoder, settings, control, stdin=stdin, stdout=stdout
        ),
        selection.scan,
        total,
        run,
        ReportOptions(as_json, quiet, verbose, failures, fail_fast, stdout is not None),
        console,
    )
    raise typer.Exit(code)
