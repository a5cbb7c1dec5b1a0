"""The arguments and options that several verbs share: each one's help and default, spelled once."""

# No `from __future__ import annotations`: Typer reads these annotations at run time.

from typing import Annotated, Any

import typer

from dinac_cli.commands.values import (
    check_device,
    complete,
    note_verbose,
    one_of,
    parse_batch_size,
)
from dinac_cli.container.header import PRECISIONS
from dinac_cli.images.geometry import MAX_SIDE

INPUTS = "Inputs"
GEOMETRY = "Geometry"
MODEL = "Model and device"
RUN = "Run"
REPORTS = "Screen and reports"

# Inputs

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
        help="Also take the inputs listed in this file, one a line; - is standard input.",
    ),
]
Null = Annotated[
    bool,
    typer.Option(
        "--null",
        rich_help_panel=INPUTS,
        help="--files-from is NUL-separated (find -print0).",
    ),
]
Root = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        rich_help_panel=INPUTS,
        help="Folder that entries of --files-from are relative to; absolute entries need it.",
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
        help="Take part I (from 0) of N, chosen by name; auto: from torchrun's or Slurm's "
        "variables.",
    ),
]
Background = Annotated[
    str,
    typer.Option(
        metavar="COLOR",
        rich_help_panel=INPUTS,
        help="Colour below transparent images: white, black, gray or #rrggbb.",
    ),
]
MaxPixels = Annotated[
    int,
    typer.Option(
        min=1, metavar="N", rich_help_panel=INPUTS, help="Refuse images of more pixels than this."
    ),
]

# What encode makes

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
        help="Leave the name, size and hash of the source out of records.",
    ),
]
StoreFeatures = Annotated[
    bool,
    typer.Option(
        "--features",
        help="Also store the DINO class token; needs a model with a class head, such as d2.",
    ),
]
StorePosterior = Annotated[
    bool,
    typer.Option(
        "--posterior",
        help="Also store the posterior's log-SNR, so that latents can be sampled.",
    ),
]

# Geometry


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
    _crop("After scaling, keep the centre of W x H pixels (N: of N x N)."),
]
Flip = Annotated[
    bool,
    typer.Option(
        "--flip",
        rich_help_panel=GEOMETRY,
        help="Also store latents of the image mirrored left to right.",
    ),
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

# Model and device

MODELS = ("auto", "nano", "d2", "dinac-ae")
MODEL_KINDS = "nano (embedded), d2, dinac-ae, a Hub repository, a folder or a .safetensors file"

_DEVICES = ("auto", "cpu", "cuda", "mps")
_DTYPES = ("auto", "bf16", "f32")


def _model(auto: str) -> Any:
    return typer.Option(
        "--model",
        envvar="DINAC_MODEL",
        metavar="MODEL",
        rich_help_panel=MODEL,
        autocompletion=complete(MODELS),
        help=f"{MODEL_KINDS}; auto: {auto}.",
    )


def dtype(text: str) -> Any:
    """The `--dtype` option."""
    return typer.Option(
        "--dtype",
        metavar="DTYPE",
        rich_help_panel=MODEL,
        callback=one_of("--dtype", _DTYPES),
        autocompletion=complete(_DTYPES),
        help=text,
    )


Model = Annotated[
    str, _model("the model of the latents in OUT, else nano on a CPU and d2 on a GPU")
]
RecordModel = Annotated[
    str, _model("the model that encoded the latents, if it is embedded or cached")
]
BenchModel = Annotated[str, _model("nano on a CPU and d2 on a GPU")]
Revision = Annotated[
    str | None,
    typer.Option(metavar="REV", rich_help_panel=MODEL, help="Branch, tag or commit on the Hub."),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="DEVICE",
        rich_help_panel=MODEL,
        callback=check_device,
        autocompletion=complete(_DEVICES),
        help="auto, cpu, cuda, cuda:N or mps; an absent device is an error.",
    ),
]
Dtype = Annotated[str, dtype("bf16 or f32; auto: bf16 if the hardware supports it natively.")]
CompileSizes = Annotated[
    bool,
    typer.Option(
        "--compile",
        rich_help_panel=MODEL,
        help="Compile the model for each image size: faster, after a quarter of a minute a size "
        "(later runs: a second); for large folders of few sizes.",
    ),
]

# Run


def _workers(text: str) -> Any:
    return typer.Option(
        "--workers",
        min=1,
        metavar="N",
        rich_help_panel=RUN,
        show_default="one a processor",
        help=text,
    )


BatchSize = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        show_default="auto",
        rich_help_panel=RUN,
        parser=parse_batch_size,
        help="Images in memory at once, or auto; never changes a result.",
    ),
]
Workers = Annotated[int | None, _workers("Threads that read, and threads that write.")]
Readers = Annotated[int | None, _workers("Threads that read.")]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        rich_help_panel=RUN,
        help="Replace any existing file, and redo finished outputs.",
    ),
]
Checksum = Annotated[
    bool,
    typer.Option(
        "--checksum",
        rich_help_panel=RUN,
        help="Detect changed sources by their hash, not by size and time.",
    ),
]
Fsync = Annotated[
    bool,
    typer.Option(
        "--fsync", rich_help_panel=RUN, help="Flush each output to the disk before going on."
    ),
]
FailFast = Annotated[
    bool,
    typer.Option("--fail-fast", rich_help_panel=RUN, help="Stop at the first file that fails."),
]

# Screen and reports

Failures = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", rich_help_panel=REPORTS, help="Write failed files here, as JSON lines."
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        rich_help_panel=REPORTS,
        help="JSON lines on stdout: one object a file, a summary last.",
    ),
]
JsonObject = Annotated[
    bool, typer.Option("--json", rich_help_panel=REPORTS, help="One JSON object on stdout.")
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", rich_help_panel=REPORTS, help="Print errors only."),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        rich_help_panel=REPORTS,
        callback=note_verbose,
        help="Name every file; full errors.",
    ),
]
