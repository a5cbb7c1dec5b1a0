"""What encode stores and export hands on, and where."""

# No `from __future__ import annotations`: Typer reads these annotations at run time.

from typing import Annotated

import typer

from dinac_cli.commands.values import complete, one_of
from dinac_cli.container.header import PRECISIONS

EXPORT_FORMATS = ("safetensors", "npz", "webdataset")

EncodeOut = Annotated[
    str,
    typer.Argument(
        metavar="OUT",
        help="The last argument: a folder, a .dinac file (for one input file), or - for standard "
        "output.",
    ),
]
PrecisionOption = Annotated[
    str,
    typer.Option(
        "--precision",
        metavar="P",
        callback=one_of("--precision", PRECISIONS),
        autocompletion=complete(PRECISIONS),
        help="How latents are stored.\n\nBits a pixel and dB lost (nano, photographs):\n\n"
        "f32  14.5  0     q6  2.4  0.10\n\n"
        "bf16  5.3  0     q5  2.2  0.20\n\n"
        "q8    3.0  0.02  q4  1.8  0.48\n\n"
        "q7    2.7  0.05  q3  1.5  0.98\n\n",
    ),
]
Anonymous = Annotated[
    bool,
    typer.Option(
        "--anonymous",
        help="Leave out of records where they come from: name, size and hash of the source.",
    ),
]
StoreFeatures = Annotated[
    bool,
    typer.Option(
        "--features",
        help="Store the DINO class token too; needs a model with a class head, such as d2.",
    ),
]
StorePosterior = Annotated[
    bool,
    typer.Option(
        "--posterior",
        help="Store the posterior's log-SNR too, so that latents can be sampled.",
    ),
]
ExportOut = Annotated[
    str, typer.Argument(metavar="OUT", help="The last argument: the folder to write to.")
]
ExportFormat = Annotated[
    str,
    typer.Option(
        "--to",
        metavar="FORMAT",
        callback=one_of("--to", EXPORT_FORMATS),
        autocompletion=complete(EXPORT_FORMATS),
        help="safetensors or npz: a file a record; webdataset: tars of many.",
    ),
]
