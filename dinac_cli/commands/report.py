"""`dinac report`."""

import typer

from dinac_cli.commands import options as opt
from dinac_cli.images.formats import MAX_PIXELS


def report(
    *,
    folders: opt.ReportFolders,
    out: opt.ReportOut,
    latents: opt.ReportLatents = None,
    assets: opt.Assets = None,
    title: opt.Title = None,
    resize: opt.OriginalResize = None,
    max_side: opt.OriginalMaxSide = None,
    crop: opt.OriginalCrop = None,
    background: opt.Background = "white",
    max_pixels: opt.MaxPixels = MAX_PIXELS,
    workers: opt.Readers = None,
    overwrite: opt.Overwrite = False,
    failures: opt.Failures = None,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Make a page that puts originals and reconstructions side by side.

    It opens from disk, in any browser, and shows at one look where a model fails.
    """
    from dinac_cli.codec.machine import count_processors
    from dinac_cli.commands.comparing import make_report
    from dinac_cli.commands.run import ReportOptions
    from dinac_cli.commands.screen.console import Console
    from dinac_cli.commands.values import choose_geometry, parse_color
    from dinac_cli.jobs.psnr import MeasureOptions

    geometry = choose_geometry(resize, max_side, crop)
    code = make_report(
        folders,
        out,
        latents or [],
        assets,
        title,
        MeasureOptions(parse_color(background), max_pixels, geometry),
        workers or count_processors(),
        overwrite,
        ReportOptions(quiet=quiet, verbose=verbose, failures=failures),
        Console(quiet=quiet, verbose=verbose),
    )
    raise typer.Exit(code)
