"""How decode makes images, and which."""

# No `from __future__ import annotations`: Typer reads these annotations at run time.

import math
from typing import Annotated

import typer

from dinac_cli.commands.values import complete, one_of, within
from dinac_cli.images.formats import OUTPUT_FORMATS
from dinac_cli.models.dinac.config import SCHEDULES

DecodeOut = Annotated[
    str,
    typer.Argument(
        metavar="OUT",
        help="The last argument: a folder, an image file (for one input file), or - for one image "
        "on standard output.",
    ),
]
Steps = Annotated[
    int,
    typer.Option(
        "--steps", "-n", min=1, metavar="N", help="Decoder evaluations (NFE); 1 is best for PSNR."
    ),
]
Sampler = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        callback=one_of("--sampler", ("ddim", "dpmpp-2m")),
        autocompletion=complete(("ddim", "dpmpp-2m")),
        help="ddim or dpmpp-2m.",
    ),
]
Schedule = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        callback=one_of("--schedule", SCHEDULES),
        autocompletion=complete(SCHEDULES),
        help="Spacing of the times: linear or cosine.",
    ),
]
Guidance = Annotated[
    float | None,
    typer.Option(
        metavar="G",
        show_default="off",
        callback=within("--guidance", math.isfinite, "a finite number"),
        help="Path-drop guidance of this strength; doubles the work.",
    ),
]
Strength = Annotated[
    float,
    typer.Option(
        metavar="S",
        callback=within("--strength", lambda value: 0 < value <= 1, "more than 0, at most 1"),
        help="Scale of the times, above 0 to 1; 1 is full noise.",
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        metavar="N",
        callback=within("--seed", lambda value: -(2**63) <= value < 2**64, "an integer of 64 bits"),
        help="Seed of the noise.",
    ),
]
FormatOption = Annotated[
    str | None,
    typer.Option(
        "--format",
        "-f",
        metavar="NAME",
        show_default="png, or what OUT's suffix says",
        autocompletion=complete(tuple(OUTPUT_FORMATS)),
        help=f"Image format: {', '.join(OUTPUT_FORMATS)}.",
    ),
]
