"""`dinac train`."""

import typer

from dinac_cli.commands import options as opt


def train(
    *,
    images: opt.Images = None,
    out: opt.TrainOut,
    init: opt.Init = "nano",
    minutes: opt.Minutes = None,
    steps: opt.TrainSteps = None,
    batch_size: opt.TrainBatchSize = 64,
    crop: opt.Crop = 128,
    seed: opt.TrainSeed = 0,
    teacher: opt.Teacher = None,
    device: opt.Device = "auto",
    dtype: opt.Dtype = "auto",
    compiled: opt.Compile = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Train or fine-tune a model on your own images.

    OUT becomes a checkpoint folder that every command takes as --model.

    Killed or stopped, the same command goes on where it was.
    """
    from pathlib import Path

    from dinac_cli.codec.machine import configure_threads
    from dinac_cli.commands.inputs import IMAGES, InputOptions, select_inputs
    from dinac_cli.commands.screen.console import Console
    from dinac_cli.commands.training import choose_length, list_paths, report_training
    from dinac_cli.training.recipe import TrainRecipe

    console = Console(quiet=quiet, verbose=verbose)
    selection = select_inputs(InputOptions(images, None, False, None, None, None), IMAGES, out)
    paths = list_paths(selection)
    length = choose_length(steps, minutes)
    configure_threads()
    from dinac_cli.training.session import TrainRequest  # brings torch, which now knows its threads

    recipe = TrainRecipe(steps=length, batch_size=batch_size, crop=crop, seed=seed)
    request = TrainRequest(
        paths,
        Path(out),
        init,
        recipe,
        minutes,
        device,
        dtype,
        compiled,
        None if teacher is None else Path(teacher),
    )
    raise typer.Exit(report_training(request, console))
