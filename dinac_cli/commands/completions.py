"""Writes the shells' completion scripts: `python -m dinac_cli.commands.completions FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

from typer.completion import get_completion_script  # type: ignore[attr-defined]

from dinac_cli.cli import COMPLETION_VARIABLE, PROGRAM

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


def write_scripts(folder: Path) -> None:
    """Write every shell's script into an existing folder."""
    for shell, name in SCRIPTS.items():
        script = get_completion_script(
            prog_name=PROGRAM, complete_var=COMPLETION_VARIABLE, shell=shell
        )
        end = _ZSH_FIRST_TAB if shell == "zsh" else ""
        (folder / name).write_text(f"{script}\n{end}", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write_scripts(Path(sys.argv[1]))
