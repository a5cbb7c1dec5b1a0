"""`dinac completions`, and the scripts in the folder `completions/`."""

from pathlib import Path
from typing import Annotated

import typer

from dinac_cli.commands.values import choices

PROGRAM = "dinac"
COMPLETION_VARIABLE = "_DINAC_COMPLETE"

SCRIPTS = {
    "bash": f"{PROGRAM}.bash",
    "zsh": f"_{PROGRAM}",
    "fish": f"{PROGRAM}.fish",
    "powershell": f"{PROGRAM}.ps1",
}
"""The file name of each shell's script."""

# At the first Tab, zsh runs the file `_dinac` from its fpath as the function `_dinac`. Typer's
# script only defines `_dinac_completion`, so this code calls that function. If the script is
# sourced, this code does nothing.
_ZSH_FIRST_TAB = f"""
if [[ "$funcstack[1]" = "_{PROGRAM}" ]]; then
  _{PROGRAM}_completion "$@"
fi
"""

Shell = Annotated[
    str,
    typer.Argument(
        metavar="SHELL",
        **choices("SHELL", tuple(SCRIPTS)),
        help=f"One of {', '.join(SCRIPTS)}.",
    ),
]


def completions(shell: Shell) -> None:
    """Print the script that lets a shell complete commands, options and their values.

    Installs nothing: save the script in the shell's folder for completions, or source it.
    """
    typer.echo(make_script(shell), nl=False)


def make_script(shell: str) -> str:
    """Returns the completion script of `shell`, a key of `SCRIPTS`."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    script = get_completion_script(prog_name=PROGRAM, complete_var=COMPLETION_VARIABLE, shell=shell)
    return f"{script}\n{_ZSH_FIRST_TAB if shell == 'zsh' else ''}"


def write_scripts(folder: Path) -> None:
    """Writes every shell's script into an existing folder."""
    for shell, name in SCRIPTS.items():
        (folder / name).write_text(make_script(shell), encoding="utf-8", newline="\n")
