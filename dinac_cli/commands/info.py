"""`dinac info`."""

import typer

from dinac_cli.commands import options as opt


def info(
    *,
    latents: opt.Latents = None,
    files_from: opt.FilesFrom = None,
    null: opt.Null = False,
    root: opt.Root = None,
    limit: opt.Limit = None,
    shard: opt.ShardOption = None,
    workers: opt.Readers = None,
    failures: opt.Failures = None,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Show what files of latents hold: of one all that it says, of many what they come to.

    Mean and deviation of each channel are set against N(0, 1), which latents for training follow.
    """
    from dinac_cli.commands.cataloguing import end_catalogue
    from dinac_cli.commands.inputs import LATENTS, InputOptions, select_inputs
    from dinac_cli.commands.run import ReportOptions
    from dinac_cli.commands.running import RunOptions, run_batch
    from dinac_cli.commands.screen.console import Console
    from dinac_cli.jobs.info import Catalogue, catalogue_files
    from dinac_cli.jobs.request import count_unnamed, require_existing

    console = Console(quiet=quiet, verbose=verbose)
    inputs = InputOptions(latents, files_from, null, root, limit, shard)
    selection = select_inputs(inputs, LATENTS, None)
    require_existing(selection)
    catalogue = Catalogue()
    code = run_batch(
        "info",
        end_catalogue(catalogue),
        lambda control, stdin: catalogue_files(
            selection, catalogue, control, stdin=stdin, limit=limit
        ),
        selection.scan,
        count_unnamed(selection),
        RunOptions(workers, "auto"),
        ReportOptions(as_json, quiet, verbose, failures),
        console,
    )
    raise typer.Exit(code)
