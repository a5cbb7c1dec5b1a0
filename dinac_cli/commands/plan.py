"""`dinac plan`."""

import typer

from dinac_cli.commands import options as opt
from dinac_cli.images.formats import MAX_PIXELS


def plan(
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
    batch_size: opt.BatchSize = "auto",
    workers: opt.Workers = None,
    overwrite: opt.Overwrite = False,
    checksum: opt.Checksum = False,
    quick: opt.Quick = False,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Say what encode would do: new, stale, damaged, done, in conflict, orphaned; change nothing.

    Bytes are estimated from the records that are done, time by encoding some images to nowhere.
    """
    from dinac_cli.codec.handle import DeviceChoice
    from dinac_cli.commands.inputs import InputOptions
    from dinac_cli.commands.planning import PlanOptions, run_plan
    from dinac_cli.commands.running import RunOptions
    from dinac_cli.commands.screen.console import Console
    from dinac_cli.commands.values import choose_geometry, parse_color
    from dinac_cli.jobs.encode import EncodeOptions

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
    options = PlanOptions(
        settings,
        model,
        revision,
        overwrite,
        DeviceChoice(device, dtype),
        RunOptions(workers, batch_size, is_bounded=True),
        quick,
    )
    console = Console(quiet=quiet, verbose=verbose)
    raise typer.Exit(run_plan(inputs, out, options, console, as_json))
