"""`dinac psnr`."""

import typer

from dinac_cli.commands import options as opt
from dinac_cli.images.formats import MAX_PIXELS


def psnr(
    first: opt.PsnrFirst,
    second: opt.PsnrSecond,
    resize: opt.OriginalResize = None,
    max_side: opt.OriginalMaxSide = None,
    crop: opt.OriginalCrop = None,
    background: opt.Background = "white",
    max_pixels: opt.MaxPixels = MAX_PIXELS,
    workers: opt.Readers = None,
    failures: opt.Failures = None,
    as_json: opt.PsnrJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Measure the PSNR of reconstructions against originals, in dB over 8-bit RGB.

    Pairs are found by name: A/a.jpg goes with B/a.jpg or B/a.jpg.png.
    """
    from dinac_cli.codec.machine import count_processors
    from dinac_cli.commands.inputs import IMAGES
    from dinac_cli.commands.measuring import MeasureReport
    from dinac_cli.commands.run import ReportOptions
    from dinac_cli.commands.screen.console import Console
    from dinac_cli.commands.screen.signals import stop_on_signals
    from dinac_cli.commands.values import choose_geometry, parse_color
    from dinac_cli.jobs.executor.control import RunControl
    from dinac_cli.jobs.psnr import MeasureOptions, count_pairs, measure_pairs

    console = Console(quiet=quiet, verbose=verbose)
    geometry = choose_geometry(resize, max_side, crop)
    reading = MeasureOptions(parse_color(background), max_pixels, geometry)
    total = count_pairs(first, second, IMAGES)
    report = MeasureReport(console, ReportOptions(as_json, quiet, verbose, failures), total)
    with stop_on_signals(console) as stop:
        control = RunControl(workers or count_processors(), stop=stop)
        pairs = measure_pairs(first, second, IMAGES, reading, control)
        code = report.consume(pairs, control.clock, stop)
    raise typer.Exit(code)
