"""`dinac decode`."""

import typer

from dinac_cli.commands import options as opt


def decode(
    *,
    latents: opt.Latents = None,
    out: opt.DecodeOut,
    steps: opt.Steps = 1,
    sampler: opt.Sampler = "ddim",
    schedule: opt.Schedule = "linear",
    guidance: opt.Guidance = None,
    strength: opt.Strength = 1.0,
    seed: opt.Seed = 0,
    image_format: opt.FormatOption = None,
    flipped: opt.Flipped = False,
    files_from: opt.FilesFrom = None,
    null: opt.Null = False,
    root: opt.Root = None,
    limit: opt.Limit = None,
    shard: opt.ShardOption = None,
    model: opt.RecordModel = "auto",
    revision: opt.Revision = None,
    allow_other_model: opt.AllowOtherModel = False,
    device: opt.Device = "auto",
    dtype: opt.Dtype = "auto",
    compiled: opt.CompileSizes = False,
    batch_size: opt.BatchSize = "auto",
    workers: opt.Workers = None,
    overwrite: opt.Overwrite = False,
    fsync: opt.Fsync = False,
    fail_fast: opt.FailFast = False,
    failures: opt.Failures = None,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Decode files of latents back into images of their exact size.

    a.jpg.dinac becomes OUT/a.jpg.png, a.png.dinac becomes OUT/a.png. Run it again to go on.
    """
    from dinac_cli.codec.handle import DeviceChoice
    from dinac_cli.commands.inputs import LATENTS, InputOptions, select_inputs
    from dinac_cli.commands.run import ReportOptions, end_with
    from dinac_cli.commands.running import RunOptions, open_stdout, prepare_out, run_batch
    from dinac_cli.commands.screen.console import Console
    from dinac_cli.commands.values import choose_format
    from dinac_cli.images.formats import OUTPUT_SUFFIXES
    from dinac_cli.jobs.decode import (
        DecodeOptions,
        decode_files,
        describe_settings,
        refuse_other_settings,
    )
    from dinac_cli.jobs.freshness import is_stamped_image
    from dinac_cli.jobs.model_choice import choose_decoders
    from dinac_cli.jobs.request import (
        choose_output_kind,
        count_inputs,
        require_existing,
    )
    from dinac_cli.models.dinac.config import DinacAEInferenceConfig
    from dinac_cli.storage.naming import name_image
    from dinac_cli.storage.output import Output

    console = Console(quiet=quiet, verbose=verbose)
    stdout = open_stdout(out)
    settings = DinacAEInferenceConfig(
        num_steps=steps,
        sampler=sampler,
        schedule=schedule,
        pdg=guidance is not None,
        pdg_strength=2.0 if guidance is None else guidance,
        strength=strength,
        seed=seed,
    )
    inputs = InputOptions(latents, files_from, null, root, limit, shard)
    selection = select_inputs(inputs, LATENTS, out)
    require_existing(selection)
    kind = choose_output_kind(out, selection.scan, OUTPUT_SUFFIXES)
    form = choose_format(image_format, out, kind)
    output = Output(out, kind, is_stamped_image, overwrite, fsync)
    total = count_inputs(selection, output, lambda name: name_image(name, form.suffixes))
    refuse_other_settings(selection, output, form, describe_settings(settings, flipped=flipped))
    find = choose_decoders(model, revision, DeviceChoice(device, dtype, compiled), console)
    decoding = DecodeOptions(settings, form, find, allow_other_model, limit, flipped)
    prepare_out(output)
    code = run_batch(
        "decode",
        end_with("decoded"),
        lambda control, stdin: decode_files(
            selection, output, decoding, control, stdin=stdin, stdout=stdout
        ),
        selection.scan,
        total,
        RunOptions(workers, batch_size),
        ReportOptions(as_json, quiet, verbose, failures, fail_fast, stdout is not None),
        console,
    )
    raise typer.Exit(code)
