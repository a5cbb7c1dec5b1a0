"""What images are scaled, cropped and mirrored to."""

# No `from __future__ import annotations`: Typer reads these annotations at run time.

from typing import Annotated, Any

import typer

from dinac_cli.commands.options.panels import GEOMETRY
from dinac_cli.images.geometry import MAX_SIDE


def _side(name: str, text: str) -> Any:
    return typer.Option(name, min=1, max=MAX_SIDE, metavar="N", rich_help_panel=GEOMETRY, help=text)


def _crop(text: str) -> Any:
    return typer.Option("--crop", metavar="WxH", rich_help_panel=GEOMETRY, help=text)


Resize = Annotated[
    int | None,
    _side("--resize", "Scale each image, up or down, so that its short side has N pixels."),
]
MaxSide = Annotated[
    int | None,
    _side("--max-side", "Scale larger images down, so that no side has more than N pixels."),
]
CropSize = Annotated[
    str | None,
    _crop("Keep the centre of W x H pixels (N: of N x N) of what is there after scaling."),
]
Flip = Annotated[
    bool,
    typer.Option(
        "--flip",
        rich_help_panel=GEOMETRY,
        help="Store the same of each image mirrored left to right, too.",
    ),
]
Flipped = Annotated[
    bool,
    typer.Option("--flipped", help="Decode the mirrored images that encode --flip stored."),
]
OriginalResize = Annotated[
    int | None,
    _side("--resize", "Scale originals so that the short side has N pixels, as encode does."),
]
OriginalMaxSide = Annotated[
    int | None,
    _side("--max-side", "Scale larger originals down to N pixels a side, as encode does."),
]
OriginalCrop = Annotated[
    str | None,
    _crop("Keep the centre of W x H pixels of originals, as encode does."),
]
