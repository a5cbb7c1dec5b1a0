"""`dinac completions`, and the scripts in the folder `completions/`."""

from pathlib import Path
from typing import Annotated

import typer

from dinac_cli.commands.values import complete, one_of

PROGRAM = "dinac"
COMPLETION_VARIABLE = "_DINAC_COMPLETE"

SCRIPTS = {
    "bash": f"{PROGRAM}.bash",
    "zsh": f"_{PROGRAM}",
    "fish": f"{PROGRAM}.fish",
    "powershell": f"{PROGRAM}.ps1",
}
"""File name of each shell's script."""

# At the first Tab, zsh runs a file on its fpath as the function of that name. Typer's script only
# defines another function there, so that Tab would do nothing. If it is sourced, it needs no more.
_ZSH_FIRST_TAB = f"""
if [[ "$funcstack[1]" = "_{PROGRAM}" ]]; then
  _{PROGRAM}_completion "$@"
fi
"""


SHELLS = tuple(SCRIPTS)

Shell = Annotated[
    str,
    typer.Argument(
        metavar="SHELL",
        callback=one_of("SHELL", SHELLS),
        autocompletion=complete(SHELLS),
        help=f"{', '.join(SHELLS[:-1])} or {SHELLS[-1]}.",
    ),
]


def completions(shell: Shell) -> None:
    """Print the script that lets a shell complete commands, options and their values.

    Nothing is installed: save it where the shell looks for it, or source it.
    """
    typer.echo(make_script(shell), nl=False)


def make_script(shell: str) -> str:
    """Returns the completion script of a shell, one of `SCRIPTS`."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    script = get_completion_script(prog_name=PROGRAM, complete_var=COMPLETION_VARIABLE, shell=shell)
    end = _ZSH_FIRST_TAB if shell == "zsh" else ""
    return f"{script}\n{end}"


def write_scripts(folder: Path) -> None:
    """Writes every shell's script into an existing folder."""
    for shell, name in SCRIPTS.items():
        (folder / name).write_text(make_script(shell), encoding="utf-8", newline="\n")
