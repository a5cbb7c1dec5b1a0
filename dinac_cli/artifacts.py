"""Writes what is made of the command tree: the man page and the completion scripts.

`python -m dinac_cli.artifacts man` writes the page that `dinac man` shows;
`python -m dinac_cli.artifacts completions FOLDER` writes the scripts of every shell.
"""

from __future__ import annotations

import sys
from pathlib import Path

from typer.main import get_command

from dinac_cli import __version__
from dinac_cli.cli import app
from dinac_cli.commands.completions import write_scripts
from dinac_cli.commands.man import MANUAL, make_manual


def write_manual(path: Path = MANUAL) -> None:
    """Write the man page of the whole command tree."""
    page = make_manual(get_command(app), __version__)
    path.write_text(page, encoding="utf-8", newline="\n")


def main(arguments: list[str]) -> int:
    """Write what the first argument names; returns the exit code."""
    if arguments == ["man"]:
        write_manual()
    elif len(arguments) == 2 and arguments[0] == "completions":
        write_scripts(Path(arguments[1]))
    else:
        print("usage: python -m dinac_cli.artifacts man | completions FOLDER", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
