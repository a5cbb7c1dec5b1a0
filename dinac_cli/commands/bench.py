"""`dinac bench`."""

import typer

from dinac_cli.commands import options as opt


def bench(
    images: opt.BenchImages = None,
    only: opt.Only = None,
    resolution: opt.Resolution = None,
    batch: opt.BenchBatch = None,
    seconds: opt.Seconds = 5.0,
    compare: opt.Compare = None,
    files: opt.FileCounts = None,
    model: opt.BenchModel = "auto",
    revision: opt.Revision = None,
    random_weights: opt.RandomWeights = None,
    device: opt.Device = "auto",
    dtype: opt.Dtype = "auto",
    compiled: opt.CompileBench = False,
    workers: opt.Workers = None,
    as_json: opt.BenchJson = False,
    quiet: opt.Quiet = False,
) -> None:
    """Time the network and the commands on this machine.

    The plain network, the fast one and what they are compared with take turns.
    """
    from dinac_cli.codec.handle import DeviceChoice
    from dinac_cli.codec.machine import configure_threads, count_processors
    from dinac_cli.commands.benchmarking import choose_images, choose_model, report_benchmark
    from dinac_cli.commands.screen.console import Console

    console = Console(quiet=quiet)
    paths = choose_images(images or [])
    resolved = choose_model(model, revision, random_weights, device, console)
    configure_threads()
    from dinac_cli.bench.benchmark import BenchRequest  # brings torch, which now knows its threads

    request = BenchRequest(
        resolved,
        random_weights,
        DeviceChoice(device, dtype, compiled),
        compare,
        tuple(resolution or (256, 512)),
        tuple(batch or ()),
        paths,
        tuple(sorted(set(files or (20, 200)))),
        workers or min(16, count_processors()),
        seconds,
    )
    raise typer.Exit(report_benchmark(request, only, as_json, console))
