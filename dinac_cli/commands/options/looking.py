"""What is found out of records and images: features, verify, psnr, report."""

# No `from __future__ import annotations`: Typer reads these annotations at run time.

import math
from typing import Annotated

import typer

from dinac_cli.commands.values import check_percent, within

FeaturesOut = Annotated[
    str | None,
    typer.Argument(
        metavar="OUT.safetensors",
        show_default=False,
        help="The last argument: the file to write; may be left out with --similar.",
    ),
]
Spatial = Annotated[
    bool, typer.Option("--spatial", help="Also write the patch tokens, one tensor an image.")
]
Similar = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="List the images that are most similar to the one of this latent file.",
    ),
]
Top = Annotated[
    int | None,
    typer.Option(min=1, metavar="K", show_default="10", help="How many images --similar lists."),
]
SourceFolder = Annotated[
    str | None,
    typer.Option(
        "--source",
        metavar="DIR",
        help="The images that were encoded: each must still be there, by size and hash.",
    ),
]
Reencode = Annotated[
    str | None,
    typer.Option(
        "--reencode",
        metavar="P%",
        show_default="none",
        callback=check_percent,
        help="Encode about so many of the records anew, and report the largest difference.",
    ),
]
MaxDelta = Annotated[
    float | None,
    typer.Option(
        "--max-delta",
        metavar="D",
        show_default="0.25, and one step at q8 to q3",
        callback=within(
            "--max-delta", lambda value: 0 <= value < math.inf, "a finite number, 0 or more"
        ),
        help="How far a latent that is encoded anew may be off.",
    ),
]
PsnrFirst = Annotated[
    str, typer.Argument(metavar="A", help="The originals: a folder, or one image.")
]
PsnrSecond = Annotated[
    str, typer.Argument(metavar="B", help="The reconstructions: a folder, or one image.")
]
ReportFolders = Annotated[
    list[str],
    typer.Argument(
        metavar="A B...",
        show_default=False,
        help="The folder of originals, then one or more folders of reconstructions.",
    ),
]
ReportOut = Annotated[
    str, typer.Argument(metavar="OUT.html", help="The last argument: the page to write.")
]
ReportLatents = Annotated[
    list[str] | None,
    typer.Option(
        "--latents",
        metavar="DIR",
        help="Folder of latents of a reconstruction, in their order: shows bits a pixel and, of "
        "the first, the latents as colours; may be repeated.",
    ),
]
Assets = Annotated[
    str | None,
    typer.Option(
        metavar="DIR", help="Put the full images there, not into the page; for large sets."
    ),
]
Title = Annotated[str | None, typer.Option(metavar="TEXT", help="Title of the page.")]
