"""Training."""

# No `from __future__ import annotations`: Typer reads these annotations at run time.

from typing import Annotated

import typer

from dinac_cli.commands.values import complete

TrainOut = Annotated[
    str, typer.Argument(metavar="OUT", help="The last argument: the checkpoint folder to make.")
]
Init = Annotated[
    str,
    typer.Option(
        metavar="MODEL",
        autocompletion=complete(("nano", "d2", "klt")),
        help="Where to start: a model as --model takes it, or klt, the linear optimum of IMG.",
    ),
]
Minutes = Annotated[
    float | None,
    typer.Option(min=0.01, metavar="M", help="How long to train; the learning rate ends at zero."),
]
TrainSteps = Annotated[
    int | None,
    typer.Option("--steps", min=1, metavar="N", help="How many steps to train, instead."),
]
TrainBatchSize = Annotated[
    int, typer.Option("--batch-size", min=1, metavar="N", help="Crops a step.")
]
Crop = Annotated[
    int,
    typer.Option(
        min=32, metavar="PIXELS", help="Side of a crop; images smaller than that are left out."
    ),
]
TrainSeed = Annotated[
    int,
    typer.Option("--seed", min=0, metavar="N", help="Seed of all that is random in training."),
]
Compile = Annotated[
    bool,
    typer.Option("--compile", help="Compile the network first; pays in runs of several minutes."),
]
Teacher = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER",
        help="A DINOv2 checkpoint folder: the class head, if there is one, learns its features.",
    ),
]
