"""Measuring speed."""

# No `from __future__ import annotations`: Typer reads these annotations at run time.

from typing import Annotated

import typer

from dinac_cli.commands.options.panels import MODEL
from dinac_cli.commands.values import complete, one_of
from dinac_cli.models.dinac.config import RELEASED

BENCH_PARTS = ("network", "commands")

BenchImages = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="IMG",
        show_default="samples of 256x256",
        help="Images to time the commands on.",
    ),
]
RandomWeights = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=MODEL,
        callback=one_of("--random-weights", tuple(RELEASED)),
        autocompletion=complete(tuple(RELEASED)),
        help="Random weights in the sizes of a published model instead: d2 or dinac-ae.",
    ),
]
CompileBench = Annotated[
    bool, typer.Option("--compile", rich_help_panel=MODEL, help="Time the compiled network too.")
]
Only = Annotated[
    str | None,
    typer.Option(
        metavar="PART",
        show_default="both",
        callback=one_of("--only", BENCH_PARTS),
        autocompletion=complete(BENCH_PARTS),
        help="network: time the network alone; commands: time whole commands alone.",
    ),
]
Resolution = Annotated[
    list[int] | None,
    typer.Option(
        min=16,
        metavar="PIXELS",
        show_default="256 and 512",
        help="Side of the images that the network is timed on; may be repeated.",
    ),
]
BenchBatch = Annotated[
    list[int] | None,
    typer.Option(
        "--batch",
        min=1,
        metavar="N",
        show_default="that of the commands",
        help="Images that the network takes at once; may be repeated.",
    ),
]
FileCounts = Annotated[
    list[int] | None,
    typer.Option(
        "--files",
        min=2,
        metavar="N",
        show_default="20 and 200",
        help="Number of files to time the commands on; to be repeated.",
    ),
]
Seconds = Annotated[
    float,
    typer.Option(min=0.1, metavar="S", help="Time for each comparison of networks, about."),
]
Compare = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        callback=one_of("--compare", ("flux2",)),
        autocompletion=complete(("flux2",)),
        help="Time another autoencoder too: flux2 (with random weights).",
    ),
]
BenchJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
