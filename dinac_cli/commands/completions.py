"""`dinac completions`, and the scripts that lie in `completions/`."""

from pathlib import Path

import typer

from dinac_cli.commands import options as opt

PROGRAM = "dinac"
COMPLETION_VARIABLE = "_DINAC_COMPLETE"

SCRIPTS = {
    "bash": f"{PROGRAM}.bash",
    "zsh": f"_{PROGRAM}",
    "fish": f"{PROGRAM}.fish",
    "powershell": f"{PROGRAM}.ps1",
}
"""File name of each shell's script."""

# A file on zsh's fpath is run as the function of its name at the first Tab. Typer's script only
# defines another function there, so that Tab would do nothing; sourced, it needs no more.
_ZSH_FIRST_TAB = f"""
if [[ "$funcstack[1]" = "_{PROGRAM}" ]]; then
  _{PROGRAM}_completion "$@"
fi
"""


def completions(shell: opt.Shell) -> None:
    """Print the script that lets a shell complete commands, options and their values.

    Nothing is installed: put it where the shell looks, or source it.
    """
    typer.echo(make_script(shell), nl=False)


def make_script(shell: str) -> str:
    """The completion script of a shell, one of `SCRIPTS`."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    script = get_completion_script(prog_name=PROGRAM, complete_var=COMPLETION_VARIABLE, shell=shell)
    end = _ZSH_FIRST_TAB if shell == "zsh" else ""
    return f"{script}\n{end}"


def write_scripts(folder: Path) -> None:
    """Write every shell's script into an existing folder."""
    for shell, name in SCRIPTS.items():
        (folder / name).write_text(make_script(shell), encoding="utf-8", newline="\n")
