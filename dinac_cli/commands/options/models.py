"""The model, the device, and the arithmetic."""

# No `from __future__ import annotations`: Typer reads these annotations at run time.

from typing import Annotated, Any

import typer

from dinac_cli.commands.options.panels import MODEL
from dinac_cli.commands.values import check_device, complete, one_of

_MODELS = ("auto", "nano", "d2", "dinac-ae")
_DEVICES = ("auto", "cpu", "cuda", "mps")
_DTYPES = ("auto", "bf16", "f32")

_WHAT_IT_TAKES = "nano (embedded), d2, dinac-ae, a Hub repository, a folder or a .safetensors file"


def _describe_auto(auto: str) -> Any:
    return typer.Option(
        "--model",
        envvar="DINAC_MODEL",
        metavar="MODEL",
        rich_help_panel=MODEL,
        autocompletion=complete(_MODELS),
        help=f"{_WHAT_IT_TAKES}; auto: {auto}.",
    )


Model = Annotated[
    str, _describe_auto("that of the latents in OUT, else nano on a CPU and d2 on a GPU")
]
RecordModel = Annotated[
    str, _describe_auto("the one that made the latents, where it is embedded or cached")
]
BenchModel = Annotated[str, _describe_auto("nano on a CPU and d2 on a GPU")]
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
        help="auto, cpu, cuda, cuda:N or mps; to compute on one that is absent is an error.",
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        metavar="DTYPE",
        rich_help_panel=MODEL,
        callback=one_of("--dtype", _DTYPES),
        autocompletion=complete(_DTYPES),
        help="bf16 or f32; auto: bf16 where the hardware multiplies it.",
    ),
]
CompileSizes = Annotated[
    bool,
    typer.Option(
        "--compile",
        rich_help_panel=MODEL,
        help="Compile the network for each size of image: faster, after a quarter of a minute "
        "a size (later runs: a second); for large folders of few sizes.",
    ),
]
AllowOtherModel = Annotated[
    bool,
    typer.Option(
        "--allow-other-model",
        rich_help_panel=MODEL,
        help="Decode latents of another model all the same, where the shape fits.",
    ),
]
VerifyModel = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="MODEL",
        rich_help_panel=MODEL,
        autocompletion=complete(_MODELS),
        help="Every record must be of this model; auto: of any.",
    ),
]
VerifyDtype = Annotated[
    str,
    typer.Option(
        "--dtype",
        metavar="DTYPE",
        rich_help_panel=MODEL,
        callback=one_of("--dtype", _DTYPES),
        autocompletion=complete(_DTYPES),
        help="bf16 or f32, for --reencode; auto: what the record was encoded in.",
    ),
]
ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        autocompletion=complete(_MODELS[1:]),
        help=f"{_WHAT_IT_TAKES}.",
    ),
]
HubModel = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        autocompletion=complete(_MODELS[2:]),
        help="d2, dinac-ae or a Hub repository.",
    ),
]
ModelsJson = Annotated[bool, typer.Option("--json", help="One JSON object a model on stdout.")]
