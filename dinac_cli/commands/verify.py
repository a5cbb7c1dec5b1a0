"""`dinac verify`."""

import typer

from dinac_cli.commands import options as opt


def verify(
    *,
    latents: opt.Latents = None,
    source: opt.SourceFolder = None,
    reencode: opt.Reencode = None,
    max_delta: opt.MaxDelta = None,
    files_from: opt.FilesFrom = None,
    null: opt.Null = False,
    root: opt.Root = None,
    limit: opt.Limit = None,
    shard: opt.ShardOption = None,
    model: opt.VerifyModel = "auto",
    revision: opt.Revision = None,
    device: opt.Device = "auto",
    dtype: opt.VerifyDtype = "auto",
    workers: opt.Readers = None,
    fail_fast: opt.FailFast = False,
    failures: opt.Failures = None,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Verify files of latents: whole, undamaged, of the right model, of unchanged images.

    Structure, checksum and values always, the rest where an option asks for it.
    """
    from dinac_cli.codec.handle import DeviceChoice, ModelHandle
    from dinac_cli.commands.inputs import LATENTS, InputOptions, select_inputs
    from dinac_cli.commands.run import ReportOptions
    from dinac_cli.commands.running import RunOptions, run_batch
    from dinac_cli.commands.screen.console import Console
    from dinac_cli.commands.verifying import choose_reencoding, end_verifying, require_folder
    from dinac_cli.jobs.model_choice import choose_encoders, resolve_named
    from dinac_cli.jobs.request import count_unnamed, require_existing
    from dinac_cli.jobs.verify import VerifyOptions, verify_files

    console = Console(quiet=quiet, verbose=verbose)
    require_folder(source)
    selection = select_inputs(
        InputOptions(latents, files_from, null, root, limit, shard), LATENTS, None
    )
    require_existing(selection)
    total = count_unnamed(selection)
    named = resolve_named(model, revision, console)
    choice = DeviceChoice(device, dtype)
    wanted = None if named is None else ModelHandle(named, "encoder", choice)
    if wanted is not None:
        wanted.check()
    reencoding = choose_reencoding(reencode, max_delta, source, choose_encoders(named, choice))
    options = VerifyOptions(wanted, source, reencoding, limit)
    code = run_batch(
        "verify",
        end_verifying(reencoding),
        lambda control, stdin: verify_files(selection, options, control, stdin=stdin),
        selection.scan,
        total,
        RunOptions(workers, "auto"),
        ReportOptions(as_json, quiet, verbose, failures, fail_fast),
        console,
    )
    raise typer.Exit(code)
