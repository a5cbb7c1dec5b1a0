"""`dinac features`."""

import typer

from dinac_cli.commands import options as opt


def features(
    *,
    latents: opt.Latents = None,
    out: opt.FeaturesOut = None,
    spatial: opt.Spatial = False,
    similar: opt.Similar = None,
    top: opt.Top = None,
    files_from: opt.FilesFrom = None,
    null: opt.Null = False,
    root: opt.Root = None,
    limit: opt.Limit = None,
    shard: opt.ShardOption = None,
    model: opt.RecordModel = "auto",
    revision: opt.Revision = None,
    device: opt.Device = "auto",
    dtype: opt.Dtype = "auto",
    batch_size: opt.BatchSize = "auto",
    workers: opt.Readers = None,
    overwrite: opt.Overwrite = False,
    fsync: opt.Fsync = False,
    fail_fast: opt.FailFast = False,
    failures: opt.Failures = None,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Predict DINO features from files of latents, without decoding them, and find like images.

    OUT holds `class_tokens`, F32 [N, D], and their `names`. Needs a model with a class head.
    """
    from dinac_cli.codec.handle import DeviceChoice
    from dinac_cli.commands.inputs import LATENTS, InputOptions, select_inputs
    from dinac_cli.commands.predicting import FeatureRequest, end_features, open_feature_file
    from dinac_cli.commands.run import ReportOptions
    from dinac_cli.commands.running import RunOptions, prepare_out, run_batch
    from dinac_cli.commands.screen.console import Console
    from dinac_cli.jobs.feature_set import FeatureSet, name_features
    from dinac_cli.jobs.features import FeatureOptions, predict_features
    from dinac_cli.jobs.model_choice import choose_class_heads
    from dinac_cli.jobs.request import count_inputs, count_unnamed, require_existing

    console = Console(quiet=quiet, verbose=verbose)
    request = FeatureRequest.read(latents, out, similar, top, spatial=spatial)
    inputs = InputOptions(list(request.latents), files_from, null, root, limit, shard)
    selection = select_inputs(inputs, LATENTS, request.out)
    require_existing(selection)
    output = open_feature_file(request.out, overwrite=overwrite, fsync=fsync)
    if output is None:
        total = count_unnamed(selection)
    else:
        total = count_inputs(selection, output, name_features)
    find = choose_class_heads(model, revision, DeviceChoice(device, dtype), console)
    predicting = FeatureOptions(find, spatial, similar, limit)
    if output is not None:
        prepare_out(output)
    found = FeatureSet()
    code = run_batch(
        "features",
        end_features(found, request),
        lambda control, stdin: predict_features(
            selection, output, predicting, found, control, stdin=stdin
        ),
        selection.scan,
        total,
        RunOptions(workers, batch_size),
        ReportOptions(as_json, quiet, verbose, failures, fail_fast),
        console,
    )
    raise typer.Exit(code)
