"""`dinac export`."""

import typer

from dinac_cli.commands import options as opt


def export(
    *,
    latents: opt.Latents = None,
    out: opt.ExportOut,
    form: opt.ExportFormat = "safetensors",
    files_from: opt.FilesFrom = None,
    null: opt.Null = False,
    root: opt.Root = None,
    limit: opt.Limit = None,
    shard: opt.ShardOption = None,
    workers: opt.Workers = None,
    overwrite: opt.Overwrite = False,
    fsync: opt.Fsync = False,
    fail_fast: opt.FailFast = False,
    failures: opt.Failures = None,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Write latents in the form of other tools, to be read without dinac.

    As float32, with what their records say of them; needs no model.
    """
    from dinac_cli.commands.inputs import LATENTS, InputOptions, select_inputs
    from dinac_cli.commands.run import ReportOptions, end_with
    from dinac_cli.commands.running import RunOptions, prepare_out, run_batch
    from dinac_cli.commands.screen.console import Console
    from dinac_cli.errors import UsageError
    from dinac_cli.jobs.export import export_files
    from dinac_cli.jobs.request import count_unnamed, refuse_file_name, require_existing
    from dinac_cli.storage.output import STDOUT, Output, OutputKind

    if out == STDOUT:
        raise UsageError("OUT is a folder here: name one")
    console = Console(quiet=quiet, verbose=verbose)
    inputs = InputOptions(latents, files_from, null, root, limit, shard)
    selection = select_inputs(inputs, LATENTS, out)
    require_existing(selection)
    refuse_file_name(out)
    output = Output(out, OutputKind.FOLDER, lambda path: False, overwrite, fsync)
    total = count_unnamed(selection)
    prepare_out(output)
    code = run_batch(
        "export",
        end_with("exported"),
        lambda control, stdin: export_files(
            selection, output, form, control, stdin=stdin, limit=limit
        ),
        selection.scan,
        total,
        RunOptions(workers, "auto"),
        ReportOptions(as_json, quiet, verbose, failures, fail_fast),
        console,
    )
    raise typer.Exit(code)
