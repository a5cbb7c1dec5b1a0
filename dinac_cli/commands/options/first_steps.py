"""Demo and completions."""

# No `from __future__ import annotations`: Typer reads these annotations at run time.

from typing import Annotated

import typer

from dinac_cli.commands.values import complete, one_of

SHELLS = ("bash", "zsh", "fish", "powershell")

DemoFolder = Annotated[str, typer.Argument(metavar="DIR", help="Where the demo puts its files.")]
Shell = Annotated[
    str,
    typer.Argument(
        metavar="SHELL",
        callback=one_of("SHELL", SHELLS),
        autocompletion=complete(SHELLS),
        help=f"{', '.join(SHELLS[:-1])} or {SHELLS[-1]}.",
    ),
]
