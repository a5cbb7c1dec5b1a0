"""What a run takes, and which of it."""

# No `from __future__ import annotations`: Typer reads these annotations at run time.

from typing import Annotated

import typer

from dinac_cli.commands.options.panels import INPUTS

Images = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="IMG",
        show_default=False,
        help="Image files, folders (all images below them), quoted globs, or - for one image on "
        "standard input.",
    ),
]
Latents = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="LATENTS",
        show_default=False,
        help="Latent files, folders (all latent files below them), quoted globs, or - for records "
        "on standard input.",
    ),
]
FilesFrom = Annotated[
    str | None,
    typer.Option(
        metavar="LIST",
        rich_help_panel=INPUTS,
        help="Also take the inputs that this file lists, one a line; - is standard input.",
    ),
]
Null = Annotated[
    bool,
    typer.Option("--null", rich_help_panel=INPUTS, help="Entries of --files-from end in NUL."),
]
Root = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        rich_help_panel=INPUTS,
        help="What entries of --files-from are relative to; absolute ones need it.",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", rich_help_panel=INPUTS, help="Take the first N inputs only."),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        rich_help_panel=INPUTS,
        help="Do part I (from 0) of N, chosen by name; auto: from torchrun's or Slurm's variables.",
    ),
]
Background = Annotated[
    str,
    typer.Option(
        metavar="COLOR",
        rich_help_panel=INPUTS,
        help="What transparent images are laid on: white, black, gray or #rrggbb.",
    ),
]
MaxPixels = Annotated[
    int,
    typer.Option(
        min=1, metavar="N", rich_help_panel=INPUTS, help="Refuse images of more pixels than this."
    ),
]
